"""Workers that take jobs over HTTP: claims, leases, results, and what they fail at."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd.record.commands_jobs import ClaimNext, Release
from meshd.record.commands_registry import Command
from meshd.testing.world import World
from tests.sim.job_orders import CHAT, JOBS, submit, until_state
from tests.sim.meshes import engine_of, three


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
        engine = engine_of("tiny")
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


async def test_a_claim_that_is_over_before_its_worker_can_be_told_is_not_handed_out(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World.open() as world:
        a, b, _ = await three(world)
        job = await submit(a, queue="chat", payload=1)
        ledger = a.running.record.ledger
        execute, claims = ledger.execute, 0

        async def slowly(command: Command) -> dict[str, Any]:
            nonlocal claims
            told = await execute(command)
            if isinstance(command, ClaimNext) and not (claims := claims + 1) > 1:
                back = Release(job=told["jobs"][0], fence=told["fence"], pause_ms=0)
                await b.running.record.ledger.execute(back)
                await trio.sleep(1.0)
            return told

        monkeypatch.setattr(ledger, "execute", slowly)
        claim = {"lease_s": 20, "wait_s": 30}
        _, answer = await a.client.call("POST", "/mesh/v1/queues/chat/claim", claim)
        [view] = answer["jobs"]
        assert (view["id"], view["state"], claims) == (job, "claimed", 2)
        held = {"job": job, "fence": view["fence"]}
        assert (await a.client.call("POST", "/mesh/v1/queues/chat/complete", held))[0] == 200
