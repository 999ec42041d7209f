"""Voters under faults, by seed.  Thousands of seeds: `python -m tests.sim.raft --seeds 1000`."""

from __future__ import annotations

import pytest

from tests.sim.raft import simulate
from tests.sim.raft_mutants import MUTANTS, mutated_source
from tests.sim.raft_weather import Weather, run
from tests.sim.raft_world import World


@pytest.mark.parametrize(
    ("founders", "others", "changes", "seed"),
    [
        (1, 0, 0.0, 1),
        (1, 2, 0.7, 2),
        (3, 0, 0.0, 3),
        (3, 0, 0.0, 4),
        (3, 2, 0.7, 5),
        (5, 0, 0.0, 6),
    ],
)
def test_nothing_promised_is_broken(founders: int, others: int, changes: float, seed: int) -> None:
    world = run(World(seed, founders, others), Weather(seconds=12.0, changes=changes))
    assert not world.judge.violations
    assert len(world.judge.acks) > 50
    assert world.judge.reads > 10


def test_disks_that_are_put_back_take_nothing_with_them() -> None:
    worlds = [simulate(seed, "images", seconds=14.0) for seed in (2, 4)]
    assert [world.judge.violations for world in worlds] == [[], []]
    assert sum(world.set_aside for world in worlds) >= 1


def test_the_same_seed_gives_the_same_trace() -> None:
    traces = [
        run(World(7, 3, trace=True), Weather(seconds=4.0, peace_s=8.0)).trace for _ in range(2)
    ]
    assert traces[0] == traces[1]
    assert run(World(8, 3, trace=True), Weather(seconds=4.0, peace_s=8.0)).trace != traces[0]


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_still_changes_something(name: str) -> None:
    """They are words of the kernel: when those change, the list has to follow."""
    compile(mutated_source(MUTANTS[name]), name, "exec")
