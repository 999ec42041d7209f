"""Whole nodes under faults: a few seeds, and whether their judge would notice what must not be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from meshd.testing.simulation.run import simulate

SEEDS = (7, 17, 19)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_under_faults(seed: int) -> None:
    run = simulate(seed)
    assert run.ok, "\n".join(run.violations)
    assert run.virtual_s >= 30.0
    assert run.tally is not None
    assert run.tally.answered > 0


def replayed(seed: int, hash_seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "meshd.testing.simulation", "--seed", str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
    )


def test_a_seed_gives_the_same_run_in_two_processes_and_behind_another_one() -> None:
    """With another order of sets of texts in each, and other addresses of everything."""
    said = [process.communicate()[0] for process in (replayed(7, 1), replayed(7, 2))]
    assert said[0] == said[1]
    simulate(17)
    assert said[0].endswith(f"trace {simulate(7).trace}\n")
