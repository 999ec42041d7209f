"""A stream whose holder or engine fails in the middle goes on at another holder."""

from __future__ import annotations

import msgspec
import pytest
from trio.testing import MockClock

from meshd import limits
from meshd.http.sweeper import TICK_S
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.memory_engine import Dialect, Fault
from meshd.testing.world import until
from tests.sim.meshes import LATENCY_S, WHOLE, mesh, some_text
from tests.sim.test_holders_that_fail import LOUD, SILENT, fail

BROKEN = [how for how in LOUD if how != "links reset"]
SOON_S = TICK_S + 10 * LATENCY_S


def last_field(answer: MemoryAnswer) -> int:
    """What the stream's last chunk says of how many runs it took."""
    for line in answer.raw.decode().splitlines():
        text = line.removeprefix("data: ")
        if text.startswith("{") and "x-meshd-attempts" in text:
            found: int = msgspec.json.decode(text)["x-meshd-attempts"]
            return found
    return 1


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
async def test_a_broken_link_to_a_living_holder_costs_no_second_run(
    autojump_clock: MockClock, dialect: str
) -> None:
    async with mesh(tokens_per_s=20) as m:
        answer = m.ask(m.a, dialect)
        await some_text(answer)
        holder = await m.busy()
        for _ in range(3):
            fail(m, holder, "links reset")
            await some_text(answer, len(answer.pieces) + 5)
        await m.answered(answer)
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error
        assert (answer.holder, last_field(answer)) == (holder.name, 1)
        assert m.engine(holder).words_said == len(WHOLE.split())
        assert m.a.count("retries") == 0


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
@pytest.mark.parametrize("how", [*BROKEN, *SILENT])
async def test_a_stream_goes_on_where_it_broke_off(
    autojump_clock: MockClock, how: str, dialect: str
) -> None:
    async with mesh(tokens_per_s=20, dialect=Dialect.OLLAMA) as m:
        answer = m.ask(m.a, dialect)
        await some_text(answer)
        first = await m.busy()
        fail(m, first, how)
        await m.answered(answer)
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error
        assert m.a.count("went_on_by_continue") == 1
        assert last_field(answer) == 2
        gap_s = max(b - a for a, b in zip(answer.pieces, answer.pieces[1:], strict=False))
        bound_s = limits.HOLDER_SILENT_S if how in SILENT else 0.0
        assert gap_s <= bound_s + SOON_S + 2 / 20, "no more than a token was waited for besides"
        second = m.engine(m.other(first))
        assert second.requests[-1]["messages"][-1]["role"] == "assistant"
        assert second.words_said < len(WHOLE.split()), "only the rest was generated again"


async def test_a_comment_says_where_it_went_on(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=20, dialect=Dialect.OLLAMA) as m:
        answer = m.ask(m.a)
        await some_text(answer)
        first = await m.busy()
        first.kill()
        await m.answered(answer)
        assert f": attempt 2: {m.other(first).name} goes on from here" in answer.raw.decode()


@pytest.mark.parametrize("fault", [Fault.DIE, Fault.NO_FINISH, Fault.ERROR, Fault.GARBAGE])
async def test_it_goes_on_when_only_the_engine_failed(
    autojump_clock: MockClock, fault: Fault
) -> None:
    async with mesh(tokens_per_s=20, dialect=Dialect.OLLAMA) as m:
        m.engine(m.b).fault = fault
        answer = await m.answered(m.ask(m.b))
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error


async def test_usage_and_maximum_are_those_of_one_answer(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=20, dialect=Dialect.OLLAMA) as m:
        more = {"max_tokens": 12, "stream_options": {"include_usage": True}}
        answer = m.ask(m.a, **more)
        await some_text(answer)
        (await m.busy()).kill()
        await m.answered(answer)
        assert answer.text.split() == WHOLE.split()[:12]
        assert answer.finish == "length"
        assert b'"completion_tokens":12' in answer.raw


async def test_an_engine_that_begins_anew_is_not_asked_to_go_on(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=20, dialect=Dialect.OLLAMA, continues=False) as m:
        answer = m.ask(m.a)
        await some_text(answer)
        first = await m.busy()
        first.kill()
        await m.answered(answer)
        assert answer.how == "error"
        assert WHOLE.startswith(answer.text)
        assert m.engine(m.other(first)).words_said == 0


async def test_a_deterministic_request_is_run_again_and_compared(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=20, dialect=Dialect.OLLAMA, continues=False) as m:
        answer = m.ask(m.a, temperature=0)
        await some_text(answer)
        (await m.busy()).kill()
        await m.answered(answer)
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error
        assert m.a.count("went_on_by_regenerate") == 1


async def test_another_model_of_the_same_name_does_not_go_on(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=20, dialect=Dialect.OLLAMA) as m:
        m.engine(m.c).digest = "e" * 64
        await until(
            lambda: any(
                t.model.digest.startswith("e")
                for t in m.a.running.data.placement.catalogue.holders("tiny")
            )
        )
        answer = m.ask(m.a, temperature=0)
        await some_text(answer)
        (await m.busy()).kill()
        await m.answered(answer)
        assert answer.how == "error"


async def test_two_holders_may_fail_one_after_the_other(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=20, dialect=Dialect.OLLAMA) as m:
        answer = m.ask(m.a)
        await some_text(answer)
        first = await m.busy()
        first.kill()
        await until(lambda: m.engine(m.other(first)).running > 0)
        before = len(answer.pieces)
        await some_text(answer, before + 3)
        m.other(first).kill()
        await m.answered(answer)
        assert answer.how == "error", "nobody is left"
        assert WHOLE.startswith(answer.text)
        assert len(answer.text.split()) >= before + 3
