"""Whole nodes under everything that can go wrong, by seed.

    python -m meshd.testing.simulation [--seeds N] [--from SEED] [--for-s S] [--jobs N]
    python -m meshd.testing.simulation --seed N [--story]

Many seeds: prints each that broke something and how to see it again, and sums; exits 1 if any did,
or if in 300 seeds or more something never happened that is to be tested.  One seed: prints what was
wrong with it, and what happened if `--story` is given.
"""

from __future__ import annotations

import argparse
import gc
import sys

from meshd.testing.seeds import Outcome, add_arguments, asked_for, run_seeds
from meshd.testing.simulation.marks import never_happened
from meshd.testing.simulation.run import simulate

COLLECT_EVERY = 5


def outcome_of(seed: int) -> Outcome:
    """One seed, as one of many."""
    run = simulate(seed)
    if seed % COLLECT_EVERY == 0:
        gc.collect()
    return Outcome(
        seed,
        "whole nodes",
        f"python -m meshd.testing.simulation --seed {seed} --story",
        run.violations,
        run.virtual_s,
        run.sums,
        run.story.marks,
    )


def tell(seed: int, *, story: bool) -> int:
    """One seed, for a person."""
    run = simulate(seed, story=story)
    for line in run.story.lines or ():
        print(line)
    for violation in run.violations:
        print(violation)
    print(", ".join(f"{count:,} {what}" for what, count in sorted(run.sums.items())))
    print(f"seed {seed}: {run.virtual_s:.0f} virtual s, trace {run.trace}")
    return 0 if run.ok else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m meshd.testing.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=None, help="this one only")
    parser.add_argument("--story", action="store_true", help="print what happened in it")
    parser.add_argument("--marks", action="store_true", help="print how often what happened")
    add_arguments(parser)
    given = parser.parse_args()
    if given.seed is not None:
        return tell(given.seed, story=given.story)
    tally = run_seeds(outcome_of, asked_for(given))
    if given.marks:
        for what, number in sorted(tally.marks.items()):
            print(f"  {number:8,}  {what}")
    if missing := never_happened(tally.marks, tally.done.total()):
        print(f"never happened: {', '.join(missing)}")
        return 1
    return 1 if tally.broken else 0


if __name__ == "__main__":
    sys.exit(main())
