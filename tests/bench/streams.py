"""What one streamed event costs the daemon: CPU of its process over events delivered."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass

import psutil

from meshd.testing.daemons import Daemon
from tests.bench.daemons import mesh
from tests.bench.tools import free_port, python_module, running

STREAMS = 32


@dataclass(frozen=True)
class Shape:
    """How the engine writes."""

    name: str
    events: int
    gap_s: float
    per_write: int


SHAPES = (
    Shape("32 streams x 50/s, one event a write", 250, 0.02, 1),
    Shape("32 streams, bursts of 64 events a write", 6400, 0.0, 64),
)


@dataclass(frozen=True)
class Cost:
    """Per daemon of the way: microseconds of its CPU for each event."""

    shape: str
    hops: int
    events: int
    cpu_us: dict[str, float]
    loop_late_ms_max: int
    rss_per_stream_kib: float


def measure(shape: Shape, hops: int) -> Cost:
    """Run all streams once to warm up, once to measure."""
    with ExitStack() as stack:
        port = free_port()
        engine = python_module("tests.bench.paced", "engine", str(port))
        engine += ["--events", str(shape.events), "--gap-s", str(shape.gap_s)]
        engine += ["--per-write", str(shape.per_write)]
        stack.enter_context(running(engine, port))
        daemons = stack.enter_context(mesh(port, hops=hops))
        url = daemons[0].api_url
        _read(url)
        idle_bytes = _rss(daemons[0])
        before = {daemon.name: _cpu_s(daemon) for daemon in daemons}
        peak = idle_bytes
        with subprocess.Popen(_clients(url), stdout=subprocess.PIPE) as clients:
            while clients.poll() is None:
                peak = max(peak, _rss(daemons[0]))
                try:
                    clients.wait(0.25)
                except subprocess.TimeoutExpired:
                    continue
            assert clients.stdout is not None
            events = int(json.loads(clients.stdout.read())["events"])
        cpu = {d.name: (_cpu_s(d) - before[d.name]) / max(1, events) * 1e6 for d in daemons}
        late = max(d.status().counters["loop_late_ms_max"] for d in daemons)
        return Cost(shape.name, hops, events, cpu, late, (peak - idle_bytes) / STREAMS / 1024)


def run() -> list[Cost]:
    """Every shape, one hop and two."""
    return [measure(shape, hops) for hops in (1, 2) for shape in SHAPES]


def _clients(url: str) -> list[str]:
    return python_module("tests.bench.paced", "clients", url, "--streams", str(STREAMS))


def _read(url: str) -> None:
    subprocess.run(_clients(url), check=True, capture_output=True)


def _process(daemon: Daemon) -> psutil.Process:
    assert daemon.process is not None
    return psutil.Process(daemon.process.pid)


def _cpu_s(daemon: Daemon) -> float:
    times = _process(daemon).cpu_times()
    return times.user + times.system


def _rss(daemon: Daemon) -> int:
    return int(_process(daemon).memory_info().rss)
