"""Thousands of seeds of the simulated log.

    python -m tests.sim.raft [--seeds N] [--from SEED] [--seconds S] [--kind NAME] [--story]

Each seed has its kind: how many voters, whether they change, how bad the weather is.  Prints what
was broken and how to see it again, and sums; exits 1 if anything was broken.  Every part of a run
follows from its seed and kind.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from dataclasses import dataclass, replace

from tests.sim.raft_weather import Weather, run
from tests.sim.raft_world import World


@dataclass(frozen=True, slots=True)
class Kind:
    founders: int
    others: int
    weather: Weather


KINDS = {
    "three": Kind(3, 0, Weather()),
    "five": Kind(5, 0, Weather()),
    "changing": Kind(3, 2, Weather(changes=0.7)),
    "growing": Kind(1, 2, Weather(changes=0.7, faults=0.7)),
    "one": Kind(1, 0, Weather()),
    "two": Kind(2, 1, Weather(changes=0.5, faults=1.0)),
    "storm": Kind(3, 0, Weather(faults=5.0, loss=0.05, doubling=0.1, strays=0.8, transfers=0.5)),
    "storm_changing": Kind(3, 2, Weather(changes=1.5, faults=4.0, loss=0.03, transfers=0.5)),
    "snapshots": Kind(3, 1, Weather(changes=0.3, snapshots=8.0, faults=2.5)),
    "followers": Kind(3, 3, Weather(changes=0.2, snapshots=2.0, faults=2.0)),
    "images": Kind(3, 0, Weather(put_back=0.5, faults=0.0, strays=0.0, loss=0.0, transfers=0.7)),
    "handovers": Kind(3, 0, Weather(transfers=3.0, faults=0.5)),
}


def kind_of(seed: int) -> str:
    return list(KINDS)[seed % len(KINDS)]


def simulate(
    seed: int, kind_name: str, seconds: float | None = None, *, story: bool = False
) -> World:
    kind = KINDS[kind_name]
    weather = kind.weather if seconds is None else replace(kind.weather, seconds=seconds)
    world = World(seed, kind.founders, kind.others, asks=weather.put_back > 0)
    world.story = [] if story else None
    return run(world, weather)


@dataclass
class Sums:
    seeds: int = 0
    broken: int = 0
    virtual_s: float = 0.0
    commands: int = 0
    acknowledged: int = 0
    unknown: int = 0
    reads: int = 0
    elections: int = 0
    crashes: int = 0
    snapshots: int = 0
    installed: int = 0
    followed: int = 0
    set_aside: int = 0
    messages: int = 0

    def add(self, world: World) -> None:
        self.seeds += 1
        self.broken += bool(world.judge.violations)
        self.virtual_s += world.now
        self.commands += world.proposed
        self.acknowledged += len(world.judge.acks)
        self.unknown += world.judge.unknown
        self.reads += world.judge.reads
        self.elections += len(world.judge.leaders)
        self.crashes += world.crashes
        self.snapshots += world.snapshots
        self.installed += world.installed
        self.followed += world.judge.followed
        self.set_aside += world.set_aside
        self.messages += world.messages

    def __str__(self) -> str:
        return (
            f"{self.seeds} seeds, {self.virtual_s / 3600:.2f} virtual hours, {self.broken} broken; "
            f"{self.commands:,} commands ({self.acknowledged:,} acknowledged, {self.unknown:,}"
            f" unknown), {self.reads:,} linearizable reads, {self.elections:,} elections won, "
            f"{self.crashes:,} crashes, {self.set_aside:,} journals set aside,"
            f" {self.snapshots:,} snapshots ({self.installed:,} installed),"
            f" {self.followed:,} entries followed without a vote, {self.messages:,} messages"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.sim.raft")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=None, help="of faults in each run")
    parser.add_argument("--kind", choices=list(KINDS), default=None)
    parser.add_argument("--story", action="store_true", help="print what happened")
    asked = parser.parse_args()
    sums = Sums()
    began = time.perf_counter()
    for seed in range(asked.first, asked.first + asked.seeds):
        kind = asked.kind or kind_of(seed)
        world = simulate(seed, kind, asked.seconds, story=asked.story)
        sums.add(world)
        for line in world.story or ():
            print(line)
        if world.judge.violations:
            print(f"seed {seed}, {kind}, at {world.now:.3f} s:")
            for violation in world.judge.violations[:3]:
                print(f"  {violation}")
            print(
                f"  again: python -m tests.sim.raft --seeds 1 --from {seed} --kind {kind} --story"
            )
        if sums.seeds % 100 == 0:
            print(f"{sums} ({time.perf_counter() - began:.0f} s)", flush=True)
            gc.collect()
    print(f"{sums} ({time.perf_counter() - began:.0f} s)")
    return 1 if sums.broken else 0


if __name__ == "__main__":
    sys.exit(main())
