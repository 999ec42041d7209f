"""The example client fails over when its entry is killed: real daemons, a real engine, one run."""

from __future__ import annotations

import json
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


def until(is_so: Callable[[], bool], what: str) -> None:
    """Looks at real processes until it is so; nothing depends on how often."""
    give_up_at = time.monotonic() + NEVER_S
    while not is_so():
        assert time.monotonic() < give_up_at, f"never came: {what}"
        time.sleep(0.05)


def votes(daemon: Daemon) -> int:
    report = msgspec.json.decode(daemon.order("GET", "/control/record"), type=RecordReport)
    return sum(row.part in ("leads", "votes") for row in report.voters)


@pytest.fixture
def mesh(models: Path, tmp_path: Path) -> Iterator[tuple[Daemon, Daemon, Daemon]]:
    """All three vote; only `b` has the engine."""
    a, c = (Daemon(tmp_path / name, name) for name in "ac")
    b = Daemon(tmp_path / "b", "b", ggufs=[Gguf(models / "long.gguf", "long", 2, 32_768)])
    with ExitStack() as stack:
        for daemon in (a, b, c):
            stack.callback(daemon.close)
        a.start()
        joined(a, [b, c])
        for daemon in (a, b, c):
            daemon.wait_until(lambda status: status.models == 1, "it knows the model")
            until(lambda daemon=daemon: votes(daemon) == 3, "all three vote")
        yield a, b, c


def counter(daemon: Daemon, name: str) -> int:
    return daemon.status().counters.get(name, 0)


def test_an_entry_killed_in_mid_stream_costs_the_client_nothing(
    mesh: tuple[Daemon, Daemon, Daemon],
) -> None:
    a, b, c = mesh
    answer = failover.ask(
        [a.api_url, c.api_url], model="long", messages=ASK, max_tokens=TOKENS, temperature=0
    )
    pieces = list(islice(answer, 50))
    a.kill()
    killed_at = time.monotonic()
    pieces += islice(answer, 1000)
    print(f"the gap: {time.monotonic() - killed_at:.2f} s at most, with what came after it")
    pieces += answer
    assert "".join(pieces) == TEXT, "whole, and each piece once"
    assert (counter(b, "requests"), counter(c, "requests")) == (1, 0), "the holder went on"
    assert counter(b, "retries") == 0
    # By its id it is told at any node, from any place.
    jobs = f"{c.api_url}/mesh/v1/jobs"
    (job,) = httpx.get(f"{jobs}?state=done", timeout=NEVER_S).json()["jobs"]
    rest = httpx.get(f"{jobs}/{job['id']}/stream?from=50", timeout=NEVER_S)
    assert "".join([*pieces[:50], *texts(rest.text)]) == TEXT


def texts(sse: str) -> list[str]:
    """What the events of a stream say."""
    said = [line.removeprefix("data: ") for line in sse.splitlines() if line.startswith("data: {")]
    choices = [choice for data in said for choice in json.loads(data)["choices"]]
    return [choice["delta"].get("content") or "" for choice in choices]
