"""The queue of whole nodes in memory: put in at one, done by another, whoever dies."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.testing.world import Machine, World, until
from tests.sim.job_orders import CHAT, JOBS, submit, until_state
from tests.sim.meshes import WHOLE, engine_of, three


async def test_a_queued_request_is_run_by_a_node_that_has_the_model(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world, engine_of("tiny"))
        job = await submit(a, request=CHAT)
        for machine in (a, b, c):
            view = await until_state(machine, job, "done")
            assert view["result"]["choices"][0]["message"]["content"] == WHOLE
            assert (view["node"], view["status"], view["queue"]) == ("b", 200, "mesh")


async def test_jobs_wait_for_room_and_each_runs_once(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        engine = engine_of("tiny", slots=2, tokens_per_s=20)
        a, _, _ = await three(world, engine)
        jobs = [await submit(a, request=CHAT) for _ in range(6)]
        for job in jobs:
            await until_state(a, job, "done")
        assert len(engine.requests) == 6


async def test_a_job_whose_node_dies_is_run_by_another(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        slow = [engine_of("tiny", tokens_per_s=8), engine_of("tiny", tokens_per_s=8)]
        a, b, c = await three(world, *slow)
        job = await submit(a, request=CHAT)
        holder = (await until_state(a, job, "claimed"))["node"]
        await trio.sleep(2.0)
        dead = b if holder == "b" else c
        dead.crash()
        view = await until_state(a, job, "done", within_s=120.0)
        assert view["node"] == ("c" if holder == "b" else "b")
        assert [attempt["ended"] for attempt in view["attempts"]] == ["expired"]


async def test_a_cancelled_job_stops_its_generation(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        engine = engine_of("tiny", tokens_per_s=1)
        a, _, _ = await three(world, engine)
        job = await submit(a, request=CHAT)
        await until_state(a, job, "claimed")
        await until(lambda: engine.running == 1)
        status, view = await a.client.call("DELETE", f"{JOBS}/{job}")
        assert (status, view["state"]) == (200, "cancelled")
        await until(lambda: engine.running == 0)
        assert engine.cancelled == 1


async def test_a_job_for_a_model_that_nobody_has_is_taken_and_its_name_remarked_on(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, _, _ = await three(world, engine_of("tiny"))
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


async def test_a_job_is_held_while_its_large_answer_is_stored(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World.open() as world:
        engine = engine_of("tiny", tokens_per_s=50)
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
