"""Engines come, go, break and are started again: the manager, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import PurePath

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.backends import BackendFailed, Backends, RunControl
from meshd.config import BackendConfig
from meshd.errors import DialFailed, StreamBroken
from meshd.http import HttpServer, Responder, ServerRequest, Sweeper
from meshd.inference import (
    Delta,
    Embedding,
    FailureKind,
    Kind,
    Message,
    Request,
    Sampling,
    Usage,
)
from meshd.ports import Ports
from meshd.testing.clock import SimClock
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy
from meshd.testing.memory_engine import Dialect, Fault, MemoryEngine, MemoryEngines
from meshd.testing.models import expected_text
from meshd.testing.network import MemoryHost, MemoryNetwork

CLAIMS = PurePath("/run/claims")
CHAT = Request(Kind.CHAT, "tiny", messages=[Message("user", "hi")])


@dataclass
class Bench:
    """One host with engines, and the manager under test."""

    host: MemoryHost
    nursery: trio.Nursery
    disk: MemoryDisk
    engines: MemoryEngines
    sweeper: Sweeper
    changes: list[float] = field(default_factory=list)

    def backends(self, *urls: str | BackendConfig, detect: bool = False) -> Backends:
        configured = [u if isinstance(u, BackendConfig) else BackendConfig(u) for u in urls]
        ports = Ports(self.host, SimClock(), self.disk, SeededEntropy(1), self.engines)
        return Backends(
            ports,
            sweeper=self.sweeper,
            node="n" * 26,
            generation=1,
            configured=configured,
            detect=detect,
            claims_dir=CLAIMS,
            on_change=lambda: self.changes.append(trio.current_time()),
        )

    async def start(self, backends: Backends) -> None:
        self.nursery.start_soon(backends.run)
        await backends.first_probe_done()

    async def engine(self, port: int = 8080, **settings: object) -> MemoryEngine:
        engine = MemoryEngine(**settings)  # type: ignore[arg-type]
        await self.nursery.start(engine.serve, self.host, port)
        return engine


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    async with trio.open_nursery() as nursery:
        host = MemoryNetwork(seed=1).host("a", ["10.0.0.1"])
        sweeper = Sweeper()
        nursery.start_soon(sweeper.run)
        yield Bench(host, nursery, MemoryDisk(), MemoryEngines(host, nursery), sweeper)
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Until it is so, which must be within 300 virtual seconds."""
    for _ in range(30_000):
        if condition():
            return
        await trio.sleep(0.01)
    raise AssertionError("it never came to that")


@dataclass
class Answer:
    text: str = ""
    finish: str | None = None
    usage: Usage | None = None
    batches: int = 0

    async def emit(self, events: object) -> None:
        self.batches += 1
        for event in events:  # type: ignore[attr-defined]
            if isinstance(event, Usage):
                self.usage = event
            else:
                assert isinstance(event, Delta)
                self.text += event.text
                self.finish = event.finish_reason or self.finish


async def ask(backends: Backends, request: Request = CHAT) -> Answer:
    backend, model = backends.holders(request.model)[0]
    answer = Answer()
    await backend.run(request, model, answer.emit, RunControl())
    return answer


def names(backends: Backends) -> list[tuple[str, str]]:
    return [(b.id, m.name) for b in backends.inventory().backends for m in b.models]


def states(backends: Backends) -> list[str]:
    return [row.state for row in backends.rows()]


# --- finding


@pytest.mark.parametrize(
    ("port", "dialect", "backend_id", "model"),
    [
        (8080, Dialect.LLAMA_CPP, "llama.cpp-8080", "tiny"),
        (9931, Dialect.LLAMA_CPP, "llama.cpp-9931", "tiny"),
        (11434, Dialect.OLLAMA, "ollama-11434", "tiny:latest"),
        (8000, Dialect.OLLAMA, "ollama-8000", "tiny:latest"),  # by its answers, not by its port
    ],
)
async def test_engines_on_the_usual_ports_are_found_by_what_they_answer(
    autojump_clock: MockClock, port: int, dialect: Dialect, backend_id: str, model: str
) -> None:
    async with bench() as b:
        await b.engine(port, dialect=dialect, slots=4)
        backends = b.backends(detect=True)
        await b.start(backends)
        assert names(backends) == [(backend_id, model)]
        (info,) = backends.inventory().backends
        assert info.engine == dialect.value
        assert info.slots == (4 if dialect is Dialect.LLAMA_CPP else 1)
        assert states(backends) == ["serving"]
        assert backends.holders("TINY:latest")[0][1].name == model


async def test_without_detection_only_what_is_configured_is_asked(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        await b.engine(8080)
        await b.engine(7000, model="other")
        backends = b.backends("http://127.0.0.1:7000/v1/")
        await b.start(backends)
        assert names(backends) == [("llama.cpp-7000", "other")]


async def test_the_config_decides_over_name_slots_and_key(autojump_clock: MockClock) -> None:
    async with bench() as b:
        seen: list[bytes | None] = []
        engine = MemoryEngine(dialect=Dialect.OLLAMA)

        async def handle(request: ServerRequest, responder: Responder) -> None:
            seen.append(request.header(b"authorization"))
            await engine.handle(request, responder)

        listener = await b.host.listen_clients("127.0.0.1", 7000)
        b.nursery.start_soon(HttpServer(handle, b.sweeper).serve, listener)
        backends = b.backends(BackendConfig("http://localhost:7000", "mine", "sesame", slots=3))
        await b.start(backends)
        (info,) = backends.inventory().backends
        assert (info.id, info.slots) == ("mine", 3)
        assert set(seen) == {b"Bearer sesame"}


async def test_a_place_is_watched_once_however_often_it_is_named(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        await b.engine(8080)
        backends = b.backends("http://localhost:8080", "http://127.0.0.1:8080/v1", detect=True)
        await b.start(backends)
        assert len(backends.rows()) == 1


async def test_what_is_no_engine_is_left_alone_unless_it_was_configured(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:

        async def web_page(request: ServerRequest, responder: Responder) -> None:
            await responder.send(200, [(b"content-type", b"text/html")], b"<html>")

        listener = await b.host.listen_clients("127.0.0.1", 8080)
        b.nursery.start_soon(HttpServer(web_page, b.sweeper).serve, listener)
        detecting, configured = b.backends(detect=True), b.backends("http://127.0.0.1:8080")
        await b.start(detecting)
        await b.start(configured)
        assert detecting.rows() == []
        assert states(configured) == ["gone: what answers there is no engine that meshd knows"]
        assert b.disk.lock(CLAIMS / "127.0.0.1_8080.claim") is None


# --- going and coming back


async def test_an_engine_is_gone_when_it_is_gone_and_back_when_it_is_back(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        engine = await b.engine(8080)
        backends = b.backends(detect=True)
        await b.start(backends)
        first = backends.inventory()
        engine.crash()
        await until(lambda: not names(backends))
        assert states(backends)[0].startswith("gone: ")
        assert backends.holders("tiny") == []
        await b.engine(8080, model="another")
        await until(lambda: bool(names(backends)))
        assert names(backends) == [("llama.cpp-8080", "another")]
        assert backends.inventory().revision > first.revision
        assert len(b.changes) == 3


async def test_another_kind_of_engine_on_the_same_port_is_recognised(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        engine = await b.engine(8080)
        backends = b.backends(detect=True)
        await b.start(backends)
        engine.crash()
        await trio.sleep(0.1)
        await b.engine(8080, dialect=Dialect.OLLAMA)
        await until(lambda: names(backends) == [("ollama-8080", "tiny:latest")])


async def test_a_failed_run_makes_it_look_at_once(autojump_clock: MockClock) -> None:
    async with bench() as b:
        engine = await b.engine(8080)
        backends = b.backends("http://127.0.0.1:8080")
        await b.start(backends)
        engine.crash()
        await trio.sleep(0.1)
        with pytest.raises(DialFailed):
            await ask(backends)
        before = trio.current_time()
        await until(lambda: not names(backends))
        assert trio.current_time() - before < limits.PROBE_S / 2


async def test_an_engine_that_listens_but_does_not_answer_is_given_a_few_probes(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        frozen = False
        engine = MemoryEngine()

        async def handle(request: ServerRequest, responder: Responder) -> None:
            if frozen:
                await trio.sleep_forever()
            await engine.handle(request, responder)

        listener = await b.host.listen_clients("127.0.0.1", 8080)
        b.nursery.start_soon(HttpServer(handle, b.sweeper).serve, listener)
        backends = b.backends(detect=True)
        await b.start(backends)
        frozen = True
        before = trio.current_time()
        await until(lambda: not names(backends))
        assert trio.current_time() - before > 2 * limits.PROBE_S
        assert "no answer within" in states(backends)[0]


async def test_an_engine_too_busy_for_probes_is_not_gone_while_it_answers(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        busy = False
        engine = MemoryEngine(tokens_per_s=1.0)

        async def handle(request: ServerRequest, responder: Responder) -> None:
            if busy and request.method == "GET":
                await trio.sleep_forever()
            await engine.handle(request, responder)

        listener = await b.host.listen_clients("127.0.0.1", 8080)
        b.nursery.start_soon(HttpServer(handle, b.sweeper).serve, listener)
        backends = b.backends(detect=True)
        await b.start(backends)
        busy = True
        limited = Request(
            Kind.CHAT, "tiny", messages=CHAT.messages, sampling=Sampling(max_tokens=200)
        )
        assert (await ask(backends, limited)).finish == "length"
        assert names(backends) == [("llama.cpp-8080", "tiny")]
        await until(lambda: not names(backends))


async def test_loading_changes_residency_soon_after_the_run(autojump_clock: MockClock) -> None:
    async with bench() as b:
        await b.engine(11434, dialect=Dialect.OLLAMA, load_s=3.0)
        backends = b.backends(detect=True)
        await b.start(backends)
        assert not backends.holders("tiny")[0][1].resident
        before = trio.current_time()
        await ask(backends)
        await until(lambda: backends.holders("tiny")[0][1].resident)
        assert 3.0 <= trio.current_time() - before < limits.PROBE_S


async def test_nothing_new_tells_nobody(autojump_clock: MockClock) -> None:
    async with bench() as b:
        await b.engine(8080)
        backends = b.backends(detect=True)
        await b.start(backends)
        await trio.sleep(10 * limits.PROBE_S)
        assert (len(b.changes), backends.inventory().revision) == (1, 1)


# --- claims, and meshd itself


async def test_one_daemon_of_a_host_has_an_engine(autojump_clock: MockClock) -> None:
    async with bench() as b:
        await b.engine(8080)
        first, second = b.backends(detect=True), b.backends(detect=True)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.run)
                await first.first_probe_done()
                await b.start(second)
                assert states(first) == ["serving"]
                assert states(second)[0].startswith("refused: another meshd of this machine (pid ")
                assert names(second) == []
                scope.cancel()
        await until(lambda: bool(names(second)))
        assert states(second) == ["serving"]


async def test_a_meshd_is_no_engine(autojump_clock: MockClock) -> None:
    async with bench() as b:
        engine = MemoryEngine(dialect=Dialect.OLLAMA)

        async def handle(request: ServerRequest, responder: Responder) -> None:
            """Looks like Ollama, as meshd does."""
            body = b"Ollama is running"
            await responder.send(200, [(b"x-meshd-node", b"attic")], body)

        assert engine.model
        listener = await b.host.listen_clients("127.0.0.1", 11434)
        b.nursery.start_soon(HttpServer(handle, b.sweeper).serve, listener)
        backends = b.backends(detect=True)
        await b.start(backends)
        assert states(backends) == ["refused: it is a meshd itself (node attic)"]
        assert names(backends) == []


# --- running


@pytest.mark.parametrize("dialect", list(Dialect))
async def test_an_answer_is_whole_and_timed(autojump_clock: MockClock, dialect: Dialect) -> None:
    async with bench() as b:
        await b.engine(8080, dialect=dialect, tokens_per_s=10, prefill_s=2.0)
        backends = b.backends(detect=True)
        await b.start(backends)
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
        backends = b.backends(detect=True)
        await b.start(backends)
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
        backends = b.backends(detect=True)
        await b.start(backends)
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
        backends = b.backends(detect=True)
        await b.start(backends)
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
        backends = b.backends(detect=True)
        await b.start(backends)
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
        backends = b.backends(detect=True)
        await b.start(backends)
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
        backends = b.backends(detect=True)
        await b.start(backends)
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
        backends = b.backends(detect=True)
        await b.start(backends)
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
        backends = b.backends(detect=True)
        await b.start(backends)
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
        backends = b.backends(detect=True)
        await b.start(backends)
        before = trio.current_time()
        answer = await ask(backends)
        assert (answer.text, answer.finish) == ("a", "stop")
        assert trio.current_time() - before < limits.ENGINE_TAIL_S + 0.2


async def test_ollamas_empty_request_on_an_engine_that_loads_by_itself(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        engine = await b.engine(8080)
        backends = b.backends(detect=True)
        await b.start(backends)
        answer = await ask(backends, Request(Kind.CHAT, "tiny"))
        assert answer.finish == "load"
        with pytest.raises(BackendFailed, match="unloads no model"):
            await ask(backends, Request(Kind.CHAT, "tiny", keep_alive=0))
        assert engine.requests == []


async def test_show_is_ollamas_own_or_made_up(autojump_clock: MockClock) -> None:
    async with bench() as b:
        await b.engine(8080, model="a")
        await b.engine(11434, model="b", dialect=Dialect.OLLAMA)
        backends = b.backends(detect=True)
        await b.start(backends)
        backend, model = backends.holders("a")[0]
        assert (await backend.show(model))["capabilities"] == ["completion", "tools", "embedding"]
        backend, model = backends.holders("b")[0]
        assert (await backend.show(model))["parameters"] == "num_ctx    4096"


# --- bundled engines


def bundle(backends: Backends) -> None:
    backends.add_bundled(
        PurePath("/models/tiny.gguf"), alias=None, slots=2, context_tokens=1024, embedding=False
    )


async def test_a_bundled_engine_is_served_with_its_digest(autojump_clock: MockClock) -> None:
    async with bench() as b:
        backends = b.backends()
        bundle(backends)
        await b.start(backends)
        (info,) = backends.inventory().backends
        assert (info.id, info.engine, info.slots) == ("bundled-tiny", "llama.cpp", 2)
        (model,) = info.models
        assert model.name == "tiny"
        assert model.digest == await b.engines.digest(PurePath("/models/tiny.gguf"))
        assert (await ask(backends)).text == expected_text()


async def test_a_bundled_engine_that_dies_is_started_again_each_time_later(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        backends = b.backends()
        bundle(backends)
        await b.start(backends)
        for number in range(5):
            b.engines.processes[-1].kill()
            died_at = trio.current_time()
            await until(lambda: not names(backends))
            assert states(backends) == ["gone: the engine ended (-9)"]
            await until(lambda: bool(names(backends)))
            assert len(b.engines.processes) == number + 2
            waited_s = trio.current_time() - died_at
            delay_s = limits.ENGINE_RESTART_MIN_S * 2**number
            assert 0.5 * delay_s <= waited_s <= 1.5 * delay_s + 0.5
        await trio.sleep(2 * limits.ENGINE_STEADY_S)
        b.engines.processes[-1].kill()
        died_at = trio.current_time()
        await until(lambda: len(b.engines.processes) == 7)
        assert trio.current_time() - died_at < 2 * limits.ENGINE_RESTART_MIN_S + 1


async def test_a_run_on_a_bundled_engine_that_dies_breaks_off(autojump_clock: MockClock) -> None:
    async with bench() as b:
        backends = b.backends()
        bundle(backends)
        await b.start(backends)
        backend, model = backends.holders("tiny")[0]
        answer = Answer()
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                with pytest.raises((StreamBroken, BackendFailed)):
                    await backend.run(CHAT, model, answer.emit, RunControl())

            nursery.start_soon(run)
            await until(lambda: len(answer.text) > 20)
            b.engines.processes[-1].kill()
        assert expected_text().startswith(answer.text)
        assert answer.finish is None


async def test_a_bundled_engine_that_does_not_start_says_why_and_is_tried_again(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        b.engines.broken = "not a GGUF file"
        backends = b.backends()
        bundle(backends)
        await b.start(backends)
        (row,) = backends.rows()
        assert row.id == "bundled-tiny"
        assert row.state.endswith("/models/tiny.gguf: not a GGUF file")
        b.engines.broken = ""
        await until(lambda: bool(names(backends)))
        assert states(backends) == ["serving"]


async def test_starting_waits_no_longer_than_it_must_for_slow_engines(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        b.engines = MemoryEngines(b.host, b.nursery, spawn_s=1000.0)
        backends = b.backends()
        bundle(backends)
        before = trio.current_time()
        await b.start(backends)
        assert trio.current_time() - before == pytest.approx(limits.FIRST_PROBES_S, abs=0.1)
        assert states(backends) == ["gone: it is starting"]


async def test_a_node_without_engines_is_ready_at_once(autojump_clock: MockClock) -> None:
    async with bench() as b:
        backends = b.backends()
        await b.start(backends)
        assert backends.inventory().backends == []
        assert backends.rows() == []
