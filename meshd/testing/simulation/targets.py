"""Whom trouble befalls: anybody, or somebody who is in the middle of an answer."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from meshd.testing.memory_engine import MemoryEngine
from meshd.testing.world import Machine, World


@dataclass
class Targets:
    """Those of one world."""

    world: World
    chance: random.Random
    aimed: float
    """The share of choices that look for a machine whose engine is at work: left to chance, most
    faults hit nothing that anybody waits for."""
    busy: set[str] = field(default_factory=set)
    """Machines whose daemon somebody is starting or stopping."""

    def machine(self) -> Machine:
        """Any."""
        chosen = self._choose(self.world.machines.values())
        assert chosen is not None  # a world without machines has no weather
        return chosen

    def pair(self) -> tuple[str, str] | None:
        """Two machines, in an order that matters to what has a direction."""
        names = list(self.world.machines)
        if len(names) < 2:
            return None
        first = self.machine().name
        names.remove(first)
        return first, self.chance.choice(names)

    def living(self) -> Machine | None:
        """A machine whose daemon serves and that nobody is busy with."""
        machines = self.world.machines.values()
        return self._choose(m for m in machines if is_open(m) and m.name not in self.busy)

    def engine(self) -> tuple[Machine, MemoryEngine] | None:
        """An engine that serves, and where."""
        machines = self.world.machines.values()
        machine = self._choose(m for m in machines if m.engines and m.engines[0].serving)
        return None if machine is None else (machine, machine.engines[0])

    def _choose(self, possible: Iterable[Machine]) -> Machine | None:
        able = list(possible)
        if self.chance.random() < self.aimed:
            at_work = [m for m in able if any(engine.running for engine in m.engines)]
            able = at_work or able
        return self.chance.choice(able) if able else None


def is_open(machine: Machine) -> bool:
    """Whether a daemon on it serves clients."""
    serves = machine.node is not None and machine.screen.last("serving") is not None
    return serves and not machine.stopping and machine.running.drain.is_open
