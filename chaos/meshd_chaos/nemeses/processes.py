"""Daemons and engines that die, and that stand still."""

from __future__ import annotations

from random import Random

from meshd_chaos.machines import Engine, Machine
from meshd_chaos.mesh import Mesh
from meshd_chaos.nemeses.nemesis import CannotInject, Hit, Nemesis
from meshd_chaos.nemeses.roles import Role, cast


class Kill(Nemesis):
    """kill -9 of a daemon; healed, it is started again."""

    target: Role = "holder"

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        machine, role = await cast(mesh, self.target, chance)
        machine.kill()

        async def restart() -> None:
            if not machine.runs:
                await mesh.start(machine)

        self.remedy(restart)
        return Hit((machine.name,), f"killed {machine.name}'s daemon (-9), {role}")


class Freeze(Nemesis):
    """SIGSTOP of a daemon: the kernel accepts for it, and nothing answers."""

    target: Role = "holder"

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        machine, role = await cast(mesh, self.target, chance)
        machine.freeze()
        self.remedy(machine.thaw)
        return Hit((machine.name,), f"stopped {machine.name}'s daemon (SIGSTOP), {role}")


class KillBackend(Nemesis):
    """kill -9 of all engines of a node; its daemon lives."""

    target: Role = "holder"

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        machine, role = await cast(mesh, self.target, chance)
        engines = _engines(machine)
        broken = sum(machine.kill_engine(engine) for engine in engines)

        async def restart() -> None:
            for engine in engines:
                if not engine.runs:
                    await machine.start_engine(engine)

        self.remedy(restart)
        did = f"killed {_count(engines)} of {machine.name} (-9), {role}: {broken} connections broke"
        return Hit((machine.name,), did)


class FreezeBackend(Nemesis):
    """SIGSTOP of all engines of a node; its daemon lives."""

    target: Role = "holder"

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        machine, role = await cast(mesh, self.target, chance)
        engines = _engines(machine)
        for engine in engines:
            machine.freeze_engine(engine)

        def thaw() -> None:
            for engine in engines:
                machine.thaw_engine(engine)

        self.remedy(thaw)
        return Hit((machine.name,), f"stopped {_count(engines)} of {machine.name}, {role}")


def _engines(machine: Machine) -> list[Engine]:
    running = [engine for engine in machine.engines if engine.runs]
    if not running:
        raise CannotInject(f"no engine of {machine.name} runs now")
    return running


def _count(engines: list[Engine]) -> str:
    return f"{len(engines)} engine" + ("s" if len(engines) > 1 else "")
