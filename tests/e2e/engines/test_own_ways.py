"""What is one engine's own way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from meshd.backends import BackendFailed, RunControl
from meshd.inference import FailureKind, Kind, Request, Sampling
from meshd.testing.engines import RealOllama, why_no_ollama
from meshd.testing.models import Recipe, build, expected_text
from tests.e2e.engines.asking import (
    COUNTER,
    SLOW,
    Answer,
    Serve,
    Start,
    ask,
    chat,
    holder,
    needs_llama,
    until,
)
from tests.e2e.weather import TOOLS


async def test_logprobs_of_llama_cpp(llama: Start, serve: Serve) -> None:
    async with serve(llama().url) as backends:
        sampling = Sampling(temperature=0, max_tokens=3)
        request = chat(logprobs=True, top_logprobs=2, sampling=sampling)
        answer = await ask(backends, request)
        bare = await ask(backends, chat(logprobs=True, sampling=sampling))
    assert [token.token for token in answer.logprobs] == [" bababa", " dababa", " fababa"]
    assert [len(token.top) for token in answer.logprobs] == [2, 2, 2]
    assert answer.logprobs[0].bytes == list(b" bababa")
    assert [len(token.top) for token in bare.logprobs] == [0, 0, 0]


async def test_logprobs_of_an_ollama_that_has_none_are_refused(
    ollama: RealOllama, serve: Serve
) -> None:
    async with serve(ollama.url) as backends:
        with pytest.raises(BackendFailed, match="logprobs") as caught:
            await ask(backends, chat(logprobs=True))
    assert caught.value.failure.kind == FailureKind.UNSUPPORTED


async def test_tools_on_a_model_without_them_are_refused_by_ollama(
    ollama: RealOllama, serve: Serve
) -> None:
    async with serve(ollama.url) as backends:
        with pytest.raises(BackendFailed, match="does not support tools") as caught:
            await ask(backends, chat(tools=TOOLS))
    assert caught.value.failure.kind == FailureKind.UNSUPPORTED


async def test_a_smaller_num_ctx_does_not_reload_the_model(
    ollama: RealOllama, serve: Serve
) -> None:
    async with serve(ollama.url) as backends:
        await ask(backends, chat(sampling=Sampling(temperature=0, max_tokens=1)))
        await until(lambda: holder(backends, "tiny")[1].resident)
        before = set(ollama.runner_pids())
        options = {"num_ctx": 1024}
        answer = await ask(backends, chat(options=options))
        assert answer.text == expected_text()
        assert set(ollama.runner_pids()) == before


async def test_ollama_loads_and_unloads_on_request(ollama: RealOllama, serve: Serve) -> None:
    async with serve(ollama.url) as backends:
        loaded = await ask(backends, Request(Kind.CHAT, "halves"))
        assert loaded.finish == "load"
        await until(lambda: holder(backends, "halves")[1].resident)
        unloaded = await ask(backends, Request(Kind.CHAT, "halves", keep_alive=0))
        assert unloaded.finish == "unload"
        await until(lambda: not holder(backends, "halves")[1].resident)


async def test_a_full_queue_of_ollama_is_busy(tmp_path: Path, serve: Serve) -> None:
    if why_no_ollama():
        pytest.skip(why_no_ollama())
    with RealOllama(tmp_path, parallel=1, max_queue=1) as engine:
        engine.load("slow", build(SLOW), parameters={"num_ctx": 4096})
        kinds: list[str] = []
        async with serve(engine.url) as backends:
            backend, model = holder(backends, "slow")

            async def one() -> None:
                request = chat("slow", sampling=Sampling(temperature=0, max_tokens=200))
                try:
                    await backend.run(request, model, Answer().emit, RunControl())
                except BackendFailed as error:
                    kinds.append(error.failure.kind)

            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    nursery.start_soon(one)
    assert kinds
    assert set(kinds) == {FailureKind.BUSY}


@needs_llama
async def test_a_bundled_engine_is_started_again_after_kill_9(
    gguf: Callable[[Recipe], Path], serve: Serve
) -> None:
    async with serve(bundled=[gguf(COUNTER)]) as backends:
        (info,) = backends.inventory().backends
        assert info.models[0].digest.startswith("gguf-")
        url = backends.rows()[0].url
        process = await trio.to_thread.run_sync(_pid_serving, url)
        os.kill(process, signal.SIGKILL)
        await until(lambda: bool(backends.rows()[0].url) and backends.rows()[0].url != url)
        await until(lambda: bool(backends.inventory().backends))
        assert (await ask(backends, chat())).text == expected_text()


def _pid_serving(url: str) -> int:
    """Which child of this process has that port; `ss` is not everywhere."""
    import psutil

    port = int(url.rpartition(":")[2])
    for child in psutil.Process().children(recursive=True):
        for connection in child.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                return child.pid
    raise AssertionError(f"no child serves {url}")
