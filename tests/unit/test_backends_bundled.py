"""Bundled engines start, die and are started again: the manager, in virtual time."""

from __future__ import annotations

from pathlib import PurePath

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.backends import BackendFailed, Backends, RunControl
from meshd.errors import StreamBroken
from meshd.testing.memory_engine import MemoryEngines
from meshd.testing.models import expected_text
from tests.unit.backend_bench import CHAT, Answer, ask, bench, names, states, until


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
        backends = await b.started()
        assert backends.inventory().backends == []
        assert backends.rows() == []
