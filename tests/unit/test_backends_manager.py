"""Engines are found, come and go, and belong to one daemon: the manager, in virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.config import BackendConfig
from meshd.errors import DialFailed
from meshd.http import HttpServer, Responder, ServerRequest
from meshd.inference import Kind, Request, Sampling
from meshd.machine.disk import FileDisk
from meshd.testing.memory_engine import Dialect, MemoryEngine
from tests.unit.backend_bench import CHAT, CLAIMS, ask, bench, names, states, until

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
        backends = await b.started(detect=True)
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
        backends = await b.started("http://127.0.0.1:7000/v1/")
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
        backends = await b.started(
            BackendConfig("http://localhost:7000", "mine", "sesame", slots=3)
        )
        (info,) = backends.inventory().backends
        assert (info.id, info.slots) == ("mine", 3)
        assert set(seen) == {b"Bearer sesame"}


async def test_a_place_is_watched_once_however_often_it_is_named(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:
        await b.engine(8080)
        backends = await b.started("http://localhost:8080", "http://127.0.0.1:8080/v1", detect=True)
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
        backends = await b.started(detect=True)
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
        backends = await b.started(detect=True)
        engine.crash()
        await trio.sleep(0.1)
        await b.engine(8080, dialect=Dialect.OLLAMA)
        await until(lambda: names(backends) == [("ollama-8080", "tiny:latest")])


async def test_a_failed_run_makes_it_look_at_once(autojump_clock: MockClock) -> None:
    async with bench() as b:
        engine = await b.engine(8080)
        backends = await b.started("http://127.0.0.1:8080")
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
        backends = await b.started(detect=True)
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
        backends = await b.started(detect=True)
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
        backends = await b.started(detect=True)
        assert not backends.holders("tiny")[0][1].resident
        before = trio.current_time()
        await ask(backends)
        await until(lambda: backends.holders("tiny")[0][1].resident)
        assert 3.0 <= trio.current_time() - before < limits.PROBE_S


async def test_nothing_new_tells_nobody(autojump_clock: MockClock) -> None:
    async with bench() as b:
        await b.engine(8080)
        backends = await b.started(detect=True)
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


async def test_what_looked_like_an_engine_and_is_none_is_left_to_others(
    autojump_clock: MockClock,
) -> None:
    async with bench() as b:

        async def handle(request: ServerRequest, responder: Responder) -> None:
            """Is recognised, claimed, and then has no list of models."""
            if request.path == "/":
                return await responder.send(200, [], b"Ollama is running")
            if request.path == "/api/version":
                return await responder.send(200, [], b'{"version": "0.9.9"}')
            return await responder.send(500, [], b'{"error": "no"}')

        listener = await b.host.listen_clients("127.0.0.1", 11434)
        b.nursery.start_soon(HttpServer(handle, b.sweeper).serve, listener)
        backends = await b.started(detect=True)
        assert backends.rows() == []
        claim = CLAIMS / "127.0.0.1_11434.claim"
        assert b.disk.lock(claim) is None, "nobody has claimed it"


async def test_claims_that_nobody_holds_are_taken_away_at_a_start(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    disk, other = FileDisk(), FileDisk()
    for disk_of, port in ((disk, 1), (disk, 2), (other, 3)):
        disk_of.lock(tmp_path / f"127.0.0.1_{port}.claim")
    disk.unlock(tmp_path / "127.0.0.1_1.claim")
    disk.unlock(tmp_path / "127.0.0.1_2.claim")
    disk.append(tmp_path / "notes", b"")
    async with bench() as b:
        b.disk = disk  # type: ignore[assignment]
        backends = b.backends()
        backends.claims_dir = tmp_path
        await b.start(backends)
        assert disk.names(tmp_path) == ["127.0.0.1_3.claim", "notes"]


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
        backends = await b.started(detect=True)
        assert states(backends) == ["refused: it is a meshd itself (node attic)"]
        assert names(backends) == []
