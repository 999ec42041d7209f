"""What of a scenario this machine allows: of its other faults none is tested, and none wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from meshd_chaos.nemeses import NEMESES
from meshd_chaos.scenario import Scenario
from meshd_chaos.schedule import steps_of


def impossible_faults(scenarios: Iterable[Scenario]) -> dict[str, str]:
    """Of their faults those that cannot be injected on this machine, each with a sentence."""
    names = sorted({fault.name for scenario in scenarios for fault in scenario.faults})
    return {name: why for name in names if (why := NEMESES[name].probe())}


def why_untestable(scenario: Scenario, impossible: Mapping[str, str]) -> str:
    """Why a run of it would test nothing, as none of its faults can be injected; "": it would."""
    names = dict.fromkeys(fault.name for fault in scenario.faults)
    if not all(name in impossible for name in names):
        return ""
    return "; ".join(f"{name}: {impossible[name]}" for name in names)


def as_far_as_possible(
    scenario: Scenario, impossible: Mapping[str, str], *, seed: int, duration_s: float
) -> Scenario:
    """The same, wanting no more faults than are planned and possible, but one at least."""
    if not any(fault.name in impossible for fault in scenario.faults):
        return scenario
    steps = steps_of(scenario, seed=seed, duration_s=duration_s)
    possible = sum(step.fault.name not in impossible for step in steps)
    least = min(scenario.expect.faults, max(1, possible))
    expect = msgspec.structs.replace(scenario.expect, faults=least)
    return msgspec.structs.replace(scenario, expect=expect)
