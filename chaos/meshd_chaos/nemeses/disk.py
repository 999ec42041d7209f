"""Disks that take nothing more."""

from __future__ import annotations

from random import Random

from meshd_chaos.disks import why_no_limits
from meshd_chaos.mesh import Mesh
from meshd_chaos.nemeses.nemesis import CannotInject, Hit, Nemesis
from meshd_chaos.nemeses.roles import Role, cast


class FullDisk(Nemesis):
    """Every write of a daemon to a file fails, as if its disk were full.

    The kernel refuses them by a limit on the size of files (RLIMIT_FSIZE of 0), for which root is
    not needed and which no other process feels.  A daemon that is started meanwhile has no limit.
    """

    target: Role = "any"

    @classmethod
    def probe(cls) -> str:
        return why_no_limits()

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        machine, role = await cast(mesh, self.target, chance)
        try:
            machine.allow_writes(False)
        except OSError as error:
            raise CannotInject(f"the limits of {machine.name} cannot be set: {error}") from None
        self.remedy(lambda: machine.allow_writes(True))
        return Hit((machine.name,), f"let the disk of {machine.name}, {role}, take no more")
