"""Requests on engines: answers, their faults, and how they are ended, in virtual time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.backends import BackendFailed, RunControl
from meshd.errors import StreamBroken
from meshd.http import HttpServer, Responder, ServerRequest
from meshd.inference import Embedding, FailureKind, Kind, Request, Sampling
from meshd.testing.memory_engine import Dialect, Fault, MemoryEngine
from meshd.testing.models import expected_text
from tests.unit.backend_bench import CHAT, Answer, ask, bench, until


@pytest.mark.parametrize("dialect", list(Dialect))
async def test_an_answer_is_whole_and_timed(autojump_clock: MockClock, dialect: Dialect) -> None:
    async with bench() as b:
        await b.engine(8080, dialect=dialect, tokens_per_s=10, prefill_s=2.0)
        backends = await b.started(detect=True)
        answer = await ask(
            backends,
            Request(Kind.CHAT, "tiny", messages=CHAT.messages, sampling=Sampling(max_tokens=20)),
        )
        assert answer.text == expected_text(max_tokens=20)
        assert answer.finish == "length"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 20)
        assert answer.batches >= 20, "each read is passed on at once"
        if dialect is Dialect.LLAMA_CPP:  # which tells no times here: they were taken
            assert answer.usage.prompt_ns == pytest.approx(2.1e9, rel=0.01)
            assert answer.usage.completion_ns == pytest.approx(1.9e9, rel=0.01)


@pytest.mark.parametrize("dialect", list(Dialect))
async def test_a_completion_and_an_embedding(autojump_clock: MockClock, dialect: Dialect) -> None:
    async with bench() as b:
        await b.engine(8080, dialect=dialect)
        backends = await b.started(detect=True)
        raw = Request(
            Kind.COMPLETION, "tiny", prompt="x", raw=True, sampling=Sampling(max_tokens=4)
        )
        assert (await ask(backends, raw)).text == expected_text(max_tokens=4)
        backend, model = backends.holders("tiny")[0]
        request = Request(Kind.EMBED, "tiny", inputs=["a", "b"])
        embedded = await backend.embed(request, model, RunControl())
        assert embedded == Embedding([[0.6, 0.8], [0.6, 0.8]], 2)


async def test_ollamas_vectors_as_they_are(autojump_clock: MockClock) -> None:
    async with bench() as b:
        await b.engine(8080, dialect=Dialect.OLLAMA)
        backends = await b.started(detect=True)
        backend, model = backends.holders("tiny")[0]
        request = Request(Kind.EMBED, "tiny", inputs=["a"], normalise=False)
        assert (await backend.embed(request, model, RunControl())).vectors == [[3.0, 4.0]]


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        (Fault.REFUSE, FailureKind.BUSY, 0),
        (Fault.NOT_FOUND, FailureKind.NOT_FOUND, 0),
        (Fault.OVERFLOW, FailureKind.CONTEXT_OVERFLOW, 0),
        (Fault.NO_FINISH, FailureKind.BROKEN, 3),
        (Fault.ERROR, FailureKind.BACKEND, 3),
        (Fault.GARBAGE, FailureKind.BACKEND, 3),
    ],
)
async def test_what_an_engine_does_wrong_is_told_after_what_it_said(
    autojump_clock: MockClock, dialect: Dialect, fault: Fault, kind: FailureKind, told: int
) -> None:
    async with bench() as b:
        engine = await b.engine(8080, dialect=dialect)
        backends = await b.started(detect=True)
        engine.fault = fault
        backend, model = backends.holders("tiny")[0]
        answer = Answer()
        with pytest.raises(BackendFailed) as caught:
            await backend.run(CHAT, model, answer.emit, RunControl())
        assert caught.value.failure.kind == kind
        assert answer.text == expected_text(max_tokens=told)
        assert answer.finish is None


@pytest.mark.parametrize("dialect", list(Dialect))
async def test_a_broken_connection_is_no_end_of_an_answer(
    autojump_clock: MockClock, dialect: Dialect
) -> None:
    async with bench() as b:
        engine = await b.engine(8080, dialect=dialect)
        backends = await b.started(detect=True)
        engine.fault = Fault.DIE
        backend, model = backends.holders("tiny")[0]
        answer = Answer()
        with pytest.raises(StreamBroken):
            await backend.run(CHAT, model, answer.emit, RunControl())
        assert answer.text == expected_text(max_tokens=3)


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.HANG_LATER])
async def test_an_abort_ends_a_hung_run_and_tells_the_engine(
    autojump_clock: MockClock, fault: Fault
) -> None:
    async with bench() as b:
        engine = await b.engine(8080)
        backends = await b.started(detect=True)
        engine.fault = fault
        backend, model = backends.holders("tiny")[0]
        control, started = RunControl(), trio.current_time()

        async def abort_later() -> None:
            await trio.sleep(5)
            control.abort("enough")
            control.abort("too late")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(abort_later)
            with pytest.raises(StreamBroken):
                await backend.run(CHAT, model, Answer().emit, control)
        assert control.aborted == "enough"
        assert trio.current_time() - started == pytest.approx(5, abs=0.1)
        await until(lambda: engine.cancelled == 1 and engine.running == 0)


async def test_a_run_that_was_aborted_before_it_began_asks_nothing(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        engine = await b.engine(8080)
        backends = await b.started(detect=True)
        backend, model = backends.holders("tiny")[0]
        control = RunControl()
        control.abort("never mind")
        with pytest.raises(StreamBroken):
            await backend.run(CHAT, model, Answer().emit, control)
        await trio.sleep(1)
        assert engine.requests == []


async def test_an_abort_after_the_end_hits_nobody_else(autojump_clock: MockClock) -> None:
    """The connection went back to the pool and serves another run."""
    async with bench() as b:
        engine = await b.engine(11434, dialect=Dialect.OLLAMA)
        backends = await b.started(detect=True)
        backend, model = backends.holders("tiny")[0]
        first = RunControl()
        await backend.run(CHAT, model, Answer().emit, first)
        answer = Answer()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.run, CHAT, model, answer.emit, RunControl())
            await until(lambda: engine.running == 1)
            first.abort("too late")
        assert answer.text == expected_text()


async def test_what_the_sink_raises_comes_out_and_cancels_upstream(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        engine = await b.engine(8080)
        backends = await b.started(detect=True)
        backend, model = backends.holders("tiny")[0]

        async def emit(events: object) -> None:
            raise RuntimeError("the client is gone")

        with pytest.raises(RuntimeError, match="the client is gone"):
            await backend.run(CHAT, model, emit, RunControl())
        await until(lambda: engine.running == 0)
        assert engine.cancelled == 1


async def test_a_finished_answer_waits_only_briefly_for_a_connection_that_stays_open(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        engine = MemoryEngine()

        async def handle(request: ServerRequest, responder: Responder) -> None:
            if request.path != "/v1/chat/completions":
                return await engine.handle(request, responder)
            await responder.start(200, [(b"content-type", b"text/event-stream")])
            await responder.write(
                b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
            )
            return await trio.sleep_forever()

        listener = await b.host.listen_clients("127.0.0.1", 8080)
        b.nursery.start_soon(HttpServer(handle, b.sweeper).serve, listener)
        backends = await b.started(detect=True)
        before = trio.current_time()
        answer = await ask(backends)
        assert (answer.text, answer.finish) == ("a", "stop")
        assert trio.current_time() - before < limits.ENGINE_TAIL_S + 0.2


async def test_ollamas_empty_request_on_an_engine_that_loads_by_itself(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        engine = await b.engine(8080)
        backends = await b.started(detect=True)
        answer = await ask(backends, Request(Kind.CHAT, "tiny"))
        assert answer.finish == "load"
        with pytest.raises(BackendFailed, match="unloads no model"):
            await ask(backends, Request(Kind.CHAT, "tiny", keep_alive=0))
        assert engine.requests == []


async def test_show_is_ollamas_own_or_made_up(autojump_clock: MockClock) -> None:
    async with bench() as b:
        await b.engine(8080, model="a")
        await b.engine(11434, model="b", dialect=Dialect.OLLAMA)
        backends = await b.started(detect=True)
        backend, model = backends.holders("a")[0]
        assert (await backend.show(model))["capabilities"] == ["completion", "tools", "embedding"]
        backend, model = backends.holders("b")[0]
        assert (await backend.show(model))["parameters"] == "num_ctx    4096"
