"""The example client fails over when its entry dies or freezes: real daemons, one real run."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from examples import failover
from meshd.control import RecordReport
from meshd.testing.daemons import Daemon, Gguf, joined
from meshd.testing.models import expected_text
from tests.e2e.conftest import LONG

ASK: list[Any] = [{"role": "user", "content": "Count, please."}]
TOKENS = 2_000
TEXT = expected_text(LONG, max_tokens=TOKENS)
NEVER_S = 40.0
Daemons = tuple[Daemon, ...]


def until(is_so: Callable[[], bool], what: str) -> None:
    """Looks at real processes until it is so; nothing depends on how often."""
    give_up_at = time.monotonic() + NEVER_S
    while not is_so():
        assert time.monotonic() < give_up_at, f"never came: {what}"
        time.sleep(0.05)


def votes(daemon: Daemon) -> int:
    report = msgspec.json.decode(daemon.order("GET", "/control/record"), type=RecordReport)
    return sum(row.part in ("leads", "votes") for row in report.voters)


@pytest.fixture(scope="module")
def daemons(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    """All three vote; only `b` has the engine."""
    folder = tmp_path_factory.mktemp("failover")
    a, c = (Daemon(folder / name, name) for name in "ac")
    b = Daemon(folder / "b", "b", ggufs=[Gguf(models / "long.gguf", "long", 2, 32_768)])
    with ExitStack() as stack:
        for daemon in (a, b, c):
            stack.callback(daemon.close)
        a.start()
        joined(a, [b, c])
        yield a, b, c


@pytest.fixture
def mesh(daemons: Daemons) -> Daemons:
    """The same, when all is well with them."""
    for daemon in daemons:
        assert daemon.process is not None
        if daemon.process.poll() is not None:
            daemon.start()
    for daemon in daemons:
        daemon.wait_until(lambda status: status.models == 1, "it knows the model")
    until(lambda: all(votes(daemon) == 3 for daemon in daemons), "all three vote")
    return daemons


def counters(daemons: Daemons) -> list[int]:
    """Runs of each, and how often any of them asked another holder."""
    told = [daemon.status().counters for daemon in daemons]
    return [*(one.get("requests", 0) for one in told), sum(one.get("retries", 0) for one in told)]


def done_jobs(daemon: Daemon) -> set[str]:
    told = httpx.get(f"{daemon.api_url}/mesh/v1/jobs?state=done", timeout=NEVER_S)
    return {job["id"] for job in told.json()["jobs"]}


def asked(a: Daemon, c: Daemon, **options: Any) -> Iterator[str]:
    options |= {"model": "long", "messages": ASK, "max_tokens": TOKENS, "temperature": 0}
    return failover.ask([a.api_url, c.api_url], **options)


def test_an_entry_that_freezes_in_mid_stream_costs_the_client_nothing(mesh: Daemons) -> None:
    """As a machine does whose lid is closed: no connection breaks, new ones are not answered."""
    a, b, c = mesh
    before = counters((b, c))
    assert a.process is not None
    answer = asked(a, c, silence_s=3.0)
    pieces = list(islice(answer, 50))
    os.kill(a.process.pid, signal.SIGSTOP)
    try:
        pieces += answer
    finally:
        os.kill(a.process.pid, signal.SIGCONT)
    assert "".join(pieces) == TEXT, "whole, and each piece once"
    assert counters((b, c)) == [before[0] + 1, *before[1:]], "the holder went on"


def test_an_entry_killed_in_mid_stream_costs_the_client_nothing(mesh: Daemons) -> None:
    a, b, c = mesh
    before, jobs_before = counters((b, c)), done_jobs(c)
    answer = asked(a, c)
    pieces = list(islice(answer, 50))
    a.kill()
    killed_at = time.monotonic()
    pieces += islice(answer, 1000)
    print(f"the gap: {time.monotonic() - killed_at:.2f} s at most, with what came after it")
    pieces += answer
    assert "".join(pieces) == TEXT, "whole, and each piece once"
    assert counters((b, c)) == [before[0] + 1, *before[1:]], "the holder went on"
    # By its id it is told at any node, from any place.
    (job,) = done_jobs(c) - jobs_before
    rest = httpx.get(f"{c.api_url}/mesh/v1/jobs/{job}/stream?from=50", timeout=NEVER_S)
    assert "".join([*pieces[:50], *texts(rest.text)]) == TEXT


def texts(sse: str) -> list[str]:
    """What the events of a stream say."""
    said = [line.removeprefix("data: ") for line in sse.splitlines() if line.startswith("data: {")]
    choices = [choice for data in said for choice in json.loads(data)["choices"]]
    return [choice["delta"].get("content") or "" for choice in choices]
