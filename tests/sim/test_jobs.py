"""The queue of whole nodes in memory: put in at one, done by another, whoever dies."""

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
from meshd.testing.memory_engine import MemoryEngine
from meshd.testing.world import Machine, World, until
from tests.sim.meshes import WHOLE

CHAT = {
    "path": "/v1/chat/completions",
    "body": {"model": "tiny", "messages": [{"role": "user", "content": "Say something."}]},
}
JOBS = "/mesh/v1/jobs"


async def three(world: World, *engines: MemoryEngine) -> tuple[Machine, Machine, Machine]:
    """Three nodes with three votes; `b` and `c` have an engine if given."""
    b_engines, c_engines = engines[:1], engines[1:2]
    a = await world.start("a")
    b, c = await world.start("b", *b_engines), await world.start("c", *c_engines)
    await world.settled()

    def votes(machine: Machine) -> int:
        rows = machine.running.record.report().voters
        return sum(row.part in ("leads", "votes") for row in rows)

    await until(lambda: all(votes(m) == 3 for m in (a, b, c)), within_s=60.0)
    return a, b, c


async def submit(machine: Machine, **order: Any) -> str:
    status, made = await machine.client.call("POST", JOBS, order)
    assert status == 201, made
    return str(made["id"])


async def until_state(machine: Machine, job: str, state: str, within_s: float = 60.0) -> Any:
    give_up_at = trio.current_time() + within_s
    while True:
        status, view = await machine.client.call("GET", f"{JOBS}/{job}")
        if status == 200 and view["state"] == state:
            return view
        assert trio.current_time() < give_up_at, (status, view)
        await trio.sleep(0.1)


async def test_a_queued_request_is_run_by_a_node_that_has_the_model(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world, MemoryEngine("tiny"))
        job = await submit(a, request=CHAT)
        for machine in (a, b, c):
            view = await until_state(machine, job, "done")
            assert view["result"]["choices"][0]["message"]["content"] == WHOLE
            assert (view["node"], view["status"], view["queue"]) == ("b", 200, "mesh")


async def test_jobs_wait_for_room_and_each_runs_once(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        engine = MemoryEngine("tiny", slots=2, tokens_per_s=20)
        a, _, _ = await three(world, engine)
        jobs = [await submit(a, request=CHAT) for _ in range(6)]
        for job in jobs:
            await until_state(a, job, "done")
        assert len(engine.requests) == 6


async def test_a_job_whose_node_dies_is_run_by_another(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        slow = [MemoryEngine("tiny", tokens_per_s=8), MemoryEngine("tiny", tokens_per_s=8)]
        a, b, c = await three(world, *slow)
        job = await submit(a, request=CHAT)
        holder = (await until_state(a, job, "claimed"))["node"]
        await trio.sleep(2.0)
        dead = b if holder == "b" else c
        dead.crash()
        view = await until_state(a, job, "done", within_s=120.0)
        assert view["node"] == ("c" if holder == "b" else "b")
        assert [attempt["ended"] for attempt in view["attempts"]] == ["expired"]


async def test_a_worker_claims_renews_and_completes_at_different_nodes(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        claimed: list[Any] = []

        async def worker() -> None:
            order = {"worker": "bot", "lease_s": 5, "wait_s": 30}
            claimed.append(await b.client.call("POST", "/mesh/v1/queues/chat/claim", order))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker)
            await trio.sleep(3.0)
            job = await submit(a, queue="chat", payload={"text": "hello"})
        [(status, answer)] = claimed
        assert status == 200
        [view] = answer["jobs"]
        assert (view["id"], view["worker"], view["request"]) == (job, "bot", {"text": "hello"})
        held = {"job": job, "fence": view["fence"]}
        for _ in range(3):  # longer than a lease, all in all
            await trio.sleep(3.0)
            renew = await c.client.call("POST", "/mesh/v1/queues/chat/renew", held | {"lease_s": 5})
            assert renew == (200, {})
        done = await a.client.call("POST", "/mesh/v1/queues/chat/complete", held | {"result": "hi"})
        assert done == (200, {})
        assert (await until_state(b, job, "done"))["result"] == "hi"


async def test_what_is_too_large_for_the_log_is_asked_for_worked_on_and_told_all_the_same(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        engine = MemoryEngine("tiny")
        a, b, c = await three(world, engine)
        text = "Say something. " * 1000
        body = {"model": "tiny", "messages": [{"role": "user", "content": text}]}
        job = await submit(a, request=CHAT | {"body": body})
        await until_state(c, job, "done")
        assert text in str(engine.requests)
        payload, result = {"text": "x" * 100_000}, ["y" * 200_000]
        job = await submit(a, queue="chat", payload=payload)
        _, page = await a.client.call("GET", f"{JOBS}?queue=chat")
        assert page["jobs"][0]["request_size_bytes"] > 100_000
        assert "request" not in page["jobs"][0]
        assert (await until_state(a, job, "queued"))["request"] == payload
        _, answer = await c.client.call("POST", "/mesh/v1/queues/chat/claim", {"wait_s": 5})
        [view] = answer["jobs"]
        assert view["request"] == payload
        held = {"job": job, "fence": view["fence"], "result": result}
        late = held | {"fence": view["fence"] - 1}
        assert (await b.client.call("POST", "/mesh/v1/queues/chat/complete", late))[0] == 409
        assert (await b.client.call("POST", "/mesh/v1/queues/chat/complete", held))[0] == 200
        for machine in (a, b, c):
            assert (await until_state(machine, job, "done"))["result"] == result


async def test_a_job_whose_payload_is_away_is_not_handed_out_and_waits(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, _, _ = await three(world)
        job = await submit(a, queue="chat", payload="x" * 10_000)
        service = a.running.jobs
        kept = service.blobs.get

        async def away(_: bytes) -> None:
            await trio.sleep(3600)

        service.blobs.get = away  # type: ignore[method-assign, assignment]
        claim = {"lease_s": 20, "wait_s": 2}
        _, answer = await a.client.call("POST", "/mesh/v1/queues/chat/claim", claim)
        assert answer == {"jobs": []}
        service.blobs.get = kept  # type: ignore[method-assign]
        claim = {"lease_s": 20, "wait_s": 30}
        _, answer = await a.client.call("POST", "/mesh/v1/queues/chat/claim", claim)
        assert [view["id"] for view in answer["jobs"]] == [job]
        assert [tried["ended"] for tried in answer["jobs"][0]["attempts"]] == ["released"]


async def test_a_worker_that_falls_silent_loses_the_job_and_may_not_complete_it(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, _ = await three(world)
        job = await submit(a, queue="chat", payload=1)
        claim = {"worker": "one", "lease_s": 2}
        _, first = await a.client.call("POST", "/mesh/v1/queues/chat/claim", claim)
        await until_state(b, job, "queued")
        claim = {"worker": "two", "lease_s": 30, "wait_s": 10}
        _, second = await b.client.call("POST", "/mesh/v1/queues/chat/claim", claim)
        assert second["jobs"][0]["fence"] > first["jobs"][0]["fence"]
        late = {"job": job, "fence": first["jobs"][0]["fence"], "result": "late"}
        status, error = await a.client.call("POST", "/mesh/v1/queues/chat/complete", late)
        assert (status, error["error"]["code"]) == (409, "old_fence")
        in_time = {"job": job, "fence": second["jobs"][0]["fence"], "result": "in time"}
        assert (await b.client.call("POST", "/mesh/v1/queues/chat/complete", in_time))[0] == 200
        assert (await until_state(a, job, "done"))["result"] == "in time"


async def test_a_cancelled_job_stops_its_generation(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        engine = MemoryEngine("tiny", tokens_per_s=1)
        a, _, _ = await three(world, engine)
        job = await submit(a, request=CHAT)
        await until_state(a, job, "claimed")
        await until(lambda: engine.running == 1)
        status, view = await a.client.call("DELETE", f"{JOBS}/{job}")
        assert (status, view["state"]) == (200, "cancelled")
        await until(lambda: engine.running == 0)
        assert engine.cancelled == 1


async def test_what_cannot_be_done_is_dead_after_its_attempts_and_can_be_retried(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, _, _ = await three(world)
        job = await submit(a, queue="chat", payload=1, max_attempts=2)
        for _ in range(2):
            claim = {"worker": "bot", "lease_s": 5, "wait_s": 30}
            _, answer = await a.client.call("POST", "/mesh/v1/queues/chat/claim", claim)
            held = {"job": job, "fence": answer["jobs"][0]["fence"], "reason": "no luck"}
            assert (await a.client.call("POST", "/mesh/v1/queues/chat/fail", held))[0] == 200
        view = await until_state(a, job, "dead")
        assert [attempt["reason"] for attempt in view["attempts"]] == ["no luck", "no luck"]
        status, view = await a.client.call("POST", f"{JOBS}/{job}/retry", {})
        assert (status, view["state"]) == (200, "queued")


async def test_the_queue_of_requests_to_models_is_not_for_workers(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, _, _ = await three(world)
        await submit(a, request=CHAT)
        for path, order in (
            ("/mesh/v1/queues/mesh/claim", {"worker": "bot"}),
            (JOBS, {"queue": "mesh", "payload": 1}),
        ):
            status, answer = await a.client.call("POST", path, order)
            assert status == 400
            assert "need a queue of another name" in answer["error"]["message"]


async def test_a_job_for_a_model_that_nobody_has_is_taken_and_its_name_remarked_on(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, _, _ = await three(world, MemoryEngine("tiny"))
        catalogue = a.running.data.placement.catalogue
        await until(lambda: bool(catalogue.holders("tiny")), within_s=60.0)
        put_in = a.running.jobs.orders.routes()["POST", "/control/jobs/submit"]

        async def note(model: str) -> str:
            request = {**CHAT, "body": {**CHAT["body"], "model": model}}  # type: ignore[dict-item]
            made = await put_in(msgspec.json.encode({"request": request}))
            return str(made.note)

        assert await note("tiny") == ""
        assert "has the model tyny now" in (said := await note("tyny"))
        assert said.endswith("; there is tiny")
        assert "there is" not in await note("qqqqqqqq")


async def test_not_before_and_deadlines_follow_the_record_clock(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, _, _ = await three(world)
        later = await submit(a, queue="chat", payload=1, delay_s=60)
        late = await submit(a, queue="other", payload=1, deadline_s=30)
        claim = {"worker": "bot"}
        assert (await a.client.call("POST", "/mesh/v1/queues/chat/claim", claim))[1] == {"jobs": []}
        await until_state(a, late, "dead", within_s=60.0)
        claim = {"worker": "bot", "wait_s": 60}
        _, answer = await a.client.call("POST", "/mesh/v1/queues/chat/claim", claim)
        assert [view["id"] for view in answer["jobs"]] == [later]


async def test_delays_and_deadlines_count_from_now_though_the_mesh_was_idle(
    autojump_clock: MockClock,
) -> None:
    """The record clock stands still while nothing is written."""
    async with World.open() as world:
        machines = a, _, _ = await three(world)
        await trio.sleep(30.0)  # until the clock has followed what was written
        for machine in machines:  # asleep all at once: days that take no time here
            machine.clock.wake_after(2 * 86_400)
        await trio.sleep(5.0)
        later = await submit(a, queue="chat", payload=1, delay_s=60)
        late = await submit(a, queue="other", payload=1, deadline_s=60)
        began = trio.current_time()
        await trio.sleep(30)
        assert (await until_state(a, late, "queued"))["queue"] == "other"
        claim = {"worker": "bot", "wait_s": 60}
        _, answer = await a.client.call("POST", "/mesh/v1/queues/chat/claim", claim)
        assert [view["id"] for view in answer["jobs"]] == [later]
        assert 55 < trio.current_time() - began < 75
        await until_state(a, late, "dead")


async def test_the_same_dedupe_key_is_the_same_job(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, _ = await three(world)
        order = {"queue": "chat", "payload": 1, "dedupe_key": "message-7"}
        first = await a.client.call("POST", JOBS, order)
        again = await b.client.call("POST", JOBS, order)
        assert (first[0], again[0]) == (201, 200)
        assert first[1]["id"] == again[1]["id"]


async def test_a_broadcast_is_one_job_for_each_node(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        status, made = await a.client.call(
            "POST", JOBS, {"queue": "pull", "payload": "model", "to": {"all": True}}
        )
        assert (status, made["jobs"]) == (201, 3)
        got = set()
        for machine in (a, b, c):
            claim = {"worker": machine.name, "wait_s": 5}
            _, answer = await machine.client.call("POST", "/mesh/v1/queues/pull/claim", claim)
            got |= {view["id"] for view in answer["jobs"]}
            assert [view["to"] for view in answer["jobs"]] == [machine.name]
        assert len(got) == 3


async def test_without_a_majority_a_job_is_refused_and_says_so(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        b.crash()
        c.crash()
        for payload in (1, "x" * 10_000):
            status, error = await a.client.call("POST", JOBS, {"queue": "chat", "payload": payload})
            assert (status, error["error"]["code"]) == (503, "record_not_available")
        assert await a.client.call("GET", f"{JOBS}?queue=chat") == (200, {"jobs": [], "after": ""})
        status, error = await a.client.call("GET", f"{JOBS}?read=linear")
        assert status == 503
        assert "2 of its 3 voters are needed" in error["error"]["message"]


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


async def test_a_job_with_an_idempotency_key_is_put_in_once_at_any_node_also_when_it_is_over(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, _ = await three(world)

        async def put(machine: Machine, payload: int, key: bytes = b"k") -> tuple[int, Any]:
            headers = [(b"content-type", b"application/json"), (b"idempotency-key", key)]
            body = msgspec.json.encode({"queue": "pull", "payload": payload})
            answer = await machine.client._http.request("POST", JOBS, headers, body)
            return answer.status, msgspec.json.decode(await answer.read(limits.MIB))

        status, made = await put(a, 1)
        assert (status, made["new"]) == (201, True)
        assert await put(b, 1) == (200, {**made, "new": False})
        assert (await put(b, 2))[0] == 422
        assert (await put(b, 1, b"\x01"))[0] == 400
        await a.client.call("DELETE", f"{JOBS}/{made['id']}")
        assert await put(b, 1) == (200, {**made, "state": "cancelled", "new": False})


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
        assert (await refused("GET", f"{JOBS}?limit=0"))[0] == 400
        assert (await refused("GET", f"{JOBS}?state=green"))[0] == 400
        lease = {"job": job_name(1024), "fence": 1, "lease_s": -1}
        assert (await refused("POST", "/mesh/v1/queues/chat/renew", lease))[0] == 400


async def test_the_command_lines_orders_are_those_of_the_api(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, _ = await three(world, MemoryEngine("tiny", tokens_per_s=20))
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
        a, b, _ = await three(world, MemoryEngine("tiny"))
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
    monkeypatch.setattr(limits, "INLINE_BYTES", 2048)
    async with World.open() as world:
        a, b, _ = await three(world, MemoryEngine("tiny"))
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
            assert b.running.jobs.service.end_of(parse_job_name(view["id"]) or 0) is None
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


async def test_a_job_is_held_while_its_large_answer_is_stored(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World.open() as world:
        engine = MemoryEngine("tiny", tokens_per_s=50)
        a, b, _ = await three(world, engine)
        blobs, puts = b.running.jobs.blobs, list[int]()
        put = blobs.put

        async def slow_put(data: bytes) -> bytes:
            puts.append(len(data))
            await trio.sleep(2 * limits.JOB_LEASE_S)
            return await put(data)

        monkeypatch.setattr(blobs, "put", slow_put)
        job = await submit(a, request=CHAT)
        monkeypatch.setattr(limits, "INLINE_BYTES", 64)  # so that its answer is a large one
        view = await until_state(a, job, "done", within_s=120.0)
        assert "attempts" not in view
        assert (len(puts), len(engine.requests)) == (1, 1)
