"""Faults: each is injected, does harm to a role, and is healed.

nemesis = msgspec.convert({"target": "leader"}, NEMESES["kill"])
if why := nemesis.probe(): ...              # not testable on this machine
hit = await nemesis.inject(mesh, chance)    # raises CannotInject: not tested
await nemesis.heal(mesh)
"""

from __future__ import annotations

from typing import Final

from meshd_chaos.nemeses.clock import ClockSkew
from meshd_chaos.nemeses.disk import FullDisk
from meshd_chaos.nemeses.membership import Join, Leave, Restart
from meshd_chaos.nemeses.nemesis import CannotInject, Hit, Nemesis
from meshd_chaos.nemeses.network import Latency, Loss, Partition, Reset, SlowLink, Zombie
from meshd_chaos.nemeses.processes import Freeze, FreezeBackend, Kill, KillBackend

__all__ = ["NEMESES", "CannotInject", "Hit", "Nemesis"]

NEMESES: Final[dict[str, type[Nemesis]]] = {
    "kill": Kill,
    "kill-backend": KillBackend,
    "freeze": Freeze,
    "freeze-backend": FreezeBackend,
    "restart": Restart,
    "leave": Leave,
    "join": Join,
    "partition": Partition,
    "zombie": Zombie,
    "latency": Latency,
    "loss": Loss,
    "slow-link": SlowLink,
    "reset": Reset,
    "clock-skew": ClockSkew,
    "full-disk": FullDisk,
}
"""By the name that scenarios call them."""
