"""Who is hit: roles are found at the moment of the fault, from what the daemons say then."""

from __future__ import annotations

from random import Random
from typing import Final, Literal

import trio

from meshd_chaos.health import Health
from meshd_chaos.machines import Machine
from meshd_chaos.mesh import Mesh
from meshd_chaos.nemeses.nemesis import CannotInject

PATIENCE_S: Final = 3.0
"""For somebody to have the role."""
_LOOK_S: Final = 0.1

Role = Literal["holder", "entry", "leader", "any"]
"""holder: it runs requests; entry: clients wait for it; leader: of the record; any: it runs."""


async def cast(mesh: Mesh, role: Role, chance: Random) -> tuple[Machine, str]:
    """A running member in that role, as soon as there is one, and what it is as a phrase.

    Of several, one by chance.  Raises CannotInject.
    """
    found: dict[str, str] = {}
    with trio.move_on_after(PATIENCE_S):
        while not found:
            health = await mesh.health()
            running = {machine.name: machine for machine in mesh.running()}
            found = {n: phrase for n, phrase in _all(health, role).items() if n in running}
            if not found:
                await trio.sleep(_LOOK_S)  # polling real processes
    if not found:
        raise CannotInject(f"no node was {_NOBODY[role]} for {PATIENCE_S:g} s")
    name = chance.choice(sorted(found))
    return running[name], found[name]


_NOBODY = {
    "holder": "the holder of a request",
    "entry": "the entry of a request",
    "leader": "known to lead the record",
    "any": "there that runs and answers",
}


def _all(health: Health, role: Role) -> dict[str, str]:
    if role == "leader":
        return {health.leader: "leader of the record"} if health.leader else {}
    found = {}
    for name, status in health.statuses.items():
        holds, enters = status.node.running, status.counters.get("in_flight", 0)
        if role == "any":
            found[name] = f"holder of {holds}, entry of {enters}"
        elif role == "holder" and holds:
            found[name] = f"holder of {holds}"
        elif role == "entry" and enters:
            found[name] = f"entry of {enters}"
    return found
