"""Nodes that come, go, and are restarted in good order, all under load."""

from __future__ import annotations

import subprocess
from random import Random
from typing import Literal

import msgspec
import trio

from meshd_chaos.machines import DaemonRefused, Machine
from meshd_chaos.mesh import Mesh, MeshFailed
from meshd_chaos.nemeses.nemesis import CannotInject, Hit, Nemesis
from meshd_chaos.nemeses.roles import Role, cast
from meshd_chaos.records import Outage


class Restart(Nemesis):
    """SIGTERM, and a start when it has ended: one node, or all of them one after the other."""

    target: Role | Literal["all"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._outages: list[Outage] = []

    def outages(self) -> tuple[Outage, ...]:
        return tuple(self._outages)

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        if self.target == "all":
            machines, who = mesh.running(), "every node, one after the other"
        else:
            machine, role = await cast(mesh, self.target, chance)
            machines, who = [machine], f"{machine.name}, {role}"
        over, failed = trio.Event(), list[Exception]()

        async def restart_all() -> None:
            try:
                for machine in machines:
                    await self._restart(mesh, machine)
            except MeshFailed as error:
                failed.append(error)
            finally:
                over.set()

        async def ended() -> None:
            await over.wait()  # each step of it has a deadline
            if failed:
                raise MeshFailed(f"the restart went wrong: {failed[0]}")

        mesh.spawn(restart_all)
        self.remedy(ended)
        return Hit(tuple(machine.name for machine in machines), f"restarted {who}")

    async def _restart(self, mesh: Mesh, machine: Machine) -> None:
        if not machine.runs or machine.is_frozen:
            return  # another fault has it
        outage = Outage(node=machine.name, began_at_s=trio.current_time())
        try:
            await _stop_and_start(mesh, machine)
            outage = msgspec.structs.replace(outage, ended_at_s=trio.current_time())
        finally:
            self._outages.append(outage)


async def _stop_and_start(mesh: Mesh, machine: Machine) -> None:
    try:
        await machine.stop()
    except subprocess.TimeoutExpired:
        if not machine.is_frozen:
            raise MeshFailed(f"{machine.name} did not end on SIGTERM") from None
        machine.kill()  # stopped by another fault meanwhile: it cannot hear
    await mesh.start(machine)
    await mesh.serves(machine)


class Leave(Nemesis):
    """A node leaves the mesh for good, in the middle of its work."""

    target: Role = "any"

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        if len(mesh.running()) < 3:
            raise CannotInject("two nodes must remain")
        machine, role = await cast(mesh, self.target, chance)
        try:
            await mesh.leave(machine)
        except DaemonRefused as error:
            raise CannotInject(str(error)) from None
        return Hit((machine.name,), f"made {machine.name}, {role}, leave the mesh")


class Join(Nemesis):
    """A node that is new to the mesh joins it, with engines of its own."""

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        like = chance.choice(mesh.members())
        models = [engine.model for engine in like.engines]
        try:
            machine = await mesh.join_new(models)
        except MeshFailed as error:
            raise CannotInject(str(error)) from None
        has = " and ".join(models) if models else "no model"
        return Hit((machine.name,), f"let {machine.name} join, with {has}")
