"""From nothing to serving, from joining to the first forwarded answer, and what idling costs."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from meshd.testing.daemons import Daemon, joined
from tests.bench.backend import REQUEST, fixed_backend
from tests.bench.daemons import mesh

IDLE_NODES = 5
IDLE_S = 20.0
SETTLE_S = 3.0


@dataclass(frozen=True)
class Life:
    """Seconds, and the idle cost of each node of a five-node mesh without engines."""

    start_to_serving_s: float
    join_to_first_forwarded_answer_s: float
    idle_cpu_percent: list[float]
    idle_rss_mb: list[float]


def run() -> Life:
    """All of it, one after the other."""
    serving_s, joined_s = _start_and_join()
    cpu, rss = _idle()
    return Life(serving_s, joined_s, cpu, rss)


def _start_and_join() -> tuple[float, float]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshd-bench-")))
        backend = stack.enter_context(fixed_backend())
        holder = stack.enter_context(mesh(backend, hops=1))[0]
        newcomer = Daemon(folder / "newcomer", "newcomer")
        newcomer.join, newcomer.token = holder.peer_address, holder.create_token()
        stack.callback(newcomer.close)
        began = time.monotonic()
        newcomer.start()
        serving_s = time.monotonic() - began
        url = f"{newcomer.api_url}/v1/chat/completions"
        with httpx.Client(timeout=5) as client:
            while client.post(url, content=REQUEST).status_code != 200:
                time.sleep(0.01)  # polling: the result is the time until it is so
        return serving_s, time.monotonic() - began


def _idle() -> tuple[list[float], list[float]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshd-bench-")))
        founder = Daemon(folder / "0", "n0")
        stack.callback(founder.close)
        founder.start()
        others = [Daemon(folder / str(n), f"n{n}") for n in range(1, IDLE_NODES)]
        for daemon in others:
            stack.callback(daemon.close)
        everyone = joined(founder, others)
        time.sleep(SETTLE_S)  # what a start leaves to do is not what being idle costs
        processes = [psutil.Process(d.process.pid) for d in everyone if d.process is not None]
        before = [sum(p.cpu_times()[:2]) for p in processes]
        time.sleep(IDLE_S)  # the stretch that is measured
        after = [sum(p.cpu_times()[:2]) for p in processes]
        cpu = [(b - a) / IDLE_S * 100 for a, b in zip(before, after, strict=True)]
        return cpu, [p.memory_info().rss / 1e6 for p in processes]
