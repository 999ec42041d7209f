"""Who is hit: roles are found at the moment of the fault, from what the daemons say then."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, Literal

import trio

from meshd_chaos.machines import Machine
from meshd_chaos.mesh import Mesh
from meshd_chaos.nemeses.nemesis import CannotInject

PATIENCE_S: Final = 5.0
"""For somebody to have the role."""
ANSWER_S: Final = 1.0
"""For daemons to say what they are at: a fault does not wait for one that is busy."""
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
            found = await _all(mesh.running(), role)
            if not found:
                await trio.sleep(_LOOK_S)  # polling real processes
    there = {machine.name: machine for machine in mesh.running() if machine.name in found}
    if not there:
        raise CannotInject(f"no node was {_NOBODY[role]} for {PATIENCE_S:g} s")
    name = chance.choice(sorted(there))
    return there[name], found[name]


_NOBODY = {
    "holder": "the holder of a request",
    "entry": "the entry of a request",
    "leader": "known to lead the record",
    "any": "there that runs and answers",
}


async def _all(machines: Sequence[Machine], role: Role) -> dict[str, str]:
    """Everybody in that role, by name, as those say who answer soon: what they are, as a phrase."""
    found: dict[str, str] = {}

    async def ask(machine: Machine) -> None:
        if phrase := await _in_role(machine, role):
            found[machine.name] = phrase

    with trio.move_on_after(ANSWER_S):
        async with trio.open_nursery() as nursery:
            for machine in machines:
                nursery.start_soon(ask, machine)
    return found


async def _in_role(machine: Machine, role: Role) -> str:
    if role == "leader":
        record = await machine.record()
        leads = record is not None and record.leader == machine.name
        return "leader of the record" if leads else ""
    status = await machine.status()
    if status is None:
        return ""
    holds, enters = status.node.running, status.counters.get("in_flight", 0)
    if role == "any":
        return f"holder of {holds}, entry of {enters}"
    if role == "holder":
        return f"holder of {holds}" if holds else ""
    return f"entry of {enters}" if enters else ""
