"""The record under faults, by seed: real kernels, journals and reducers on simulated machines.

    python -m tests.sim.record [--seed N] [--story]

A seed decides everything: how many voters, what happens how often (each run has some kinds of
faults and not others), what clients want, and when.  First faults, then peace, in which whatever
was accepted has to come to an end; then all that clients were told is held against what may be.
Many seeds: `python -m tests.sim.seeds`.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass

from meshd.testing.checker import Calm, Report, check_progress
from tests.sim import raft_weather
from tests.sim.raft_nodes import short
from tests.sim.record_judge import live_jobs
from tests.sim.record_work import Work
from tests.sim.record_world import RecordNode, RecordWorld

VOTERS = (1, 3, 3, 3, 5)
FAULTY_S = 14.0
CALM_S = 4.0
"""Clients go on for so long in peace."""
PEACE_S = 60.0
"""At most: it ends when everything is done."""
ANSWERED_S = 2.0
"""Whoever asks anything when everything is done is answered so soon."""
YEAR_S = 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a seed has chosen.  Rates are per virtual second; 0: never in this run."""

    voters: int
    others: int
    asks: float
    faults: float
    snapshots: float
    changes: float
    transfers: float
    disks: float
    clocks: float
    loss: float
    doubling: float
    strays: float
    recalls: bool
    """Whether nodes that start ask the others what they had promised."""


def options_of(seed: int) -> Options:
    """Some kinds of trouble and not others: together they hide each other."""
    chance = random.Random(f"options {seed}")

    def some(*rates: float) -> float:
        return chance.choice([0.0, *rates])

    voters = chance.choice(VOTERS)
    return Options(
        voters=voters,
        others=chance.choice([0, 0, 1, 2]) if voters < 5 else 0,
        asks=chance.choice([5.0, 10.0, 20.0]),
        faults=some(0.5, 1.5, 4.0),
        snapshots=some(0.5, 3.0),
        changes=some(0.5, 1.0),
        transfers=some(0.1, 1.0),
        disks=some(0.3, 1.0),
        clocks=some(0.2),
        loss=some(0.002, 0.03),
        doubling=some(0.01, 0.1),
        strays=some(0.3, 0.8),
        recalls=chance.random() < 0.5,
    )


@dataclass
class Run:
    """One seed, when it is over."""

    seed: int
    world: RecordWorld
    work: Work
    report: Report

    @property
    def violations(self) -> list[str]:
        return self.world.judge.violations


def simulate(seed: int, *, story: bool = False, trace: bool = False) -> Run:
    """Faults, peace, judgement."""
    options = options_of(seed)
    world = RecordWorld(seed, options.voters, options.others, trace, options.recalls)
    world.story = [f"{'seed':>8}  {seed}: {options}"] if story else None
    work = Work(world)
    world.loss, world.doubling, world.strays = options.loss, options.doubling, options.strays
    for rate, what in (
        (options.asks, work.something),
        (options.asks / 4, work.read),
        (options.faults, lambda: raft_weather.fault(world)),
        (options.snapshots, lambda: raft_weather.snapshot(world)),
        (options.changes, lambda: raft_weather.change(world)),
        (options.transfers, lambda: raft_weather.transfer(world)),
        (options.disks, lambda: disk_fault(world)),
        (options.clocks, lambda: clock_fault(world)),
    ):
        if rate:
            _repeat(world, rate, what, FAULTY_S)
    _repeat(world, 4.0, world.reconnect_all, FAULTY_S + PEACE_S)
    _repeat(world, 6.0, work.duties, FAULTY_S + PEACE_S)
    world.run_until(FAULTY_S)
    report = _peace(world, work)
    return Run(seed, world, work, report)


def _repeat(world: RecordWorld, rate: float, what: Callable[[], object], end: float) -> None:
    def again() -> None:
        what()
        wait_s = world.chance.expovariate(rate)
        if world.now + wait_s < end:
            world.after(wait_s, again)

    world.after(world.chance.expovariate(rate), again)


# --- what goes wrong beside links and power


def disk_fault(world: RecordWorld) -> None:
    world.faults += 1
    chance = world.chance
    node = world.nodes[chance.choice(world.ids)]
    match chance.randrange(3):
        case 0:
            node.disk.fill_up(chance.choice([0, 500, 4000]))
            world.say(f"the disk of {short(node.id)} is full")
            world.after(chance.uniform(0.3, 3.0), node.disk.make_room)
        case 1:
            world.say(f"a sync of {short(node.id)} will fail")
            node.disk.fail_next_sync()
        case 2 if node.kernel is None:
            world.damaged_is_refused(node)


def clock_fault(world: RecordWorld) -> None:
    world.faults += 1
    node = world.nodes[world.chance.choice(world.ids)]
    node.wall_ahead_s = world.chance.choice([0.0, 7_200.0, -7_200.0, YEAR_S, -YEAR_S])
    world.say(f"the clock of {short(node.id)} is off by {node.wall_ahead_s} s")


# --- peace


def _peace(world: RecordWorld, work: Work) -> Report:
    raft_weather.make_peace(world)
    for node in world.nodes.values():
        node.disk.make_room()
        node.disk.files.on_step = None
        node.wall_ahead_s = 0.0
    _repeat(world, 10.0, work.something, FAULTY_S + CALM_S)
    _repeat(world, 5.0, work.finish_up, FAULTY_S + PEACE_S)
    world.run_until(FAULTY_S + CALM_S)
    while world.now < FAULTY_S + PEACE_S and not world.judge.violations:
        world.run_until(world.now + 1.0)
        if _is_done(world, work):
            break
    if not world.judge.violations:
        _judge_the_end(world, work)
    if world.judge.violations:
        return Report()
    healed_s = world.now
    work.ask_everywhere(ANSWERED_S)
    world.run_until(healed_s + ANSWERED_S)
    work.close()
    views = {n.name: world.judge.view(n.state, work.keys) for n in world.nodes.values()}
    report = world.judge.histories(work.history, views)
    calm = Calm(healed_s=healed_s, within_s=ANSWERED_S, until_s=world.now)
    alive = check_progress(work.history.operations, calm)
    if not alive.ok:
        world.judge.violation("the record is not alive in the end", alive)
    return report + alive


def _is_done(world: RecordWorld, work: Work) -> bool:
    leader = world.leader()
    if not isinstance(leader, RecordNode) or not leader.state.nodes.is_founded:
        return False
    nodes = world.nodes.values()
    return (
        all(node.kernel is not None for node in nodes)
        and not live_jobs(leader.state)
        and len({node.state.index for node in nodes}) == 1
        and all(not node.open for node in nodes)
    )


def _judge_the_end(world: RecordWorld, work: Work) -> None:
    judge, leader = world.judge, world.leader()
    if not isinstance(leader, RecordNode):
        judge.violation("nobody leads in the end", world.now)
    elif left := work.what_lives(leader):
        judge.violation("what was accepted did not end", left[:5], len(left))
    elif not _is_done(world, work):
        indexes = {node.name: node.state.index for node in world.nodes.values()}
        judge.violation("the nodes did not converge", indexes)
    else:
        for node in world.nodes.values():
            judge.same_state(node.id, node.state)
            node.state.check()
        if not work.answered:
            judge.violation("nothing was ever answered", world.now)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.sim.record")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--story", action="store_true", help="print what happened")
    asked = parser.parse_args()
    run = simulate(asked.seed, story=asked.story, trace=True)
    for line in run.world.story or ():
        print(line)
    for violation in run.violations:
        print(violation)
    print(run.report)
    print(f"seed {asked.seed}: {run.world.now:.0f} virtual s, trace {run.world.trace}")
    return 1 if run.violations else 0


if __name__ == "__main__":
    sys.exit(main())
