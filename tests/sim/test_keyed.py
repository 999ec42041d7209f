"""Requests with an idempotency key, sent to whole nodes in memory: one answer a key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.memory_engine import Dialect, MemoryEngine
from meshd.testing.world import Machine, World, until
from tests.sim.job_orders import JOBS
from tests.sim.meshes import some_text, three

SHORT = {"max_tokens": 8}


def ask(machine: Machine, key: str, *, stream: bool = True, **more: Any) -> MemoryAnswer:
    return machine.client.openai("tiny", f"idempotency-key: {key}", stream=stream, **SHORT, **more)


async def answered(answer: MemoryAnswer) -> MemoryAnswer:
    await answer.run()
    assert answer.how == "whole", (answer.status, answer.error, answer.broken)
    return answer


@pytest.mark.parametrize("stream", [True, False])
async def test_a_repeat_at_any_node_gets_the_stored_answer_byte_for_byte(
    autojump_clock: MockClock, stream: bool
) -> None:
    async with World.open() as world:
        engine = MemoryEngine("tiny")
        a, b, c = await three(world, engine)
        first = await answered(ask(a, "k1", stream=stream))
        for machine in (a, b, c):
            again = await answered(ask(machine, "k1", stream=stream))
            assert again.raw == first.raw
            assert again.headers["x-meshd-replayed"] == "true"
        assert len(engine.requests) == 1


async def test_a_long_answer_is_kept_too_and_outlives_all_nodes(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        engine = MemoryEngine("tiny")
        a, b, c = await three(world, engine)
        first = await answered(a.client.openai("tiny", "idempotency-key: k1"))
        assert len(first.raw) > limits.INLINE_BYTES
        for machine in (a, b, c):
            machine.kill()
            await machine.until_over()
        for machine in (a, b, c):
            await machine.start()
        await world.settled()
        await until(lambda: a.running.record.report().problem == "", within_s=30.0)
        for machine in (a, b, c):
            again = await answered(machine.client.openai("tiny", "idempotency-key: k1"))
            assert again.raw == first.raw
        assert len(engine.requests) == 1


async def test_two_at_once_at_two_nodes_are_one_run(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        engine = MemoryEngine("tiny", tokens_per_s=4)
        a, b, c = await three(world, engine)
        answers = [ask(machine, "k1") for machine in (a, b, c)]
        async with trio.open_nursery() as nursery:
            for answer in answers:
                nursery.start_soon(answered, answer)
        assert len({answer.text for answer in answers}) == 1
        assert len(engine.requests) == 1


async def test_the_same_key_with_another_body_is_refused(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, _ = await three(world, MemoryEngine("tiny"))
        await answered(ask(a, "k1"))
        other = ask(b, "k1", temperature=0.5)
        await other.run()
        assert (other.how, other.status) == ("refused", 422)
        assert "another request" in other.error


async def test_a_client_that_goes_away_finds_its_answer_when_it_comes_back(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        engine = MemoryEngine("tiny", tokens_per_s=4)
        a, b, _ = await three(world, engine)
        async with trio.open_nursery() as nursery:
            first = ask(a, "k1")
            nursery.start_soon(first.run)
            await some_text(first)
            first.leave()
        again = await answered(ask(b, "k1"))
        assert again.text
        assert (len(engine.requests), engine.cancelled) == (1, 0)


async def test_without_a_majority_nothing_runs_and_the_client_is_told_to_repeat(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        engine = MemoryEngine("tiny")
        a, b, c = await three(world, engine)
        a.crash()
        c.crash()
        await until(lambda: "cannot be written" in b.running.record.report().problem, within_s=30.0)
        refused = ask(b, "k1")
        await refused.run()
        assert (refused.how, refused.status) == ("refused", 503)
        assert refused.headers["retry-after"] == "2"
        assert "repeat the request with the same key" in refused.error
        assert engine.requests == []
        unkeyed = b.client.openai("tiny", **SHORT)
        await answered(unkeyed)


async def test_the_last_words_of_a_stream_wait_until_they_are_the_keys_answer(
    autojump_clock: MockClock,
) -> None:
    """The entry is cut off from the others in mid-stream: it may not say that it is whole."""
    async with World.open() as world:
        engine = MemoryEngine("tiny", tokens_per_s=2)
        a, b, c = await three(world, MemoryEngine("other"), engine)
        async with trio.open_nursery() as nursery:
            first = ask(c, "k1")
            nursery.start_soon(first.run)
            await some_text(first)
            world.network.isolate("c")
            await until(lambda: first.over, within_s=60.0)
        assert first.how == "error", (first.text, first.broken)
        assert first.finish is None
        world.network.rejoin("c")
        await until(lambda: a.sees(c))
        again = await answered(ask(a, "k1"))
        assert (await answered(ask(b, "k1"))).raw == again.raw


async def test_what_is_no_key_is_refused(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, _, _ = await three(world, MemoryEngine("tiny"))
        for key in ("k" * 256, "k\u00e9"):
            refused = ask(a, key)
            await refused.run()
            assert (refused.how, refused.status) == ("refused", 400)
            assert "Idempotency-Key must be" in refused.error


async def test_any_inference_request_may_have_a_key(autojump_clock: MockClock) -> None:
    chat = {"messages": [{"role": "user", "content": "Count."}]}
    requests: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": chat | {"max_tokens": 3},
        "/v1/completions": {"prompt": "Count.", "max_tokens": 3},
        "/v1/embeddings": {"input": ["a", "b"]},
        "/api/chat": chat | {"options": {"num_predict": 3}},
        "/api/generate": {"prompt": "Count.", "stream": False, "options": {"num_predict": 3}},
        "/api/embed": {"input": ["a", "b"]},
        "/api/embeddings": {"prompt": "a"},
    }
    async with World.open() as world:
        engine = MemoryEngine("tiny", dialect=Dialect.OLLAMA)
        a, b, _ = await three(world, engine)
        for path, body in requests.items():
            # One key for all would be refused: the path is part of what it stands for.
            key = f"idempotency-key: {path}"
            first, again = [m.client.post(path, {"model": "tiny", **body}, key) for m in (a, b)]
            for answer in (first, again):
                await answer.run()
                assert (answer.status, answer.broken) == (200, ""), (path, answer.raw)
            assert again.raw == first.raw
            assert "x-meshd-replayed" not in first.headers
            assert again.headers["x-meshd-replayed"] == "true"
        assert len(engine.requests) == len(requests)


async def test_what_a_key_stands_for_is_told_when_nobody_has_the_model_any_more(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        engine = MemoryEngine("tiny")
        a, b, _ = await three(world, MemoryEngine("other"), engine)
        first = await answered(ask(a, "k1"))
        engine.model = "renamed"
        await until(lambda: not b.running.data.placement.catalogue.holders("tiny"))
        assert (await answered(ask(b, "k1"))).raw == first.raw
        for _ in range(2):
            unknown = b.client.openai("nobodys", "idempotency-key: k2")
            await unknown.run()
            assert unknown.status == 404
        # Nothing was noted of that: the key is free for what there is.
        await answered(b.client.openai("other", "idempotency-key: k2"))


async def test_when_it_is_not_known_whether_a_key_was_noted_nothing_runs_and_a_repeat_finds_out(
    autojump_clock: MockClock,
) -> None:
    """The leader hears the entry, which hears nothing any more."""
    async with World.open() as world:
        engine = MemoryEngine("tiny")
        a, b, c = await three(world, MemoryEngine("other"), engine)
        await answered(ask(b, "before"))
        for other in ("a", "c"):
            world.network.partition(other, "b", one_way=True)
        unknown = ask(b, "k1")
        await unknown.run()
        assert (unknown.how, unknown.status) == ("refused", 503)
        assert unknown.headers["retry-after"] == "2"
        assert "not known whether that was written" in unknown.error
        assert "Nothing ran; repeat the request with the same key." in unknown.error
        assert len(engine.requests) == 1
        keys = a.running.record.ledger.state.jobs.keys
        assert keys.get("local", "k1") is not None, "it was noted"
        for other in ("a", "c"):
            world.network.heal(other, "b")
        await until(lambda: b.sees(c), within_s=30.0)
        again = await answered(ask(b, "k1"))
        assert (await answered(ask(a, "k1"))).raw == again.raw
        assert len(engine.requests) == 2


@pytest.mark.parametrize("drain_s", [0.5, 30.0])
async def test_a_node_that_stops_tells_those_whose_key_the_record_is_still_asked_about(
    autojump_clock: MockClock, drain_s: float
) -> None:
    """It cannot be reached, so nothing else is under way at this node."""
    async with World.open() as world:
        a, *_ = await three(world, MemoryEngine("tiny"))
        a.kill()
        await a.until_over()
        a.config = replace(a.config, drain_timeout_s=drain_s)
        await a.start()
        await world.settled()
        world.network.isolate("a")
        answer = ask(a, "k1")
        world.nursery.start_soon(answer.run)
        await until(lambda: answer.sent)
        await trio.sleep(0.1)
        a.terminate()
        await until(lambda: answer.over)
        assert (answer.how, answer.status) == ("refused", 503), answer.broken
        assert "with the same key" in answer.error


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("tokens_per_s", [1.0, 5.0])
async def test_a_node_that_stops_tells_those_whose_answer_the_record_cannot_take(
    autojump_clock: MockClock, stream: bool, tokens_per_s: float
) -> None:
    """Its answer is there, or breaks off, and the others cannot be reached."""
    async with World.open() as world:
        _, b, _ = await three(world, MemoryEngine("tiny", tokens_per_s=tokens_per_s))
        b.kill()
        await b.until_over()
        b.config = replace(b.config, drain_timeout_s=2.0)
        await b.start()
        await world.settled()
        answer = ask(b, "k1", stream=stream)
        world.nursery.start_soon(answer.run)
        await until(lambda: b.engines[0].running == 1)
        world.network.isolate("b")
        await trio.sleep(1.0)
        b.terminate()
        await until(lambda: answer.over)
        assert answer.how == ("error" if stream else "refused"), (answer.how, answer.broken)
        assert "this node was stopped" in answer.error or "with the same key" in answer.error


async def test_a_node_that_stops_tells_those_who_ask_for_the_stream_of_a_job_it_has_not_heard_of(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        _, b, c = await three(world, MemoryEngine("tiny", tokens_per_s=1), drain_timeout_s=0.3)
        world.network.isolate("c")
        await trio.sleep(1.0)
        first = ask(b, "k1")
        world.nursery.start_soon(first.run)
        await some_text(first, 1)
        stream = c.client.stream(f"{JOBS}/{first.headers['x-meshd-job']}/stream")
        world.nursery.start_soon(stream.run)
        await trio.sleep(0.2)
        c.terminate()
        await until(lambda: stream.over)
        assert (stream.how, stream.status) == ("refused", 503), stream.broken
        assert "this node was stopped" in stream.error


async def test_a_node_that_stops_tells_those_for_whom_it_asks_a_holder_that_does_not_answer(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, _ = await three(world, MemoryEngine("tiny", tokens_per_s=1), drain_timeout_s=0.1)
        await a.client.openai("tiny", max_tokens=1).run()  # over a link that a keeps for the next
        first = ask(b, "k1")
        world.nursery.start_soon(first.run)
        await some_text(first, 1)
        world.network.partition("a", "b")
        again = ask(a, "k1")
        world.nursery.start_soon(again.run)
        await trio.sleep(0.3)
        a.terminate()
        await until(lambda: again.over)
        assert (again.how, again.status) == ("refused", 503), again.broken
        assert "this node was stopped" in again.error
