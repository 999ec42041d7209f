"""Accidents on the way of a real answer: engine killed or frozen, client gone, node stopped."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import ollama
import openai
import psutil
import pytest

from meshd.control import ModelRow
from meshd.testing.daemons import Daemon, Gguf, joined
from meshd.testing.models import expected_text
from tests.e2e.conftest import LONG

ASK = [{"role": "user", "content": "Count, please."}]
WORDS = expected_text(LONG).split()
MANY = 15_000
"""Tokens of an answer that is still running when its accident happens."""
POLL_S = 0.02
NEVER_S = 30.0


@pytest.fixture(scope="module")
def mesh(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    """`a` is the entry and has no engine; `b` has the long model."""
    folder = tmp_path_factory.mktemp("relay")
    a = Daemon(folder / "a", "a")
    b = Daemon(
        folder / "b",
        "b",
        ggufs=[Gguf(models / "long.gguf", "long", 2, 32_768)],
        settings="[limits]\nfirst_token_s = 1",
    )
    with ExitStack() as stack:
        stack.callback(b.close)
        stack.callback(a.close)
        a.start()
        joined(a, [b])
        b.join = b.token = ""
        yield a, b


@pytest.fixture
def entry(mesh: tuple[Daemon, Daemon]) -> Iterator[Daemon]:
    """`a`, when b runs and offers its model."""
    a, b = mesh
    assert b.process is not None
    if b.process.poll() is not None:
        b.start()
    until(lambda: answers(a), "the entry answers for the holder's model")
    yield a
    if b.process.poll() is None:
        b.process.send_signal(signal.SIGCONT)


@pytest.fixture
def holder(mesh: tuple[Daemon, Daemon]) -> Daemon:
    return mesh[1]


def until(is_so: Callable[[], bool], what: str) -> None:
    """Looks at real processes until it is so; nothing depends on how often."""
    give_up_at = time.monotonic() + NEVER_S
    while not is_so():
        assert time.monotonic() < give_up_at, f"never came: {what}"
        time.sleep(POLL_S)


def answers(entry: Daemon) -> bool:
    body = {"model": "long", "messages": ASK, "max_tokens": 2, "temperature": 0}
    answer = httpx.post(f"{entry.api_url}/v1/chat/completions", json=body, timeout=NEVER_S)
    if answer.status_code != 200:
        assert answer.status_code in (404, 503), answer.text  # not heard of yet, or away
        return False
    text = answer.json()["choices"][0]["message"]["content"]
    assert text.split() == WORDS[:2]
    return True


def engine_pid(daemon: Daemon) -> int:
    assert daemon.process is not None
    (engine,) = psutil.Process(daemon.process.pid).children()
    return engine.pid


def is_idle(daemon: Daemon) -> bool:
    """Whether neither the daemon nor its engine is at anything."""
    status = daemon.status()
    slots = httpx.get(f"{status.backends[0].url}/slots", timeout=NEVER_S).json()
    return status.node.running == 0 and not any(slot["is_processing"] for slot in slots)


def openai_stream(entry: Daemon, max_tokens: int = MANY) -> Iterator[str]:
    with openai.OpenAI(base_url=f"{entry.api_url}/v1", api_key="none", max_retries=0) as client:
        for chunk in client.chat.completions.create(
            model="long", messages=ASK, stream=True, temperature=0, max_tokens=max_tokens
        ):
            for choice in chunk.choices:
                yield choice.delta.content or ""
                if choice.finish_reason:
                    yield f"<{choice.finish_reason}>"


def ollama_stream(entry: Daemon, max_tokens: int = MANY) -> Iterator[str]:
    options = {"temperature": 0, "num_predict": max_tokens}
    client = ollama.Client(host=entry.api_url)
    for part in client.chat(model="long", messages=ASK, stream=True, options=options):
        yield part.message.content or ""
        if part.done:
            yield f"<{part.done_reason}>"


def some_of(stream: Iterator[str], pieces: int = 20) -> list[str]:
    return [next(stream) for _ in range(pieces)]


def is_beginning(pieces: list[str]) -> bool:
    """Whether it is the answer's beginning and not all of it; the last word may be cut."""
    text = "".join(pieces).strip()
    return expected_text(LONG).strip().startswith(text) and len(text.split()) < MANY


def test_an_engine_killed_in_mid_answer_ends_the_stream_and_is_started_again(
    entry: Daemon, holder: Daemon
) -> None:
    stream = openai_stream(entry)
    pieces = some_of(stream)
    killed = engine_pid(holder)
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="broke off"):
        pieces += stream
    assert is_beginning(pieces)
    until(lambda: answers(entry), "the engine is started again and asked")
    assert engine_pid(holder) != killed


@pytest.mark.timeout(60)
def test_a_holder_that_stands_still_ends_the_stream_and_hangs_nobody(
    entry: Daemon, holder: Daemon
) -> None:
    stream = ollama_stream(entry)
    pieces = some_of(stream)
    assert holder.process is not None
    holder.process.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    with pytest.raises(ollama.ResponseError, match="not been heard"):
        pieces += stream
    assert time.monotonic() - stopped_at < 10, "generous: it is meant to be about two seconds"
    assert is_beginning(pieces)
    holder.process.send_signal(signal.SIGCONT)
    until(lambda: answers(entry), "the holder is asked again")
    until(lambda: is_idle(holder), "what nobody waits for does not run on")


def test_an_engine_that_stands_still_is_found_out_by_asking(entry: Daemon, holder: Daemon) -> None:
    engine = engine_pid(holder)
    os.kill(engine, signal.SIGSTOP)
    try:
        body = {"model": "long", "messages": ASK, "max_tokens": 2}
        answer = httpx.post(f"{entry.api_url}/v1/chat/completions", json=body, timeout=NEVER_S)
    finally:
        os.kill(engine, signal.SIGCONT)
    assert answer.status_code == 504
    assert "did not begin to answer" in answer.text
    until(lambda: answers(entry), "it is asked again")
    assert engine_pid(holder) == engine


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_remote_engine(
    entry: Daemon, holder: Daemon, stream: bool
) -> None:
    body = {
        "model": "long",
        "messages": ASK,
        "max_tokens": MANY,
        "temperature": 0,
        "stream": stream,
    }
    url = f"{entry.api_url}/v1/chat/completions"
    retries = entry.status().counters.get("retries", 0)
    if stream:
        with httpx.stream("POST", url, json=body, timeout=NEVER_S) as response:
            lines = response.iter_lines()
            assert json.loads(next(lines).removeprefix("data: "))
            until(lambda: holder.status().node.running == 1, "the holder runs it")
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body, timeout=0.3)
    until(lambda: is_idle(holder), "the engine's slot is free")
    assert entry.status().counters.get("retries", 0) == retries


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
def test_a_holder_that_is_stopped_finishes_its_stream(
    entry: Daemon, holder: Daemon, dialect: str
) -> None:
    tokens = 1500
    stream = (openai_stream if dialect == "openai" else ollama_stream)(entry, tokens)
    pieces = some_of(stream)
    assert holder.process is not None
    holder.process.send_signal(signal.SIGTERM)
    pieces += stream
    assert pieces[-1] == "<length>"
    assert "".join(pieces[:-1]).split() == WORDS[:tokens]
    assert holder.process.wait(NEVER_S) == 0
    assert "1 request may finish" in holder.log_text(), "it was still at it when it was stopped"


@pytest.fixture(scope="module")
def twins(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """An entry without an engine, and two holders of the same model."""
    folder = tmp_path_factory.mktemp("twins")
    gguf = Gguf(models / "long.gguf", "long", 2, 32_768)
    daemons = [
        Daemon(folder / "entry", "entry"),
        Daemon(folder / "one", "one", ggufs=[gguf]),
        Daemon(folder / "two", "two", ggufs=[gguf]),
    ]
    with ExitStack() as stack:
        for daemon in daemons:
            stack.callback(daemon.close)
        daemons[0].start()
        joined(daemons[0], daemons[1:])
        yield daemons


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
@pytest.mark.parametrize("how", ["engine", "daemon"])
def test_a_stream_goes_on_at_another_holder(twins: list[Daemon], how: str, dialect: str) -> None:
    entry, *holders = twins
    for holder in holders:
        assert holder.process is not None
        if holder.process.poll() is not None:
            holder.join = holder.token = ""
            holder.start()
    until(lambda: len(placed(entry)) == 2, "the entry knows both holders")
    before = entry.status().counters.get("went_on_by_continue", 0)
    tokens = 1500
    stream = (openai_stream if dialect == "openai" else ollama_stream)(entry, tokens)
    pieces = some_of(stream)
    (busy,) = (holder for holder in holders if holder.status().node.running)
    if how == "engine":
        os.kill(engine_pid(busy), signal.SIGKILL)
    else:
        busy.kill()
    pieces += stream
    assert pieces[-1] == "<length>"
    assert "".join(pieces[:-1]).split() == WORDS[:tokens]
    assert entry.status().counters["went_on_by_continue"] == before + 1


def placed(entry: Daemon) -> list[str]:
    """The nodes that an entry would ask for the long model."""
    rows = msgspec.json.decode(entry.order("GET", "/control/models"), type=list[ModelRow])
    return [copy.node for row in rows for copy in row.copies if row.name == "long"]
