"""A stream whose holder or engine fails in the middle goes on at another holder."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.http.sweeper import TICK_S
from meshd.testing.memory_answers import Template
from meshd.testing.memory_client import QUESTION, MemoryAnswer
from meshd.testing.memory_engine import Dialect, Fault
from meshd.testing.world import until
from tests.sim.meshes import LATENCY_S, WHOLE, Mesh, mesh, some_text
from tests.sim.test_holders_that_fail import LOUD, SILENT, fail

BROKEN = [how for how in LOUD if how != "links reset"]
CLOSED = Template(continues=False)
"""Neither a message nor a raw prompt makes it go on."""
RAW = Template(continues=False, raw_continues=True)
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


TOKENS = 7
ENDPOINTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": QUESTION,
        "max_tokens": TOKENS,
        "stream_options": {"include_usage": True},
    },
    "/v1/completions": {
        "prompt": "Count, please.",
        "max_tokens": TOKENS,
        "stream_options": {"include_usage": True},
    },
    "/api/chat": {"messages": QUESTION, "options": {"num_predict": TOKENS}},
    "/api/generate": {"prompt": "Count, please.", "options": {"num_predict": TOKENS}},
}


async def told(m: Mesh, path: str, *, dies_after: int | None = None, **more: Any) -> MemoryAnswer:
    """The answer at `a`, whose first engine dies in the middle of it, if it is to."""
    for holder in m.holders:
        m.engine(holder).fault = None if dies_after is None else Fault.DIE
        m.engine(holder).fault_after = dies_after or 0
    answer = m.a.client.post(path, {"model": "tiny", "stream": True, **ENDPOINTS[path], **more})
    m.world.nursery.start_soon(answer.run)
    m.engine(m.other(await m.busy())).fault = None
    return await m.answered(answer)


def tokens_told(answer: MemoryAnswer) -> int:
    """How many tokens it says that it has."""
    found = re.findall(rb'"(?:completion_tokens|eval_count)":(\d+)', answer.raw)
    return int(found[-1])


@pytest.mark.parametrize("template", [Template(), RAW], ids=["chat", "raw"])
async def test_wherever_it_broke_off_it_is_the_answer_of_one_run(
    autojump_clock: MockClock, template: Template
) -> None:
    engine = {"dialect": Dialect.OLLAMA, "template": template, "thoughts": 3}
    async with mesh(tokens_per_s=20, prefill_s=0.5, **engine) as m:
        for path in ENDPOINTS:
            whole = await told(m, path)
            assert (whole.how, whole.finish, tokens_told(whole)) == ("whole", "length", TOKENS)
            for cut in range(TOKENS):
                answer = await told(m, path, dies_after=cut)
                seen = (path, cut, answer.error)
                assert (answer.how, answer.text) == ("whole", whole.text), seen
                assert (answer.thoughts, answer.finish) == (whole.thoughts, "length"), seen
                assert tokens_told(answer) == TOKENS, seen
        assert m.a.count("went_on_by_continue") == len(ENDPOINTS) * (TOKENS - 1)


async def test_an_answer_that_is_not_streamed_is_whole_too(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=20, dialect=Dialect.OLLAMA, prefill_s=0.5, thoughts=3) as m:
        for path in ENDPOINTS:
            whole = await told(m, path, stream=False)
            answer = await told(m, path, stream=False, dies_after=5)
            assert (answer.how, answer.text) == ("whole", whole.text), path
            assert (answer.thoughts, answer.attempts) == (whole.thoughts, 2)


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
        first = await m.busy()
        first.kill()
        await m.answered(answer)
        assert answer.text.split() == WHOLE.split()[:12]
        assert answer.finish == "length"
        usage = re.search(rb'"usage":({[^{}]*{[^{}]*}})', answer.raw)
        assert usage is not None
        told = msgspec.json.decode(usage[1])
        assert (told["prompt_tokens"], told["completion_tokens"]) == (7, 12)
        spent = told["x-meshd-spent"]
        was_told = m.engine(m.other(first)).requests[-1]["messages"][-1]["content"]
        assert spent["prompt_tokens"] == 7 + (7 + len(was_told.split()))
        assert spent["completion_tokens"] == 12


async def test_an_engine_that_begins_anew_is_not_asked_to_go_on(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=20, dialect=Dialect.OLLAMA, template=CLOSED) as m:
        answer = m.ask(m.a)
        await some_text(answer)
        first = await m.busy()
        first.kill()
        await m.answered(answer)
        assert answer.how == "error"
        assert WHOLE.startswith(answer.text)
        assert m.engine(m.other(first)).words_said == 0


async def test_a_deterministic_request_is_run_again_and_compared(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=20, dialect=Dialect.OLLAMA, template=CLOSED) as m:
        answer = m.ask(m.a, temperature=0)
        await some_text(answer)
        (await m.busy()).kill()
        await m.answered(answer)
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error
        assert m.a.count("went_on_by_regenerate") == 1


BOUND_TO_A_FORM: list[tuple[str, dict[str, Any]]] = [
    ("openai", {"response_format": {"type": "json_object"}}),
    ("openai", {"tools": [{"type": "function", "function": {"name": "count"}}]}),
    ("openai", {"logprobs": True}),
    ("ollama", {"format": {"type": "object"}}),
]


async def test_what_is_bound_to_a_form_is_run_again_or_ends_with_an_error(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=20, dialect=Dialect.OLLAMA, prefill_s=0.5) as m:
        for dialect, form in BOUND_TO_A_FORM:
            for temperature in (0, 0.7):
                how = {"openai": {"temperature": temperature, "max_tokens": 9}}.get(
                    dialect, {"options": {"temperature": temperature, "num_predict": 9}}
                )
                for holder in m.holders:
                    m.engine(holder).fault = Fault.DIE
                answer = m.ask(m.a, dialect, **form, **how)
                other = m.engine(m.other(await m.busy()))
                other.fault = None
                asked = len(other.requests)
                await m.answered(answer)
                if temperature == 0:
                    assert answer.text.split() == WHOLE.split()[:9], (form, answer.error)
                    assert "assistant" not in str(other.requests[-1]["messages"])
                else:
                    assert (answer.how, len(answer.pieces)) == ("error", 3), form
                    assert len(other.requests) == asked, "nobody was asked to go on"


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


async def went_on(m: Mesh, asked: str) -> dict[str, Any]:
    """What the mesh tells of a request or a job that one holder began and another one ended."""
    found: dict[str, Any] = {}

    async def is_there() -> bool:
        nonlocal found
        status, found = await m.a.client.call("GET", asked)
        return status == 200 and found["state"] == "done"

    with trio.fail_after(30):
        while not await is_there():  # noqa: ASYNC110 - it is written down with others
            await trio.sleep(0.5)
    return found


async def test_the_trace_of_a_request_says_who_broke_off_and_how_it_went_on(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=20, dialect=Dialect.OLLAMA) as m:
        answer = m.ask(m.a)
        await some_text(answer)
        first = await m.busy()
        first.kill()
        await m.answered(answer)
        row = await went_on(m, f"/mesh/v1/requests/{answer.headers['x-request-id']}")
        assert (row["node"], row["way"]) == (m.other(first).name, "continue")
        assert row["failed"] == [{"node": first.name, "reason": "holder_lost"}]


@pytest.mark.parametrize("stream", [True, False])
async def test_the_job_of_a_keyed_request_says_it_and_a_repeat_shows_it(
    autojump_clock: MockClock, stream: bool
) -> None:
    async with mesh(tokens_per_s=20, dialect=Dialect.OLLAMA) as m:
        for holder in m.holders:
            m.engine(holder).fault = Fault.DIE
        key = "idempotency-key: k1"
        answers = [m.a.client.openai("tiny", key, stream=stream, max_tokens=9)]
        m.world.nursery.start_soon(answers[0].run)
        first = await m.busy()
        m.engine(m.other(first)).fault = None
        await m.answered(answers[0])
        answers.append(m.a.client.openai("tiny", key, stream=stream, max_tokens=9))
        await answers[1].run()
        for answer in answers:
            assert (answer.how, answer.text.split()) == ("whole", WHOLE.split()[:9])
            assert b'"x-meshd-attempts":2' in answer.raw
        row = await went_on(m, f"/mesh/v1/jobs/{answers[0].headers['x-meshd-job']}")
        (broke_off,) = row["attempts"]
        assert (broke_off["node"], broke_off["reason"]) == (first.name, "broken")
        assert row.get("way", "") == ("continue" if stream else "")
