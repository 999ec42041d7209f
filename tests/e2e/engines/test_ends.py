"""Ends of answers that are none: aborts, kills, what is gone or does not fit."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from meshd.backends import BackendFailed, RunControl
from meshd.errors import MeshdError, StreamBroken
from meshd.inference import FailureKind, Message, ModelInfo, Sampling
from meshd.testing.engines import RealOllama
from meshd.testing.models import expected_text
from tests.e2e.engines.asking import (
    SLOW,
    Answer,
    Serve,
    Start,
    all_slots_idle,
    ask,
    chat,
    holder,
    until,
)


async def test_an_abort_frees_the_slot_at_once(llama: Start, serve: Serve) -> None:
    engine = llama(SLOW, alias="slow", context_tokens=4096)
    async with serve(engine.url) as backends:
        control, answer = RunControl(), Answer()
        backend, model = holder(backends, "slow")
        with engine.paced():
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    with pytest.raises(StreamBroken, match="the client left"):
                        await backend.run(chat("slow"), model, answer.emit, control)

                nursery.start_soon(run)
                await until(lambda: len(answer.text) > 30)
                control.abort("the client left")
        await all_slots_idle(engine)
    assert answer.finish is None
    assert expected_text(SLOW).startswith(answer.text)
    assert answer.text != expected_text(SLOW)


async def test_an_abort_ends_ollamas_run(ollama: RealOllama, serve: Serve) -> None:
    async with serve(ollama.url) as backends:
        control, answer = RunControl(), Answer()
        backend, model = holder(backends, "slow")
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                with pytest.raises(StreamBroken, match="the client left"):
                    await backend.run(chat("slow"), model, answer.emit, control)

            nursery.start_soon(run)
            await until(lambda: len(answer.text) > 30)
            control.abort("the client left")
        # the runner is free again, and says the right thing from the beginning
        sampling = Sampling(temperature=0, max_tokens=5)
        again = await ask(backends, chat("slow", sampling=sampling))
    assert again.text == expected_text(SLOW, max_tokens=5)
    assert answer.finish is None


async def test_kill_9_in_mid_answer_is_no_end_and_the_engine_is_gone(
    llama: Start, serve: Serve
) -> None:
    engine = llama(SLOW, alias="slow", context_tokens=4096)
    async with serve(engine.url) as backends:
        answer = Answer()
        backend, model = holder(backends, "slow")
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                with pytest.raises(MeshdError) as caught:
                    await backend.run(chat("slow"), model, answer.emit, RunControl())
                assert isinstance(caught.value, StreamBroken | BackendFailed)

            nursery.start_soon(run)
            with engine.paced():
                await until(lambda: len(answer.text) > 30)
                engine.kill()
        assert answer.finish is None
        assert expected_text(SLOW).startswith(answer.text)
        await until(lambda: not backends.inventory().backends)
        assert backends.rows()[0].state.startswith("gone: ")


async def test_a_killed_runner_of_ollama_is_a_broken_answer_and_the_next_one_is_whole(
    ollama: RealOllama, serve: Serve
) -> None:
    async with serve(ollama.url) as backends:
        answer = Answer()
        backend, model = holder(backends, "slow")
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                with pytest.raises(BackendFailed) as caught:
                    await backend.run(chat("slow"), model, answer.emit, RunControl())
                assert caught.value.failure.kind == FailureKind.BROKEN

            nursery.start_soon(run)
            await until(lambda: len(answer.text) > 30)
            for pid in ollama.runner_pids():
                os.kill(pid, signal.SIGKILL)
        assert answer.finish is None
        assert expected_text(SLOW).startswith(answer.text)
        sampling = Sampling(temperature=0, max_tokens=5)
        again = await ask(backends, chat("slow", sampling=sampling))
    assert again.text == expected_text(SLOW, max_tokens=5)


async def test_a_model_that_is_gone_is_not_found(ollama: RealOllama, serve: Serve) -> None:
    async with serve(ollama.url) as backends:
        backend, _ = holder(backends, "tiny")
        with pytest.raises(BackendFailed, match="not found") as caught:
            await backend.run(chat(), ModelInfo("nope:latest"), Answer().emit, RunControl())
    assert caught.value.failure.kind == FailureKind.NOT_FOUND
    assert caught.value.failure.status == 404


async def test_a_prompt_that_does_not_fit_is_an_overflow(llama: Start, serve: Serve) -> None:
    engine = llama(context_tokens=256)
    async with serve(engine.url) as backends:
        assert holder(backends, "tiny")[1].context_tokens == 256
        with pytest.raises(BackendFailed) as caught:
            await ask(backends, chat(messages=[Message("user", "bababa " * 400)]))
    assert caught.value.failure.kind == FailureKind.CONTEXT_OVERFLOW
    assert caught.value.failure.status == 400


async def test_an_engine_that_is_killed_and_started_again_is_back(
    llama: Start, serve: Serve
) -> None:
    engine = llama()
    async with serve(engine.url) as backends:
        backend, model = holder(backends, "tiny")
        engine.kill()
        with pytest.raises(MeshdError):
            await backend.run(chat(), model, Answer().emit, RunControl())
        await until(lambda: not backends.inventory().backends)
        await trio.to_thread.run_sync(engine.start)
        await until(lambda: bool(backends.inventory().backends))
        assert (await ask(backends, chat())).text == expected_text()
