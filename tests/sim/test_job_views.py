"""What is told of jobs: one, pages of them, their events, and what is said to bad requests."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.errors import Refused
from meshd.http import ServerRequest
from meshd.jobs.service import NoSuchJob
from meshd.record.job_rows import job_name, parse_job_name
from meshd.testing.world import Machine, World, until
from tests.sim.job_orders import CHAT, JOBS, submit, until_state
from tests.sim.meshes import engine_of, three


class Watcher:
    """A client of a job's events that is slow to take the first one."""

    def __init__(self, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self.text = ""
        self.over = False
        self._meanwhile = meanwhile

    async def start(self, *_: object) -> None:
        await trio.lowlevel.checkpoint()

    async def write(self, data: bytes) -> None:
        if not self.text:
            await self._meanwhile()
        self.text += data.decode()

    async def finish(self) -> None:
        self.over = True


async def watch(machine: Machine, job: str, meanwhile: Callable[[], Awaitable[object]]) -> Watcher:
    watcher = Watcher(meanwhile)
    request = ServerRequest("GET", f"{JOBS}/{job}/events", "", [], b"")
    await machine.running.jobs.api.handle(request, watcher, [])  # type: ignore[arg-type]
    return watcher


async def test_an_end_that_comes_while_an_event_is_sent_is_told_at_once(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, _, _ = await three(world)
        job = await submit(a, queue="chat", payload=1)
        began = trio.current_time()
        watcher = await watch(a, job, lambda: a.running.jobs.service.cancel(job))
        assert '"cancelled"' in watcher.text
        assert watcher.over
        assert trio.current_time() - began < 1.0


async def test_events_of_a_job_that_is_forgotten_meanwhile_end_with_why(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World.open() as world:
        a, _, _ = await three(world)
        job = await submit(a, queue="chat", payload=1)

        async def forget() -> None:
            async def gone(_: str) -> None:
                raise NoSuchJob("it is not remembered any more")

            monkeypatch.setattr(a.running.jobs.service, "get", gone)
            await submit(a, queue="chat", payload=2)

        watcher = await watch(a, job, forget)
        assert 'event: error\ndata: {"error"' in watcher.text
        assert "not remembered" in watcher.text
        assert watcher.over


async def test_bad_requests_are_refused_with_what_is_wrong(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BLOB_BYTES", limits.MIB)
    async with World.open() as world:
        a = await world.start("a")
        await until(lambda: a.running.record.ledger.state.nodes.is_founded)

        async def refused(method: str, path: str, body: Any = None) -> tuple[int, str]:
            status, error = await a.client.call(method, path, body)
            return status, error["error"]["message"]

        for order, status, words in (
            ({}, 400, "either a request"),
            ({"payload": 1}, 400, "needs a queue"),
            ({"queue": "q" * 10_000, "payload": 1}, 400, "queue's name"),
            ({"queue": "chat\n", "payload": 1}, 400, "queue's name"),
            ({"queue": "chat", "payload": 1, "dedupe_key": "\x1b"}, 400, "dedupe_key"),
            ({"queue": "chat", "payload": "x" * (2 * limits.MIB)}, 413, "1 MiB"),
            ({"request": {"path": "/v1/models", "body": {}}}, 400, "path"),
            ({"request": {"path": "/v1/completions", "body": {}}}, 400, "name a model"),
            ({"queue": "chat", "payload": 1, "colour": "green"}, 400, "colour"),
            ({"queue": "chat", "payload": 1, "max_attempts": 0}, 400, "max_attempts"),
            ({"queue": "chat", "payload": 1, "to": {"label": "gpu"}}, 404, "label"),
        ):
            got = await refused("POST", JOBS, order)
            assert got[0] == status, (order, got)
            assert words in got[1], (order, got)
        assert (await refused("GET", f"{JOBS}/j1"))[0] == 404
        assert (await refused("GET", f"{JOBS}/nonsense"))[0] == 404
        assert (await refused("PUT", JOBS))[0] == 405
        assert (await refused("GET", "/mesh/v1/nothing"))[0] == 404
        for limit in ("0", "501", "x", "%C2%B2", "9" * 5000):
            assert (await refused("GET", f"{JOBS}?limit={limit}"))[0] == 400, limit
        assert (await refused("GET", f"{JOBS}?state=green"))[0] == 400
        lease = {"job": job_name(1024), "fence": 1, "lease_s": -1}
        assert (await refused("POST", "/mesh/v1/queues/chat/renew", lease))[0] == 400


async def test_a_page_of_this_machine_may_ask_for_jobs_and_no_other(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a = await world.start("a")
        job = f"{JOBS}/{job_name(1024)}"
        for path, origin, status in (
            (f"{job}/stream", b"http://localhost:3000", 204),
            (job, b"http://localhost:3000", 204),
            (job, b"https://evil.example", 403),
        ):
            headers = [(b"origin", origin), (b"access-control-request-method", b"DELETE")]
            answer = await a.client._http.request("OPTIONS", path, headers)
            assert answer.status == status, (path, origin)
            allowed = answer.header(b"access-control-allow-methods")
            assert (allowed is not None and b"DELETE" in allowed) == (status == 204)


async def test_the_command_lines_orders_are_those_of_the_api(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, _ = await three(world, engine_of("tiny", tokens_per_s=20))
        routes = a.running.jobs.orders.routes()

        async def order(name: str, **fields: Any) -> Any:
            answer = await routes["POST", f"/control/jobs{name}"](msgspec.json.encode(fields))
            return msgspec.to_builtins(answer)

        made = await order("/submit", request=CHAT)
        assert (made["jobs"], made["state"], made["new"]) == (1, "queued", True)
        [row] = (await order(""))["jobs"]
        assert row["id"] == made["id"]
        before = trio.current_time()
        assert (await order("/show", id=made["id"], wait_s=0.5))["state"] == "claimed"
        assert trio.current_time() - before == pytest.approx(0.5)
        view = await order("/show", id=made["id"], wait_s=30.0)
        assert view["state"] == "done"
        assert view == await until_state(b, made["id"], "done")
        assert (await order(""))["jobs"] == []
        assert [row["id"] for row in (await order("", state="done"))["jobs"]] == [made["id"]]
        other = await order("/submit", queue="chat", payload=1)
        assert (await order("/cancel", id=other["id"]))["state"] == "cancelled"
        for path, fields, words in (
            ("/cancel", {"id": other["id"]}, "no such job, or it is over"),
            ("/retry", {"id": other["id"]}, "No dead job"),
            ("/show", {"id": "nonsense"}, "no id of a job"),
            ("", {"limit": 0}, "limit"),
            ("", {"state": "green"}, "no state of a job"),
        ):
            with pytest.raises(Refused, match=words):
                await order(path, **fields)


async def test_finished_jobs_are_listed_by_their_state(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, _ = await three(world, engine_of("tiny"))
        done = [await submit(a, request=CHAT) for _ in range(3)]
        for job in done:
            await until_state(b, job, "done")
        gone = await submit(a, queue="chat", payload=1)
        await a.client.call("DELETE", f"{JOBS}/{gone}")
        await until_state(b, gone, "cancelled")

        async def ids(query: str) -> list[str]:
            _, page = await b.client.call("GET", f"{JOBS}?{query}")
            return [view["id"] for view in page["jobs"]]

        assert await ids("state=done") == done[::-1], "the newest first"
        _, first = await b.client.call("GET", f"{JOBS}?state=done&limit=2")
        assert await ids(f"state=done&after={first['after']}") == done[:1]
        assert await ids("state=done&model=other") == []
        assert await ids("state=cancelled") == [gone]
        assert await ids("state=failed") == []
        assert await ids("state=done&node=b") == done[::-1]
        assert await ids("state=done&node=c") == []
        status, error = await b.client.call("GET", f"{JOBS}?node=nobody")
        assert (status, "No node is called" in error["error"]["message"]) == (400, True)


async def test_a_full_queue_is_refused_and_says_when_to_come_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "JOBS_QUEUED", 2)
    async with World.open() as world:
        a = await world.start("a")
        for number in range(2):
            await submit(a, queue="chat", payload=number)
        url = Told(a, "POST", JOBS, {"queue": "chat", "payload": 2})
        await url.run()
        assert url.status == 429
        assert int(url.headers[b"retry-after"]) >= 1


async def test_a_read_says_how_much_of_the_record_it_rests_on_and_how_old_that_is(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        d = await world.start("d")  # has no vote, and follows those who have
        job = await submit(a, queue="chat", payload=1)
        await until_state(d, job, "queued")
        await trio.sleep(30)
        indexes, ages = [], []
        for machine in (a, b, c, d):
            told = Told(machine, "GET", f"{JOBS}/{job}")
            await told.run()
            indexes.append(int(told.headers[b"x-meshd-index"]))
            ages.append(int(told.headers[b"x-meshd-age-ms"]))
        assert len(set(indexes)) == 1
        assert max(ages[:3]) < 1000
        assert ages[3] < 10_000
        a.crash()
        c.crash()
        await trio.sleep(60)
        told = Told(b, "GET", f"{JOBS}/{job}")
        await told.run()
        assert int(told.headers[b"x-meshd-index"]) == indexes[0]
        assert 59_000 < int(told.headers[b"x-meshd-age-ms"]) < 62_000


class Told:
    """An answer of the jobs' API with its head."""

    def __init__(self, machine: Machine, method: str, path: str, body: Any = None) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._api = machine.running.jobs.api
        data = b"" if body is None else msgspec.json.encode(body)
        self._request = ServerRequest(method, path, "", [], data)

    async def run(self) -> None:
        await self._api.handle(self._request, self, [])  # type: ignore[arg-type]

    async def send(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status, self.headers = status, dict(headers)
        await trio.lowlevel.checkpoint()


async def test_what_is_long_over_is_told_as_it_was(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the history, once memory has let it go; and large results by who keeps them."""
    monkeypatch.setattr(limits, "INLINE_BYTES", 800)
    async with World.open() as world:
        a, b, _ = await three(world, engine_of("tiny"))
        job = await submit(a, queue="chat", payload=1)
        for end in ("fail", "complete"):
            claim = {"worker": "bot", "wait_s": 30}
            _, answer = await a.client.call("POST", "/mesh/v1/queues/chat/claim", claim)
            held = {"job": job, "fence": answer["jobs"][0]["fence"], "reason": "no luck"}
            held |= {"result": {"posted": True}} if end == "complete" else {}
            assert (await a.client.call("POST", f"/mesh/v1/queues/chat/{end}", held))[0] == 200
        large = await submit(a, request=CHAT)
        was = [await until_state(b, name, "done") for name in (job, large)]
        assert len(json.dumps(was[1]["result"])) > limits.INLINE_BYTES
        monkeypatch.setattr(limits, "JOBS_RECENT", 0)
        other = await submit(a, queue="chat", payload=2)
        await a.client.call("DELETE", f"{JOBS}/{other}")
        await until_state(b, other, "cancelled")
        for view in was:
            assert parse_job_name(view["id"]) not in b.running.jobs.service._recent
            _, now = await b.client.call("GET", f"{JOBS}/{view['id']}")
            for field in ("state", "queue", "node", "accepted_unix_s", "finished_unix_s", "result"):
                assert now[field] == view[field], field
            assert tries_of(now) == tries_of(view)


def tries_of(view: Any) -> list[Any]:
    return [(tried["node"], tried["ended"], tried["reason"]) for tried in view.get("attempts", ())]


async def test_a_node_that_has_just_started_does_not_deny_a_job_that_there_is(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        job = await submit(a, queue="chat", payload=1)
        for machine in (a, b, c):
            machine.crash()
            await machine.until_over()
        await a.start()
        status, error = await a.client.call("GET", f"{JOBS}/{job}")
        assert (status, error["error"]["code"]) == (503, "record_not_available")
        await b.start()
        await until_state(a, job, "queued")
