"""Requests of whole nodes leave traces: at every node, whoever was asked, whatever happened."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import MockClock

from meshd.testing.world import Machine, World, until
from tests.sim.meshes import WHOLE, engine_of

REQUESTS = "/mesh/v1/requests"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "a secret"}]}


async def listed(machine: Machine, query: str = "") -> list[dict[str, Any]]:
    status, page = await machine.client.call("GET", REQUESTS + query)
    assert status == 200, page
    return list(page["requests"])


async def chat(machine: Machine, **more: Any) -> int:
    status, _ = await machine.client.call("POST", "/v1/chat/completions", CHAT | more)
    return status


async def test_a_request_is_known_at_every_node_with_how_it_went(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a = await world.start("a")
        b = await world.start("b", engine_of("tiny", tokens_per_s=100))
        c = await world.start("c")
        await world.settled()
        answer = a.client.openai("tiny")
        await answer.run()
        assert await chat(a) == 200
        assert await chat(c, model="large") == 404
        await trio.sleep(5)
        for machine in (a, b, c):
            rows = await listed(machine)
            refused = next(row for row in rows if row["entry"] == "c")
            assert (refused["state"], refused["status"]) == ("failed", 404)
            assert refused["model"] == "large:latest"
            whole, streamed = (row for row in rows if row["entry"] == "a")
            for row in (whole, streamed):
                assert (row["state"], row["status"], row["node"]) == ("done", 200, "b")
                assert row["model"] == "tiny:latest"
                assert 0 < row["first_token_ms"] <= row["total_ms"]
                assert row["completion_tokens"] > 0
            assert streamed["streamed"]
            assert "streamed" not in whole
            assert b"secret" not in str(rows).encode()
            assert WHOLE[:8] not in str(rows)
        assert [row["entry"] for row in await listed(b, "?node=b&state=done")] == ["a", "a"]
        assert await listed(b, "?node=c") == []
        one = whole["id"]
        assert await c.client.call("GET", f"{REQUESTS}/{one}") == (200, whole)
        assert (await a.client.call("GET", f"{REQUESTS}/req_none"))[0] == 404
        assert (await a.client.call("GET", f"{REQUESTS}?state=queued"))[0] == 400


async def test_who_failed_and_who_went_away_is_in_it(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        engine = engine_of("tiny", tokens_per_s=1)
        a = await world.start("a")
        await world.start("b", engine)
        await world.settled()
        answer = a.client.openai("tiny")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer.run)
            await until(lambda: len(answer.pieces) >= 2)
            answer.leave()
        await trio.sleep(3)
        [gone] = await listed(a)
        assert (gone["state"], gone["reason"], gone["node"]) == ("cancelled", "cancelled", "b")
        engine.crash()
        assert await chat(a) >= 500
        await trio.sleep(3)
        lost = (await listed(a))[0]
        assert lost["state"] == "failed"
        assert [tried["node"] for tried in lost.get("failed", ())] in ([], ["b"])


async def test_without_a_majority_they_wait_through_a_restart_and_are_told_once(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a = await world.start("a", engine_of("tiny"))
        b, c = await world.start("b"), await world.start("c")
        await world.settled()
        await until(lambda: len(a.running.record.report().voters) == 3)
        b.kill()
        c.kill()
        for _ in range(4):
            assert await chat(a) == 200
            await trio.sleep(10)
        a.terminate()
        await a.until_over()
        await a.start()
        await until(lambda: bool(a.running.data.backends.inventory().backends))
        assert await chat(a) == 200
        await b.start()
        await until(lambda: a.running.record.report().leader != "", within_s=120)
        await trio.sleep(60)
        for machine in (a, b):
            rows = await listed(machine)
            assert len({row["id"] for row in rows}) == len(rows) == 5


async def test_jobs_and_keyed_requests_are_no_requests_and_traces_can_be_off(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a = await world.start("a", engine_of("tiny"), traces=False)
        b = await world.start("b")
        await world.settled()
        assert await chat(a) == 200
        order = {"request": {"path": "/v1/chat/completions", "body": CHAT}}
        status, made = await b.client.call("POST", "/mesh/v1/jobs", order)
        assert status == 201
        await trio.sleep(30)
        status, view = await b.client.call("GET", f"/mesh/v1/jobs/{made['id']}")
        assert (status, view["state"]) == (200, "done")
        assert await listed(b) == []
