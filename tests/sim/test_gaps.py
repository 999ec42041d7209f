"""How long a client waits in the middle of its stream when something fails.

The goals (in virtual time, so exact): after a death that shows itself no more than the new holder's
time to its first token; after a silent cut HOLDER_SILENT_S besides; after an engine that froze the
watchdog's time besides.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.http.sweeper import TICK_S
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.memory_engine import Dialect, MemoryEngine
from meshd.testing.world import World, until
from tests.sim.meshes import LATENCY_S, WHOLE, Mesh, mesh, pass_time, some_text
from tests.sim.test_holders_that_fail import fail

SOON_S = 2 * TICK_S + 10 * LATENCY_S
PREFILL_S = 0.3
TOKEN_S = 1 / 20
ENGINE = {"tokens_per_s": 1 / TOKEN_S, "prefill_s": PREFILL_S, "dialect": Dialect.OLLAMA}


def gap_s(answer: MemoryAnswer) -> float:
    """The longest time without a word, less what the next holder needs for its first."""
    longest_s = max(b - a for a, b in zip(answer.pieces, answer.pieces[1:], strict=False))
    return longest_s - PREFILL_S - TOKEN_S


async def disturbed(m: Mesh, how: str) -> MemoryAnswer:
    """An answer in whose middle this happened, when it is over."""
    answer = m.ask(m.a)
    await some_text(answer)
    holder = await m.busy()
    if how == "engine frozen":
        m.engine(holder).freeze()
    else:
        fail(m, holder, how)
    await m.answered(answer)
    assert (answer.how, answer.text) == ("whole", WHOLE), answer.error
    assert m.a.count("retries") == 1
    return answer


@pytest.mark.parametrize(
    ("how", "watch_s"),
    [
        ("daemon killed", 0.0),
        ("engine killed", 0.0),
        ("cut off", limits.HOLDER_SILENT_S),
        ("power lost", limits.HOLDER_SILENT_S),
        ("engine frozen", limits.INTER_TOKEN_MIN_S),
    ],
)
async def test_no_more_is_waited_for_than_what_shows_the_failure(
    autojump_clock: MockClock, how: str, watch_s: float
) -> None:
    async with mesh(**ENGINE) as m:
        answer = await disturbed(m, how)
        spare_s = SOON_S if watch_s else 20 * LATENCY_S
        assert gap_s(answer) <= watch_s + spare_s


async def test_an_engine_found_frozen_is_offered_to_nobody_until_it_answers_again(
    autojump_clock: MockClock,
) -> None:
    async with mesh(**ENGINE) as m:
        answer = m.ask(m.a)
        await some_text(answer)
        frozen = await m.busy()
        m.engine(frozen).freeze()
        await m.answered(answer)
        await pass_time(limits.PROBE_TIMEOUT_S + limits.PROBE_MIN_S + SOON_S)
        other = m.other(frozen)
        assert frozen.id is not None
        asked_at = trio.current_time()
        second = await m.answered(m.ask(other, max_tokens=2))
        assert (second.how, second.holder) == ("whole", other.name)
        assert trio.current_time() - asked_at < 1.0
        for entry in (m.a, other):
            holders = entry.running.data.placement.holders("tiny")
            assert [target.node for target in holders] == [other.id]
        m.engine(frozen).thaw()
        await until(lambda: len(m.a.running.data.placement.holders("tiny")) == 2, within_s=10.0)


async def test_a_holder_that_died_behind_a_firewall_is_not_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with mesh(**ENGINE) as m:
        answer = m.ask(m.a)
        await some_text(answer)
        holder = await m.busy()
        m.world.network.isolate(holder.name)  # nobody says that its port is closed
        m.world.network.reset("a", holder.name)
        await m.answered(answer)
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error
        assert gap_s(answer) <= limits.RESUME_HEAD_S + 30 * LATENCY_S


async def test_a_link_that_breaks_before_the_first_token_costs_no_second_run(
    autojump_clock: MockClock,
) -> None:
    async with mesh(**{**ENGINE, "prefill_s": 3.0}) as m:
        answer = m.ask(m.a)
        holder = await m.busy()
        await pass_time(1.0)
        m.world.network.reset("a", holder.name)
        await m.answered(answer)
        assert (answer.how, answer.text, answer.holder) == ("whole", WHOLE, holder.name)
        assert not m.engine(m.other(holder)).requests
        assert m.a.count("retries") == 0


async def test_a_link_that_breaks_under_the_last_words_costs_no_second_run(
    autojump_clock: MockClock,
) -> None:
    async with mesh(**ENGINE) as m:
        answer = m.ask(m.a)
        holder = await m.busy()
        m.world.network.set_latency("a", holder.name, 0.02)
        await until(lambda: not m.engine(holder).running)
        assert not answer.over
        m.world.network.reset("a", holder.name)
        await m.answered(answer)
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error
        assert m.a.count("retries") == 0
        assert not m.engine(m.other(holder)).requests


async def test_a_question_whose_link_breaks_under_it_is_asked_once(
    autojump_clock: MockClock,
) -> None:
    async with mesh(**ENGINE) as m:
        for _ in range(2):  # so that there is a pooled link to each holder
            await m.answered(m.ask(m.a, max_tokens=1))
        before = [len(m.engine(holder).requests) for holder in m.holders]
        for holder in m.holders:
            m.world.network.set_latency("a", holder.name, 0.02)
        answer = m.ask(m.a)
        holder = await m.busy()  # and it has not said so yet
        m.world.network.reset("a", holder.name)
        await m.answered(answer)
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error
        assert sum(len(m.engine(h).requests) for h in m.holders) == sum(before) + 1


async def test_whether_an_engine_goes_on_is_known_before_it_has_to(
    autojump_clock: MockClock,
) -> None:
    async with mesh(**ENGINE) as m:
        for holder in m.holders:  # until it is loaded, asking would cost a load
            await m.answered(m.ask(holder, max_tokens=1))
        await until(
            lambda: all(
                target.model.continues
                for target in m.a.running.data.placement.catalogue.holders("tiny")
            ),
            within_s=limits.PROBE_S,
        )


async def test_a_model_that_has_yet_to_be_loaded_is_waited_for_to_go_on(
    autojump_clock: MockClock,
) -> None:
    async with mesh(**ENGINE, load_s=0.5) as m:
        answer = m.ask(m.a)
        await some_text(answer)
        first = await m.busy()
        m.engine(m.other(first)).load_s = 6.0
        first.kill()
        await m.answered(answer)
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error
        assert gap_s(answer) <= 6.0 + 20 * LATENCY_S
        assert m.a.count("retries") == 1


async def test_of_those_that_were_cut_off_with_it_none_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with World.open(latency_s=LATENCY_S, seed=3) as world:
        engine = {
            "tokens_per_s": 1 / TOKEN_S,
            "dialect": Dialect.OLLAMA,
            "answer_words": len(WHOLE.split()),
        }
        a = await world.start("a")
        holders = [await world.start(name, MemoryEngine("tiny", **engine)) for name in "bcde"]
        await world.settled()
        for n in range(8):  # so that there are pooled links to them, which swallow a question
            answer = a.client.openai("tiny", seed=n, max_tokens=20)
            world.nursery.start_soon(answer.run)
        await pass_time(5.0)
        answer = a.client.openai("tiny")
        world.nursery.start_soon(answer.run)
        await some_text(answer)
        first = next(holder for holder in holders if holder.engines[0].running)
        for holder in [first, *(h for h in holders if h is not first)][:3]:
            world.network.isolate(holder.name)
        await until(lambda: answer.over)
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error
        assert gap_s(answer) + PREFILL_S <= limits.HOLDER_SILENT_S + SOON_S
