"""Whether a mesh is whole, by what its daemons say of it; and who does what in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from meshd.control import RecordReport, StatusReport
from meshd_chaos.machines import Machine

VOTES: Final = 3
"""Of a mesh of three nodes or more (consensus/voters.py); with fewer the loss of one is all."""


@dataclass(frozen=True, slots=True)
class Health:
    """One look at all members."""

    statuses: dict[str, StatusReport]
    """Of those that answered, by name."""
    records: dict[str, RecordReport]
    missing: str
    """What keeps the mesh from being whole, as a sentence; "": nothing."""

    @property
    def leader(self) -> str:
        """Who leads the record, by its own word; "": nobody says so."""
        for name, record in self.records.items():
            if record.leader == name:
                return name
        return ""


async def examine(members: Sequence[Machine], models: Sequence[str]) -> Health:
    """Ask all of them at once."""
    statuses: dict[str, StatusReport] = {}
    records: dict[str, RecordReport] = {}

    async def ask_status(machine: Machine) -> None:
        if (status := await machine.status()) is not None:
            statuses[machine.name] = status

    async def ask_record(machine: Machine) -> None:
        if (record := await machine.record()) is not None:
            records[machine.name] = record

    async with trio.open_nursery() as nursery:
        for machine in members:
            nursery.start_soon(ask_status, machine)
            nursery.start_soon(ask_record, machine)
    said = _missing(members, set(models), statuses, records)
    return Health(statuses, records, said)


def _missing(
    members: Sequence[Machine],
    models: set[str],
    statuses: dict[str, StatusReport],
    records: dict[str, RecordReport],
) -> str:
    names = {machine.name for machine in members}
    offered = {machine.name: len(machine.engines) for machine in members}
    for machine in members:
        name = machine.name
        status, record = statuses.get(name), records.get(name)
        if not machine.runs:
            return f"{name} does not run"
        if status is None or record is None:
            return f"{name} does not answer"
        seen = {node.name: node for node in status.nodes}
        if set(seen) != names:
            return f"{name} has {', '.join(sorted(seen))} for members"
        for node in status.nodes:
            if node.state not in ("self", "alive"):
                return f"{name} sees {node.name} {node.state}"
            if node.models < offered[node.name]:
                return f"{name} sees {node.models} of {offered[node.name]} models at {node.name}"
        if status.models < len(models):
            return f"{name} knows {status.models} of {len(models)} models"
        if record.problem:
            return f"{name} cannot write the record: {record.problem}"
        votes = sum(row.part != "follows" for row in record.voters)
        if votes % 2 == 0 or (votes < VOTES <= len(members)):
            return f"{name} knows of {votes} votes: they are still being given"
    leaders = {record.leader for record in records.values()}
    if len(leaders) != 1 or not leaders <= names:
        said = ", ".join(sorted(leaders - {""})) or "nobody"
        return f"the record is led by {said}"
    return ""
