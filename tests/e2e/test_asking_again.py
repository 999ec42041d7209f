"""The real `openai` client asks the same twice: two daemons, one engine, one run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from meshd.testing.daemons import Daemon, Gguf, joined
from meshd.testing.models import expected_text
from tests.e2e.conftest import LONG

ASK: list[Any] = [{"role": "user", "content": "Count, please."}]
TOKENS = 3_000
TEXT = expected_text(LONG, max_tokens=TOKENS).strip()
POLL_S = 0.02
NEVER_S = 30.0


@pytest.fixture(scope="module")
def mesh(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    """`a` has the long model and the only vote; `b` has no engine."""
    folder = tmp_path_factory.mktemp("again")
    a = Daemon(folder / "a", "a", ggufs=[Gguf(models / "long.gguf", "long", 2, 32_768)])
    b = Daemon(folder / "b", "b")
    with ExitStack() as stack:
        stack.callback(b.close)
        stack.callback(a.close)
        a.start()
        joined(a, [b])
        for daemon in (a, b):
            daemon.wait_until(lambda status: status.models == 1, "it knows the model")
        until(lambda: takes_keys(b), "b's record is in order")
        yield a, b


def until(is_so: Callable[[], bool], what: str) -> None:
    """Looks at real processes until it is so; nothing depends on how often."""
    give_up_at = time.monotonic() + NEVER_S
    while not is_so():
        assert time.monotonic() < give_up_at, f"never came: {what}"
        time.sleep(POLL_S)


def takes_keys(daemon: Daemon) -> bool:
    body = {"model": "long", "messages": ASK, "max_tokens": 1}
    headers = {"idempotency-key": "first"}
    url = f"{daemon.api_url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=headers, timeout=NEVER_S).status_code == 200


@contextmanager
def frozen_engine(daemon: Daemon) -> Iterator[Callable[[], None]]:
    """SIGSTOP for the daemon's engine, until it is thawed or the block ends."""
    assert daemon.process is not None
    (engine,) = psutil.Process(daemon.process.pid).children()
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        yield lambda: os.kill(engine.pid, signal.SIGCONT)
    finally:
        os.kill(engine.pid, signal.SIGCONT)


def client(daemon: Daemon, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.api_url}/v1", api_key="none", **options)


def counter(daemon: Daemon, name: str) -> int:
    return daemon.status().counters.get(name, 0)


def test_a_timeout_of_the_library_and_its_retry_are_one_run(mesh: tuple[Daemon, Daemon]) -> None:
    """Of a whole answer: a stream says early that somebody is there, so it does not time out."""
    a, _ = mesh
    ran, joined_ = counter(a, "requests"), counter(a, "retries_joined")

    def ask() -> str:
        with client(a, timeout=2.0, max_retries=1) as library:
            made = library.chat.completions.create(
                model="long", messages=ASK, max_tokens=20, temperature=0
            )
            return made.choices[0].message.content or ""

    with ThreadPoolExecutor() as pool, frozen_engine(a) as thaw:
        asked = pool.submit(ask)
        until(lambda: counter(a, "retries_joined") == joined_ + 1, "the retry")
        thaw()
        assert asked.result().strip() == expected_text(LONG, max_tokens=20).strip()
    assert counter(a, "requests") == ran + 1


def test_a_repeat_at_another_node_hears_the_run_as_it_goes(mesh: tuple[Daemon, Daemon]) -> None:
    a, b = mesh
    ran = counter(a, "requests") + counter(b, "requests")
    with ExitStack() as stack:

        def ask(daemon: Daemon) -> Iterator[Any]:
            library = stack.enter_context(client(daemon, timeout=NEVER_S, max_retries=0))
            return iter(
                library.chat.completions.create(
                    model="long",
                    messages=ASK,
                    max_tokens=TOKENS,
                    temperature=0,
                    stream=True,
                    extra_headers={"Idempotency-Key": "aloud"},
                )
            )

        first = ask(b)
        chunks = list(islice(first, 10))
        with frozen_engine(a) as thaw:
            again = ask(a)
            repeated = list(islice(again, 10))
            assert repeated == chunks
            assert counter(b, "answered") + counter(a, "answered") < ran + 1, "it still runs"
            thaw()
            chunks += first
            repeated += again
    assert repeated == chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).strip() == TEXT
    assert counter(a, "requests") + counter(b, "requests") == ran + 1
