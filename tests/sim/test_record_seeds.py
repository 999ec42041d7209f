"""The record under faults, a few seeds of it.  Thousands: `python -m tests.sim.seeds`."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.record import options_of, simulate
from tests.sim.record_mutants import HASHES, MUTANTS, noticed_by, traces

SEEDS = (0, 2, 7)
"""1, 3 and 5 voters, nodes without a vote, changes of voters, full disks and wrong clocks."""


def test_nothing_promised_is_broken_and_everything_accepted_ends() -> None:
    marks, voters = Counter[str](), set()
    for seed in SEEDS:
        run = simulate(seed)
        assert not run.violations, f"python -m tests.sim.record --seed {seed}: {run.violations[0]}"
        assert run.report.counts["operations ordered"] > 100
        marks += run.world.marks
        voters.add(options_of(seed).voters)
    assert voters == {1, 3, 5}
    for what in (
        "a lease is ended by the leader",
        "a leader's snapshot is installed",
        "a start from a snapshot",
        "a sync fails",
        "a torn write is cut",
        "a write fails on a full disk",
        "a damaged journal is refused",
    ):
        assert marks[what], marks


def test_a_seed_is_the_same_run_whatever_the_hashes_of_the_process_are() -> None:
    assert len(traces(None, 3)) == 1


def test_seeds_are_different_runs() -> None:
    assert simulate(1, trace=True).world.trace != simulate(2, trace=True).world.trace


@pytest.mark.parametrize("name", MUTANTS)
def test_what_is_broken_on_purpose_is_noticed(name: str) -> None:
    assert noticed_by(name, seeds=1 if name == HASHES else 8)
