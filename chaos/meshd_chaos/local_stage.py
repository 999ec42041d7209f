"""A mesh of real daemons and real engines on this machine, as the stage of a run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Final

import msgspec

from meshd.control import StatusReport
from meshd.testing.models import chain, expected_text
from meshd_chaos.excuses import Places
from meshd_chaos.mesh import Mesh, MeshFailed
from meshd_chaos.nemeses import NEMESES, Nemesis
from meshd_chaos.records import NotTested, Outage
from meshd_chaos.scenario import Layout
from meshd_chaos.schedule import Step
from meshd_chaos.stage import Injected
from meshd_chaos.workload import Planned

BACK_S: Final = 20.0
"""For a node to answer again after its fault was healed: a start takes about 1 s, joining more."""


class LocalStage:
    """Daemons, engines and links of this process's own."""

    headers: Mapping[str, str] = {}

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._injected: dict[int, tuple[Nemesis, tuple[str, ...]]] = {}

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self._mesh.models)

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self._mesh.machines)

    def entries(self) -> Mapping[str, str]:
        return self._mesh.entries()

    def prompt(self, request: str) -> str:
        # Every prompt is another one: none is poison for what another request killed.
        return f"Count, please. ({self._mesh.seed}, {request})"

    def fit(self, requests: Sequence[Planned]) -> list[Planned]:
        return list(requests)

    def expected(self, planned: Planned) -> tuple[str | None, str | None]:
        recipe, tokens = self._mesh.models[planned.model], planned.tokens
        finish = "length" if tokens < len(chain(recipe)) else "stop"
        return expected_text(recipe, max_tokens=tokens), finish

    async def places(self) -> Places:
        health = await self._mesh.health()
        voters: list[str] = []
        for record in health.records.values():
            voters = voters or [row.name for row in record.voters if row.part != "follows"]
        return Places(
            holders={
                model: [
                    machine.name
                    for machine in self._mesh.members()
                    if any(engine.model == model for engine in machine.engines)
                ]
                for model in self.models
            },
            voters=voters,
        )

    def not_tested(self, names: set[str]) -> list[NotTested]:
        whys = {name: NEMESES[name].probe() for name in sorted(names)}
        return [NotTested(name=name, why=why) for name, why in whys.items() if why]

    # ---------------------------------------------------------------- faults

    async def inject(self, step: Step) -> Injected:
        nemesis = msgspec.convert(step.fault.parameters, NEMESES[step.fault.name])
        hit = await nemesis.inject(self._mesh, Random(step.seed))
        self._injected[id(step)] = (nemesis, hit.nodes)
        return Injected(nodes=hit.nodes, did=hit.did)

    async def heal(self, step: Step) -> tuple[Outage, ...] | None:
        nemesis, nodes = self._injected.pop(id(step))
        await nemesis.heal(self._mesh)
        for machine in self._mesh.members():
            if machine.name in nodes and machine.runs and not machine.is_frozen:
                with suppress(MeshFailed):  # another fault has it; the end of the run will tell
                    await self._mesh.serves(machine, BACK_S)
        return nemesis.outages()

    async def whole_again(self, timeout_s: float) -> list[str]:
        found: list[str] = []
        try:
            await self._mesh.heal(timeout_s)
        except MeshFailed as error:
            found.append(str(error))
        return found + self._mesh.surprises

    def notes(self, *, keep: bool) -> list[str]:
        self._mesh.keep = keep
        return [f"all that the daemons wrote is kept in {self._mesh.folder}"] if keep else []

    async def statuses(self) -> Mapping[str, StatusReport]:
        return (await self._mesh.health()).statuses


@asynccontextmanager
async def local_stage(layout: Layout, seed: int) -> AsyncIterator[LocalStage]:
    """Start one; everything is gone when the block ends.  Raises MeshFailed and others."""
    async with Mesh.open(
        layout.nodes,
        seed,
        models=layout.models,
        copies=layout.copies,
        tokens_per_s=layout.tokens_per_s,
        slots=layout.slots,
    ) as mesh:
        yield LocalStage(mesh)
