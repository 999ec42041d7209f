"""Many seeds of a simulation, on all cores: what broke, what happened, how far it got.

    tally = run_seeds(work, arguments(parser(...)))     # work: a seed -> an Outcome

Seeds are told of in their order, so that a run which is stopped goes on with `--from`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

PROGRESS_S: Final = 60.0


@dataclass
class Outcome:
    """What one seed came to; small, as it goes from process to process."""

    seed: int
    kind: str
    again: str
    """The command that shows it once more."""
    violations: list[str]
    virtual_s: float
    sums: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)


@dataclass
class Tally:
    """What all of them came to."""

    wanted: int
    done: Counter[str] = field(default_factory=Counter)
    """By kind."""
    broken: list[int] = field(default_factory=list)
    virtual_s: float = 0.0
    took_s: float = 0.0
    sums: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.done[outcome.kind] += 1
        self.virtual_s += outcome.virtual_s
        self.sums += outcome.sums
        self.marks += outcome.marks
        if outcome.violations:
            self.broken.append(outcome.seed)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} of {kind}" for kind, count in sorted(self.done.items()))
        of = f" of {self.wanted:,}" if self.wanted < _ENDLESS else ""
        return (
            f"{self.done.total():,}{of} seeds ({kinds}), {self.virtual_s / 3600:.2f} virtual hours "
            f"in {self.took_s:.0f} s, {len(self.broken)} broken"
        )


_ENDLESS: Final = 10**9


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    first: int
    count: int
    for_s: float
    jobs: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--from", dest="first", type=int, default=None)
    parser.add_argument("--for-s", type=float, default=float("inf"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)


def asked_for(given: argparse.Namespace) -> Asked:
    """Without `--from` the first seed is one that nobody has run before."""
    first = secrets.randbelow(10**8) if given.first is None else given.first
    endless = given.seeds is None and given.for_s < float("inf")
    return Asked(first, _ENDLESS if endless else given.seeds or 100, given.for_s, given.jobs)


def run_seeds(work: Callable[[int], Outcome], asked: Asked) -> Tally:
    """All of them, or as many as fit into the time; prints what broke as it comes."""
    print(f"seeds from {asked.first}, {asked.jobs} at a time", flush=True)
    began = told = time.monotonic()
    tally = Tally(asked.count)
    for outcome in _outcomes(work, asked):
        tally.add(outcome)
        now = time.monotonic()
        tally.took_s = now - began
        if outcome.violations:
            print(f"seed {outcome.seed} ({outcome.kind}):")
            for violation in outcome.violations:
                print("  " + violation.replace("\n", "\n  "))
            print(f"  again: {outcome.again}", flush=True)
        if now - told > PROGRESS_S:
            told = now
            print(f"{tally}; go on with --from {outcome.seed + 1}", flush=True)
        if tally.took_s > asked.for_s:
            break
    print(tally)
    if tally.sums:
        print(", ".join(f"{number:,} {what}" for what, number in tally.sums.items()))
    return tally


def _outcomes(work: Callable[[int], Outcome], asked: Asked) -> Iterator[Outcome]:
    """In the order of the seeds."""
    seeds = range(asked.first, asked.first + asked.count)
    if asked.jobs == 1:
        yield from map(work, seeds)
        return
    with multiprocessing.Pool(asked.jobs) as pool:
        yield from pool.imap(work, seeds)
