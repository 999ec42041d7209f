"""Wall clocks that are wrong."""

from __future__ import annotations

from random import Random
from typing import Annotated

from msgspec import Meta

from meshd_chaos.clocks import why_no_clocks
from meshd_chaos.mesh import Mesh
from meshd_chaos.nemeses.nemesis import CannotInject, Hit, Nemesis
from meshd_chaos.nemeses.roles import Role, cast

YEAR_S = 366 * 86_400.0


class ClockSkew(Nemesis):
    """A machine's wall clock jumps; healed, it jumps back.  Its timers go on as before."""

    target: Role = "leader"
    by_s: Annotated[float, Meta(ge=-YEAR_S, le=YEAR_S)] = -300.0
    """Ahead, or behind if negative."""

    @classmethod
    def probe(cls) -> str:
        return why_no_clocks()

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        if mesh.clocks.problem:
            raise CannotInject(mesh.clocks.problem)
        machine, role = await cast(mesh, self.target, chance)
        mesh.clocks.set(machine.name, self.by_s)
        self.remedy(lambda: mesh.clocks.set(machine.name, 0.0))
        where = "ahead" if self.by_s > 0 else "back"
        did = f"set the clock of {machine.name}, {role}, {abs(self.by_s):g} s {where}"
        return Hit((machine.name,), did)
