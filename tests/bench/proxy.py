"""One hop and two, beside nginx doing the same over the same backend.

Every contender takes its turn within each round, and the ratio is of the medians over the rounds,
so that a busy machine slows all of them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tests.bench.backend import REQUEST, fixed_backend
from tests.bench.contenders import ONE_HOP, TWO_HOPS, Contender
from tests.bench.tools import Load, median_load, wrk

PATH = "/v1/chat/completions"
ROUNDS = 5
ROUND_S = 2.0


@dataclass(frozen=True)
class Row:
    """One contender at one number of connections."""

    bench: str
    connections: int
    name: str
    load: Load
    ratio: float
    """Requests per second as a fraction of nginx's in the same rounds."""
    added_us: float | None
    """Median latency above that of the direct way, where that was measured."""


def compare(
    bench: str, contenders: Sequence[Contender], connections: int, *, rounds: int = ROUNDS
) -> list[Row]:
    """Measure them in turn."""
    with ExitStack() as stack:
        backend = stack.enter_context(fixed_backend())
        urls = {
            contender.name: f"http://127.0.0.1:{stack.enter_context(contender.start(backend))}{PATH}"
            for contender in contenders
        }
        loads: dict[str, list[Load]] = {name: [] for name in urls}
        for url in urls.values():
            wrk(url, connections=connections, seconds=1, body=REQUEST)  # warm
        for _ in range(rounds):
            for name, url in urls.items():
                loads[name].append(wrk(url, connections=connections, seconds=ROUND_S, body=REQUEST))
    medians = {name: median_load(measured) for name, measured in loads.items()}
    nginx = next(load for name, load in medians.items() if name.startswith("nginx"))
    direct = medians.get("direct")
    return [
        Row(
            bench=bench,
            connections=connections,
            name=name,
            load=load,
            ratio=load.requests_per_s / nginx.requests_per_s,
            added_us=load.p50_us - direct.p50_us if direct else None,
        )
        for name, load in medians.items()
    ]


def run(*, rounds: int = ROUNDS) -> list[Row]:
    """Everything of this file."""
    return [
        *compare("one hop", ONE_HOP, 1, rounds=rounds),
        *compare("one hop", ONE_HOP, 32, rounds=rounds),
        *compare("two hops, mutual TLS", TWO_HOPS, 1, rounds=rounds),
        *compare("two hops, mutual TLS", TWO_HOPS, 32, rounds=rounds),
    ]
