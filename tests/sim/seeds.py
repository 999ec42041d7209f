"""Many seeds of the simulated log and of the simulated record, on all cores.

    python -m tests.sim.seeds [--seeds N] [--from SEED] [--for-s S] [--jobs N] [--only raft|record]

Of ten seeds, three are of the log alone (`tests.sim.raft`, where a run costs less and more happens
to it) and seven of the record (`tests.sim.record`).  Stops when all are done, or after `--for-s`
seconds; without `--from` the first seed is `--from random`, and is printed.  Prints each seed that
broke something and how to see it again, and sums; exits 1 if any did, or if in 500 seeds or more
something never happened that is to be tested.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.sim import raft, record

RECORD_OF_TEN = 7
ENOUGH = 500
ANSWERS_A_SEED = 50
"""The mean; a seed whose weather never clears may have few."""
MUST_HAPPEN = (
    "a client gives up",
    "a damaged journal is refused",
    "a holder forgets its job",
    "a leader's snapshot finds the disk full",
    "a leader's snapshot is installed",
    "a leap of the clock is confirmed",
    "a leap of the clock is held",
    "a lease is ended by the leader",
    "a repeated command is told its first result",
    "a snapshot finds the disk full",
    "a snapshot that does not count is swept",
    "a start from a snapshot",
    "a start on a full disk",
    "a sync fails",
    "a torn write is cut",
    "a write fails on a full disk",
    "power lost while a write is under way",
)


@dataclass
class Outcome:
    """What one seed came to; small, as it goes from process to process."""

    seed: int
    kind: str
    again: str
    violations: list[str]
    virtual_s: float
    sums: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)


def kind_of(seed: int, only: str | None) -> str:
    return only or ("record" if seed % 10 < RECORD_OF_TEN else "raft")


def run_seed(seed: int, only: str | None = None) -> Outcome:
    """One seed, of the log or of the record."""
    return _record(seed) if kind_of(seed, only) == "record" else _raft(seed)


def _record(seed: int) -> Outcome:
    run = record.simulate(seed)
    world, judge = run.world, run.world.judge
    sums = Counter(
        {
            "commands carried out": sum(judge.commands.values()),
            "linearizable reads": judge.reads,
            "elections": len(judge.leaders),
            "faults": world.faults,
            "power losses": world.crashes,
            "snapshots": world.snapshots,
            "snapshots installed": world.installed,
            "answers": run.work.answered,
            "operations checked": run.report.counts["operations ordered"],
            "jobs accounted for": run.report.counts["jobs accounted for"],
        }
    )
    marks = world.marks + Counter({"a repeated command is told its first result": judge.repeats})
    again = f"python -m tests.sim.record --seed {seed} --story"
    return Outcome(seed, "record", again, judge.violations[:3], world.now, sums, marks)


def _raft(seed: int) -> Outcome:
    kind = list(raft.KINDS)[seed // 10 % len(raft.KINDS)]
    world = raft.simulate(seed, kind)
    judge = world.judge
    sums = Counter(
        {
            "commands carried out": len(judge.results),
            "linearizable reads": judge.reads,
            "elections": len(judge.leaders),
            "faults": world.faults,
            "power losses": world.crashes,
            "snapshots": world.snapshots,
            "snapshots installed": world.installed,
        }
    )
    again = f"python -m tests.sim.raft --seeds 1 --from {seed} --kind {kind} --story"
    return Outcome(seed, "raft", again, judge.violations[:3], world.now, sums)


def _work(asked: tuple[int, str | None]) -> Outcome:
    seed, only = asked
    try:
        return run_seed(seed, only)
    except Exception as error:  # whatever it is, it is this seed's, and the others go on
        kind = kind_of(seed, only)
        again = f"python -m tests.sim.seeds --seeds 1 --from {seed} --jobs 1 --only {kind}"
        if kind == "record":
            again = f"python -m tests.sim.record --seed {seed} --story"
        return Outcome(seed, kind, again, [repr(error)], 0.0)
    finally:
        if seed % 20 == 0:
            gc.collect()


def outcomes(
    first: int, count: int, for_s: float, jobs: int, only: str | None
) -> Iterator[Outcome]:
    """As they come, until all are done or the time is over."""
    ends_at = time.monotonic() + for_s
    seeds = ((seed, only) for seed in range(first, first + count))
    if jobs == 1:
        for asked in seeds:
            yield _work(asked)
            if time.monotonic() > ends_at:
                return
    with multiprocessing.Pool(jobs) as pool:
        for outcome in pool.imap_unordered(_work, seeds):
            yield outcome
            if time.monotonic() > ends_at:
                return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.sim.seeds")
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--from", dest="first", type=int, default=None)
    parser.add_argument("--for-s", type=float, default=float("inf"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=["raft", "record"], default=None)
    asked = parser.parse_args()
    first = secrets.randbelow(10**8) if asked.first is None else asked.first
    count = asked.seeds if asked.seeds is not None else (100 if asked.for_s > 1e9 else 10**9)
    print(f"seeds from {first}, {asked.jobs} at a time", flush=True)
    began = time.monotonic()
    done, broken, virtual_s = Counter[str](), 0, 0.0
    sums, marks = Counter[str](), Counter[str]()
    for outcome in outcomes(first, count, asked.for_s, asked.jobs, asked.only):
        done[outcome.kind] += 1
        virtual_s += outcome.virtual_s
        sums += outcome.sums
        marks += outcome.marks
        if outcome.violations:
            broken += 1
            print(f"seed {outcome.seed} ({outcome.kind}):")
            for violation in outcome.violations:
                print(f"  {violation}")
            print(f"  again: {outcome.again}", flush=True)
    took_s = time.monotonic() - began
    print(
        f"{done.total():,} seeds ({done['raft']:,} of the log, {done['record']:,} of the record), "
        f"{virtual_s / 3600:.2f} virtual hours in {took_s:.0f} s, {broken} broken"
    )
    print(", ".join(f"{number:,} {what}" for what, number in sums.items()))
    for what, number in sorted(marks.items()):
        print(f"  {number:8,}  {what}")
    missing = [what for what in MUST_HAPPEN if not marks[what]]
    if missing and done["record"] >= ENOUGH:
        print(f"never happened: {', '.join(missing)}")
        return 1
    if sums["answers"] < ANSWERS_A_SEED * done["record"]:
        print("hardly anything was ever answered: what is tested here?")
        return 1
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
