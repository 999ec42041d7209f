"""From a scenario's faults and a seed to moments.  Pure."""

from __future__ import annotations

from random import Random
from typing import Final

import msgspec

from meshd_chaos.scenario import Fault, Scenario, When

_LAST_SHARE: Final = 0.9
"""No fault begins after this share of the run: there would be nobody to see it."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One fault at one time."""

    at_s: float
    """Seconds after the first request was due; later if too many are in force then."""
    for_s: float
    fault: Fault
    seed: int
    """Of what the nemesis chooses."""


def steps_of(scenario: Scenario, *, seed: int, duration_s: float) -> list[Step]:
    """All of them, in the order in which they are due."""
    steps: list[Step] = []
    for number, fault in enumerate(scenario.faults):
        chance = Random(f"faults {seed} {scenario.name} {number}")
        for at_s in _moments(fault.when, chance, _LAST_SHARE * duration_s):
            for_s = chance.uniform(*fault.when.for_s)
            step = Step(at_s=at_s, for_s=for_s, fault=fault, seed=chance.getrandbits(32))
            steps.append(step)
    return sorted(steps, key=lambda step: step.at_s)


def _moments(when: When, chance: Random, end_s: float) -> list[float]:
    if when.per_minute is not None:
        count = max(1, round(when.per_minute * end_s / 60))
        return sorted(chance.uniform(0, end_s) for _ in range(count))
    moments = list(when.at_s)
    if when.every_s is not None:
        count = int(max(0.0, end_s - when.first_s) / when.every_s) + 1
        moments = [when.first_s + number * when.every_s for number in range(count)]
    return [at_s for at_s in moments if at_s <= end_s]
