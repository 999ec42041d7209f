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
import sys
from collections import Counter
from functools import partial

from meshd.testing.seeds import Outcome, add_arguments, asked_for, run_seeds
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


def _work(seed: int, only: str | None) -> Outcome:
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.sim.seeds")
    add_arguments(parser)
    parser.add_argument("--only", choices=["raft", "record"], default=None)
    given = parser.parse_args()
    tally = run_seeds(partial(_work, only=given.only), asked_for(given))
    done, marks, sums = tally.done, tally.marks, tally.sums
    for what, number in sorted(marks.items()):
        print(f"  {number:8,}  {what}")
    missing = [what for what in MUST_HAPPEN if not marks[what]]
    if missing and done["record"] >= ENOUGH:
        print(f"never happened: {', '.join(missing)}")
        return 1
    if sums["answers"] < ANSWERS_A_SEED * done["record"]:
        print("hardly anything was ever answered: what is tested here?")
        return 1
    return 1 if tally.broken else 0


if __name__ == "__main__":
    sys.exit(main())
