"""1,000 members, 60 virtual seconds, 10 % loss, 100 crashes: does the failure detector keep up?

    python -m tests.sim.thousand [--seed N] [--members N] [--seconds S] [--loss P] [--crashes N]

Prints the seed and what was measured; exits 1 if a goal is missed.  The constants are those of a
LAN, as they are in production.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import statistics
import sys
import time
from dataclasses import dataclass, field

from meshd.ids import NodeId
from meshd.membership import events
from meshd.membership.members import State
from tests.sim.swim_world import Node, Weather, World

FIRST_SUSPICION_MEDIAN_S = 2.0
HEARD_BY_ALL_P99_S = 8.0
_CRASHES_END = 0.6
"""Crashes happen up to this part of the time, so that there is time to hear of the last."""


@dataclass
class Outcome:
    """What the run showed."""

    first_s: list[float] = field(default_factory=list)
    """For each crash: until the first member suspected it."""
    heard_s: list[float] = field(default_factory=list)
    """For each crash and each member that lived to the end: until it had heard."""
    deaf: int = 0
    """Pairs of crash and member that had not heard at the end."""
    failed_s: list[float] = field(default_factory=list)
    """For each crash: until the first member declared it failed."""
    false_suspicions: int = 0
    """Suspicions of living members, once per member and word."""
    false_deaths: int = 0
    packets: int = 0
    messages: int = 0
    wall_s: float = 0.0

    def missed(self) -> list[str]:
        """The goals that were not reached, as sentences."""
        problems = []
        if (median := statistics.median(self.first_s)) > FIRST_SUSPICION_MEDIAN_S:
            problems.append(
                f"first suspicion: median {median:.2f} s (goal {FIRST_SUSPICION_MEDIAN_S} s)"
            )
        if (p99 := quantile(self.heard_s, 0.99)) > HEARD_BY_ALL_P99_S or self.deaf:
            problems.append(
                f"heard by all: p99 {p99:.2f} s (goal {HEARD_BY_ALL_P99_S} s), {self.deaf} deaf"
            )
        if self.false_deaths:
            problems.append(f"{self.false_deaths} declarations of death of living members")
        return problems


def quantile(values: list[float], part: float) -> float:
    """The value that `part` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def run(*, seed: int, members: int, seconds: float, loss: float, crashes: int) -> Outcome:
    """Build a mesh, let some of its members die at random times, and watch the others."""
    outcome = Outcome()
    began = time.perf_counter()
    world = World(seed, weather=Weather(loss=loss))
    nodes = world.build(members)
    dice = random.Random(f"crashes {seed}")
    died: dict[NodeId, float] = {}
    heard: dict[NodeId, dict[NodeId, float]] = {}
    failed: dict[NodeId, float] = {}
    suspected: set[tuple[NodeId, tuple[int, int]]] = set()
    victims = dice.sample(nodes, crashes)

    def crash(victim: Node) -> None:
        died[victim.id] = world.now
        heard[victim.id] = {}
        world.crash(victim)

    def watch(now: float, node: Node, change: events.Changed) -> None:
        if change.node in died:
            if change.after in (State.SUSPECT, State.FAILED):
                heard[change.node].setdefault(node.id, now)
            if change.after is State.FAILED:
                failed.setdefault(change.node, now)
        elif change.after is State.FAILED:
            outcome.false_deaths += 1
        elif change.after is State.SUSPECT:
            member = node.core.members.get(change.node)
            assert member is not None
            suspected.add((member.node, member.version))

    for victim in victims:
        world.at(dice.uniform(1.0, seconds * _CRASHES_END), lambda victim=victim: crash(victim))
    world.observers.append(watch)
    world.run(seconds)

    survivors = [node for node in nodes if node.up]
    for victim in victims:
        at = died[victim.id]
        times = heard[victim.id]
        outcome.first_s.append(min(times.values(), default=seconds) - at)
        for node in survivors:
            if node.id in times:
                outcome.heard_s.append(times[node.id] - at)
            else:
                outcome.deaf += 1
        if victim.id in failed:
            outcome.failed_s.append(failed[victim.id] - at)
    outcome.false_suspicions = len(suspected)
    outcome.packets, outcome.messages = world.packets, world.messages
    outcome.wall_s = time.perf_counter() - began
    return outcome


def report(outcome: Outcome, seconds: float, members: int) -> list[str]:
    """The measured numbers, a line each."""
    lines = []
    for name, values in (
        ("first suspicion", outcome.first_s),
        ("heard by each", outcome.heard_s),
        ("first declared failed", outcome.failed_s),
    ):
        if values:
            lines.append(
                f"{name:<22} median {statistics.median(values):6.2f} s   "
                f"p99 {quantile(values, 0.99):6.2f} s   max {max(values):6.2f} s   "
                f"n={len(values)}"
            )
    per_member_s = outcome.packets / seconds / members
    lines.append(f"{'living suspected':<22} {outcome.false_suspicions}")
    lines.append(f"{'living declared dead':<22} {outcome.false_deaths}")
    lines.append(f"{'datagrams':<22} {per_member_s:.1f} per member and second")
    lines.append(f"{'wall time':<22} {outcome.wall_s:.0f} s")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--loss", type=float, default=0.10)
    parser.add_argument("--crashes", type=int, default=100)
    options = parser.parse_args()
    gc.disable()  # a million small objects that all live to the end: walking them is a third of it
    print(
        f"seed {options.seed}: {options.members} members, {options.seconds:g} virtual seconds, "
        f"{options.loss:.0%} loss, {options.crashes} crashes",
        flush=True,
    )
    outcome = run(
        seed=options.seed,
        members=options.members,
        seconds=options.seconds,
        loss=options.loss,
        crashes=options.crashes,
    )
    for line in report(outcome, options.seconds, options.members):
        print(line)
    problems = outcome.missed()
    for problem in problems:
        print(f"MISSED {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
