"""Clients that go away, that do not read, that have a deadline: what it means upstream."""

from __future__ import annotations

import itertools

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.http.sweeper import TICK_S
from meshd.testing.memory_engine import Fault
from meshd.testing.world import until
from tests.sim.meshes import LATENCY_S, WHOLE, Mesh, mesh, pass_time, some_text

SOON_S = 2 * TICK_S + 10 * LATENCY_S
"""For a disconnect to be noticed, passed on and acted upon."""


def cancelled(m: Mesh) -> int:
    return sum(m.engine(holder).cancelled for holder in m.holders)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_client_that_leaves_frees_the_engine_at_once(
    autojump_clock: MockClock, entry: str, stream: bool
) -> None:
    async with mesh(tokens_per_s=10, slots=1) as m:
        answer = m.ask({"a": m.a, "b": m.b}[entry], stream=stream)
        await m.busy()
        await pass_time(1.0)
        answer.leave()
        await until(lambda: m.running == 0, within_s=SOON_S)
        assert cancelled(m) == 1
        assert sum(len(m.engine(holder).requests) for holder in m.holders) == 1, "not retried"
        for machine in m.holders:
            assert machine.running.data.holder.load().running == 0


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_client_that_leaves_before_the_first_token_frees_the_engine_at_once(
    autojump_clock: MockClock, entry: str
) -> None:
    async with mesh(prefill_s=20.0) as m:
        answer = m.ask({"a": m.a, "b": m.b}[entry])
        await m.busy()
        await pass_time(5.0)
        answer.leave()
        await until(lambda: m.running == 0, within_s=SOON_S)
        assert cancelled(m) == 1


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_client_that_leaves_the_queue_is_never_run(
    autojump_clock: MockClock, entry: str
) -> None:
    async with mesh(tokens_per_s=100, slots=1) as m:
        machine = {"a": m.a, "b": m.b}[entry]
        first = [m.ask(m.a), m.ask(m.a)]
        await until(lambda: m.running == 2)
        queued = m.ask(machine, seed=1)
        await until(lambda: sum(h.running.data.holder.admission.queued for h in m.holders) == 1)
        queued.leave()
        await until(
            lambda: sum(h.running.data.holder.admission.queued for h in m.holders) == 0,
            within_s=SOON_S,
        )
        for answer in first:
            await m.answered(answer)
            assert answer.how == "whole"
        await pass_time(1.0)
        assert sum(len(m.engine(holder).requests) for holder in m.holders) == 2
        assert cancelled(m) == 0


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_client_that_does_not_read_stops_the_engine_and_loses_nothing(
    autojump_clock: MockClock, entry: str
) -> None:
    async with mesh(tokens_per_s=100, buffer_bytes=2048) as m:
        answer = m.ask({"a": m.a, "b": m.b}[entry])
        await some_text(answer)
        answer.pause()
        engine = m.engine(await m.busy())
        await pass_time(10.0)  # time enough for all of it
        said = engine.words_said
        assert said < 300, "what is not read is not produced"
        await pass_time(5.0)
        assert engine.words_said == said
        answer.resume()
        await m.answered(answer)
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error
        assert answer.attempts == 1


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_client_that_reads_slowly_gets_all_of_it(
    autojump_clock: MockClock, entry: str
) -> None:
    async with mesh(tokens_per_s=1000, buffer_bytes=4096) as m:
        answer = m.ask({"a": m.a, "b": m.b}[entry])
        asked_at = trio.current_time()
        answer.slowness_s = 6.0  # for each four kilobytes: at a reader's pace
        await m.answered(answer)
        assert (answer.how, answer.text, answer.attempts) == ("whole", WHOLE, 1), answer.error
        assert trio.current_time() - asked_at > limits.HTTP_SEND_STALL_S


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_client_that_never_reads_again_is_given_up(
    autojump_clock: MockClock, entry: str
) -> None:
    async with mesh(tokens_per_s=100, buffer_bytes=2048) as m:
        answer = m.ask({"a": m.a, "b": m.b}[entry])
        await some_text(answer)
        answer.pause()
        await pass_time(limits.HTTP_SEND_STALL_S + 3.0)
        assert m.running == 0
        assert cancelled(m) == 1


@pytest.mark.parametrize("header", ["x-stainless-read-timeout: 3", "X-Stainless-Timeout: 3"])
@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_whole_answer_that_would_come_too_late_is_504_in_time(
    autojump_clock: MockClock, entry: str, header: str
) -> None:
    async with mesh(tokens_per_s=10) as m:
        machine = {"a": m.a, "b": m.b}[entry]
        asked_at = trio.current_time()
        answer = machine.client.openai("tiny", header, stream=False)
        await answer.run()
        assert (answer.status, answer.how) == (504, "refused")
        assert "time allowed" in answer.error
        assert answer.headers["x-should-retry"] == "false"
        assert answer.ended_at is not None
        assert 3.0 <= answer.ended_at - asked_at <= 3.0 + SOON_S
        await until(lambda: m.running == 0, within_s=SOON_S)
        assert cancelled(m) == 1
        assert m.a.count("retries") == m.b.count("retries") == 0


async def test_a_deadline_counts_in_the_queue_too(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=15, slots=1) as m:
        first = [m.ask(m.a), m.ask(m.a)]
        await until(lambda: m.running == 2)
        asked_at = trio.current_time()
        late = m.a.client.openai("tiny", "x-stainless-read-timeout: 6", stream=False)
        await late.run()
        assert late.status in (503, 504), late.error
        assert late.ended_at is not None
        assert late.ended_at - asked_at <= 6.0 + SOON_S
        for answer in first:
            assert (await m.answered(answer)).how == "whole"
        assert sum(len(m.engine(holder).requests) for holder in m.holders) == 2


async def test_a_stream_that_moves_has_no_deadline(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=20) as m:
        answer = m.a.client.openai("tiny", "x-stainless-read-timeout: 3")
        await answer.run()
        assert (answer.how, answer.text) == ("whole", WHOLE)


async def test_a_client_that_left_is_no_reason_to_blame_the_holder(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=10) as m:
        for _ in range(6):
            answer = m.ask(m.a)
            await m.busy()
            await pass_time(0.5)
            answer.leave()
            await until(lambda: m.running == 0)
        after = [await m.answered(m.ask(m.a, max_tokens=1)) for _ in range(12)]
        assert {answer.holder for answer in after} == {"b", "c"}, "both are still in use"
        assert m.a.count("retries") == 0
        assert (m.a.count("client_gone"), m.a.count("failed")) == (6, 0)


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
async def test_a_failure_before_anything_was_sent_has_a_status_of_its_own(
    autojump_clock: MockClock, dialect: str
) -> None:
    async with mesh() as m:
        for holder in m.holders:
            m.engine(holder).fault = Fault.ERROR
            m.engine(holder).fault_after = 0
            m.engine(holder).fault_stays = True
        answer = await m.answered(m.ask(m.a, dialect))
        assert (answer.how, answer.status) == ("refused", 502)
        assert "accident" in answer.error


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_whole_answer_that_grows_without_end_is_given_up(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    monkeypatch.setattr(limits, "ANSWER_BYTES", 20_000)
    async with mesh() as m:
        machine = {"a": m.a, "b": m.b}[entry]
        answer = await m.answered(m.ask(machine, stream=False))
        assert (answer.how, answer.status) == ("refused", 500)
        assert "ask for it as a stream" in answer.error
        assert answer.headers["x-should-retry"] == "false"
        await until(lambda: m.running == 0, within_s=SOON_S)
        assert cancelled(m) == 1
        assert sum(len(m.engine(holder).requests) for holder in m.holders) == 1, "not retried"
        streamed = await m.answered(m.ask(machine))
        assert (streamed.how, streamed.text) == ("whole", WHOLE)
        short = await m.answered(m.ask(machine, stream=False, max_tokens=50))
        assert short.how == "whole"


async def test_an_entry_takes_only_so_many_requests_at_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REQUESTS_IN_FLIGHT", 3)
    async with mesh(tokens_per_s=100) as m:
        running = [m.ask(m.a) for _ in range(3)]
        await until(lambda: m.running == 3)
        refused = await m.answered(m.ask(m.a))
        assert (refused.how, refused.status) == ("refused", 503)
        assert refused.headers["retry-after"] == "1"
        for answer in running:
            assert (await m.answered(answer)).how == "whole"
        assert (await m.answered(m.ask(m.a))).how == "whole"


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
async def test_what_a_node_forwarded_is_not_forwarded_again(
    autojump_clock: MockClock, dialect: str
) -> None:
    async with mesh() as m:
        asking = m.a.client.openai if dialect == "openai" else m.a.client.ollama
        answer = asking("tiny", "x-meshd-forwarded: 1")
        await answer.run()
        assert (answer.how, answer.status) == ("refused", 508)
        assert "circles" in answer.error
        assert sum(len(m.engine(holder).requests) for holder in m.holders) == 0


@pytest.mark.parametrize(("header", "gap_s"), [("", 15.0), ("x-stainless-read-timeout: 8", 4.0)])
@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_stream_whose_model_loads_for_long_is_not_silent(
    autojump_clock: MockClock, entry: str, header: str, gap_s: float
) -> None:
    async with mesh(load_s=40.0) as m:
        machine = {"a": m.a, "b": m.b}[entry]
        asked_at = trio.current_time()
        answer = machine.client.openai("tiny", *([header] if header else []))
        await answer.run()
        assert (answer.how, answer.text, answer.attempts) == ("whole", WHOLE, 1)
        heard = [asked_at, *answer.comments, answer.pieces[0]]
        gaps = [after - before for before, after in itertools.pairwise(heard)]
        assert max(gaps) <= gap_s + SOON_S
        assert len(answer.comments) <= 40.0 / gap_s


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_stream_whose_only_holder_loads_or_is_busy_is_not_silent_once_it_runs(
    autojump_clock: MockClock, entry: str
) -> None:
    async with mesh(load_s=45.0, slots=1) as m:
        m.c.crash()
        await pass_time(1.0)
        machine = {"a": m.a, "b": m.b}[entry]
        first = m.ask(machine, max_tokens=10)
        await pass_time(1.0)
        second = m.ask(machine, max_tokens=10)
        await pass_time(40.0)
        assert second.status == 0, "it queues, and may still be sent away"
        assert len(first.comments) == 2
        for answer in (first, second):
            assert (await m.answered(answer)).how == "whole"


async def test_ollamas_clients_hear_nothing_while_a_model_loads(autojump_clock: MockClock) -> None:
    async with mesh(load_s=40.0) as m:
        answer = m.ask(m.a, "ollama")
        await pass_time(35.0)
        assert answer.status == 0, "a failure could still have a status of its own"
        assert (await m.answered(answer)).how == "whole"


async def test_a_failure_after_a_comment_is_told_in_the_stream(autojump_clock: MockClock) -> None:
    async with mesh(load_s=40.0) as m:
        answer = m.ask(m.a)
        await pass_time(20.0)
        assert (answer.status, len(answer.comments)) == (200, 1)
        for holder in m.holders:
            m.engine(holder).crash()
        await m.answered(answer)
        assert (answer.how, answer.text) == ("error", "")


async def test_a_comment_is_no_content_and_another_holder_is_asked(
    autojump_clock: MockClock,
) -> None:
    async with mesh(load_s=40.0) as m:
        answer = m.ask(m.a)
        await pass_time(20.0)
        assert len(answer.comments) == 1
        m.engine(await m.busy()).crash()
        await m.answered(answer)
        assert (answer.how, answer.text) == ("whole", WHOLE)


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
@pytest.mark.parametrize("entry", ["a", "b"])
async def test_whole_answers_for_which_there_is_no_room_are_refused_and_streams_are_not(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, dialect: str, entry: str
) -> None:
    monkeypatch.setattr(limits, "BODY_COUNTED_BYTES", 1000)
    async with mesh() as m:
        machine = {"a": m.a, "b": m.b}[entry]
        room = machine.running.room
        room.size_bytes = 20_000
        answer = await m.answered(m.ask(machine, dialect, stream=False))
        assert (answer.how, answer.status) == ("refused", 503)
        assert "as many large bodies" in answer.error
        assert answer.headers["retry-after"] == "2"
        await until(lambda: m.running == 0, within_s=SOON_S)
        assert room.held_bytes == 0
        assert sum(len(m.engine(holder).requests) for holder in m.holders) == 1, "not retried"
        assert (await m.answered(m.ask(machine, dialect))).text == WHOLE
        short = await m.answered(m.ask(machine, dialect, stream=False, **few(dialect)))
        assert short.how == "whole"
        assert room.held_bytes == 0


def few(dialect: str) -> dict[str, object]:
    return {"max_tokens": 50} if dialect == "openai" else {"options": {"num_predict": 50}}


async def test_a_request_for_which_its_holder_has_no_room_is_served_by_another(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_COUNTED_BYTES", 1000)
    async with mesh() as m:
        m.b.running.room.size_bytes = 5000
        long = [{"role": "user", "content": "x" * 10_000}]
        for _ in range(4):
            answer = await m.answered(m.ask(m.a, messages=long))
            assert (answer.how, answer.holder, answer.attempts) == ("whole", "c", 1), answer.error
        m.c.running.room.size_bytes = 5000
        answer = await m.answered(m.ask(m.a, messages=long))
        assert (answer.how, answer.status) == ("refused", 503)
        assert answer.headers["retry-after"]
