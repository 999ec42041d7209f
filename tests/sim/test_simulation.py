"""Whole nodes under faults: a few seeds, and whether their judge would notice what must not be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from meshd.testing.simulation.__main__ import main
from meshd.testing.simulation.marks import ENOUGH, MUST_HAPPEN, never_happened
from meshd.testing.simulation.options import options_of
from meshd.testing.simulation.run import Run, simulate
from meshd.testing.simulation.story import Story
from tests.sim.simulation_mutants import noticed

SEEDS = (104, 110)
REPLAYED = 104
FEW = 5


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
    said = [process.communicate()[0] for process in (replayed(REPLAYED, h) for h in (1, 2))]
    assert said[0] == said[1]
    assert said[0].endswith(f"trace {simulate(REPLAYED).trace}\n")


@pytest.mark.parametrize(
    ("mutant", "first", "what"),
    [
        ("a delta is delivered twice", 110, "doubled: the answer to"),
        ("a stream does not end", 414, "unfinished: request r"),
        ("a stream does not end", 413, "unavailable: request r"),
        ("an answer is not made its key's", 310, "unfinished: job j"),
    ],
)
def test_what_must_not_be_is_noticed(mutant: str, first: int, what: str) -> None:
    """More of them: `python -m tests.sim.simulation_mutants`.

    By some seed of a few: any change of the daemon makes each of them another run.
    """
    seeds = range(first, first + FEW)
    assert any(what in violation for seed in seeds for violation in noticed(mutant, seed))


def test_a_seed_that_breaks_is_told_with_the_way_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(seed: int) -> Run:
        run = Run(seed, options_of(seed), Story())
        run.violations.append("something is lost")
        return run

    monkeypatch.setattr("meshd.testing.simulation.__main__.simulate", broken)
    monkeypatch.setattr(sys, "argv", ["simulation", "--seeds", "2", "--from", "7", "--jobs", "1"])
    assert main() == 1
    said = capsys.readouterr().out
    assert "something is lost" in said
    assert "again: python -m meshd.testing.simulation --seed 8 --story" in said
    assert "2 of 2 seeds (2 of whole nodes), 0.00 virtual hours" in said


def test_many_seeds_in_which_something_never_happened_are_a_failure() -> None:
    marks = dict.fromkeys(MUST_HAPPEN, 1)
    assert not never_happened(marks, ENOUGH)
    del marks["fault: kill"]
    assert never_happened(marks, ENOUGH) == ["fault: kill"]
    assert not never_happened({}, ENOUGH - 1)
