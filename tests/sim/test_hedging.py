"""A second run beside one that is late: who says something first answers, the other is stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from trio.testing import MockClock

from meshd import limits
from meshd.config import RoutingConfig
from meshd.http.sweeper import TICK_S
from meshd.inference import Kind, Request
from meshd.routing.demand import demand_of
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.memory_engine import Dialect, Fault, MemoryEngine
from meshd.testing.world import World, until
from tests.sim.meshes import LATENCY_S, WHOLE, Mesh, pass_time
from tests.sim.test_holders_that_fail import fail

SOON_S = 2 * TICK_S + 20 * LATENCY_S
WORDS = 20


@asynccontextmanager
async def hedging(*, hedge: bool = True, **engine: Any) -> AsyncIterator[Mesh]:
    """A mesh whose entry `a` hedges, and knows what is late: more than `HEDGE_MIN_S`."""
    async with World.open(latency_s=LATENCY_S) as world:
        a = await world.start("a", routing=RoutingConfig(hedge=hedge))
        engines = {"dialect": Dialect.OLLAMA, "tokens_per_s": 100, **engine}
        b, c = [await world.start(name, MemoryEngine("tiny", **engines)) for name in ("b", "c")]
        await world.settled()
        m = Mesh(world, a, b, c)
        for holder in m.holders:  # so that the model is loaded there
            await m.answered(m.ask(holder, max_tokens=1))
        await pass_time(limits.PROBE_MIN_S + 0.5)
        for n in range(limits.HEDGE_WAITS_MIN):
            await m.answered(m.ask(m.a, max_tokens=1, seed=n))
        assert m.a.count("hedges") == 0
        for holder in m.holders:
            m.engine(holder).requests.clear()
        yield m


async def late(m: Mesh, **more: Any) -> tuple[MemoryAnswer, Any]:
    """An answer that is under way at a holder which says nothing, and that holder."""
    for holder in m.holders:
        m.engine(holder).prefill_s = 5.0
    answer = m.ask(m.a, max_tokens=WORDS, **more)
    first = await m.busy()
    m.engine(m.other(first)).prefill_s = 0.0
    return answer, first


def runs(m: Mesh) -> int:
    return sum(len(m.engine(holder).requests) for holder in m.holders)


def is_whole(answer: MemoryAnswer) -> bool:
    return answer.how == "whole" and answer.text.split() == WHOLE.split()[:WORDS]


@pytest.mark.parametrize("stream", [True, False])
async def test_whoever_begins_first_answers_and_the_other_is_stopped_at_once(
    autojump_clock: MockClock, stream: bool
) -> None:
    async with hedging() as m:
        answer, slow = await late(m, stream=stream)
        await until(lambda: runs(m) == 2)
        await until(lambda: m.engine(slow).running == 0, within_s=SOON_S + 0.2)
        await m.answered(answer)
        assert is_whole(answer), answer.error
        assert (answer.holder, answer.attempts) == (m.other(slow).name, 2)
        assert m.engine(slow).cancelled == 1
        assert (m.a.count("hedges"), m.a.count("hedges_won")) == (1, 1)
        assert m.a.count("retries") == 0


async def test_the_first_answers_if_it_begins_after_all(autojump_clock: MockClock) -> None:
    async with hedging() as m:
        for holder in m.holders:
            m.engine(holder).prefill_s = 0.3
        answer = m.ask(m.a, max_tokens=WORDS)
        first = await m.busy()
        m.engine(m.other(first)).prefill_s = 9.0
        await m.answered(answer)
        assert is_whole(answer), answer.error
        assert answer.holder == first.name
        assert (m.a.count("hedges"), m.a.count("hedges_won")) == (1, 0)
        await until(lambda: m.running == 0, within_s=1.0)


async def test_without_being_asked_for_it_nothing_is_hedged(autojump_clock: MockClock) -> None:
    async with hedging(hedge=False) as m:
        answer, slow = await late(m)
        await m.answered(answer)
        assert (answer.holder, runs(m)) == (slow.name, 1)


async def test_a_keyed_request_has_one_run(autojump_clock: MockClock) -> None:
    async with hedging() as m:
        for holder in m.holders:
            m.engine(holder).prefill_s = 2.0
        answer = m.a.client.openai("tiny", "idempotency-key: k", max_tokens=WORDS)
        m.world.nursery.start_soon(answer.run)
        await m.answered(answer)
        assert is_whole(answer), answer.error
        assert runs(m) == 1


async def test_a_model_that_is_being_loaded_is_no_late_one(autojump_clock: MockClock) -> None:
    async with hedging() as m:
        for holder in m.holders:
            engine = m.engine(holder)
            engine.resident, engine.load_s = False, 0.45
        placement = m.a.running.data.placement
        demand = demand_of(Request(Kind.CHAT, "tiny"))
        await until(
            lambda: all(
                placement.before_reading_s(target, demand) > 0.45
                for target in placement.holders("tiny")
            ),
            within_s=3 * limits.PROBE_S,
        )
        answer = await m.answered(m.ask(m.a, max_tokens=WORDS))
        assert is_whole(answer), answer.error
        assert runs(m) == 1, "that it takes half a second was to be expected"


@pytest.mark.parametrize("how", ["daemon killed", "cut off", "engine killed"])
@pytest.mark.parametrize("which", ["first", "second"])
async def test_of_two_runs_one_may_fail(autojump_clock: MockClock, how: str, which: str) -> None:
    async with hedging() as m:
        answer, first = await late(m)
        m.engine(m.other(first)).prefill_s = 5.0
        await until(lambda: runs(m) == 2)
        await pass_time(0.5)
        fail(m, first if which == "first" else m.other(first), how)
        await m.answered(answer)
        assert is_whole(answer), answer.error
        assert runs(m) == 2, "the other one went on"


@pytest.mark.parametrize("hedged", [True, False])
async def test_a_run_that_breaks_off_after_its_first_words_is_gone_on_with(
    autojump_clock: MockClock, hedged: bool
) -> None:
    """Whether it was alone or has won: what the client has is not said again."""
    async with hedging(tokens_per_s=20) as m:
        answer = (await late(m))[0] if hedged else m.ask(m.a, max_tokens=WORDS)
        await until(lambda: len(answer.pieces) > 5)
        fail(m, await m.busy(), "engine killed")
        await m.answered(answer)
        assert is_whole(answer), answer.text
        assert m.a.count("went_on_by_continue") == 1


async def test_when_both_fail_there_is_one_error_and_no_storm(autojump_clock: MockClock) -> None:
    async with hedging() as m:
        for holder in m.holders:
            m.engine(holder).fault, m.engine(holder).fault_stays = Fault.DIE, True
            m.engine(holder).fault_after = 0
        answer, _ = await late(m)
        await m.answered(answer)
        assert (answer.how, answer.status) == ("refused", 502)
        assert runs(m) == 2


async def test_a_client_that_leaves_ends_both(autojump_clock: MockClock) -> None:
    async with hedging() as m:
        answer, first = await late(m)
        m.engine(m.other(first)).prefill_s = 5.0
        await until(lambda: m.running == 2)
        answer.leave()
        await until(lambda: m.running == 0, within_s=1.0)
        assert m.a.count("client_gone") == 1
