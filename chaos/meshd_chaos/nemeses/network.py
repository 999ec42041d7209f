"""Links that are cut, slow, lossy or reset."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Annotated, Literal

from msgspec import Meta

from meshd_chaos.links import CUT, Link, Trouble
from meshd_chaos.mesh import Mesh
from meshd_chaos.nemeses.nemesis import CannotInject, Hit, Nemesis
from meshd_chaos.nemeses.roles import Role, cast

Seconds = Annotated[float, Meta(ge=0, le=30)]
Share = Annotated[float, Meta(ge=0, le=1)]
Rate = Annotated[float, Meta(ge=100, le=1e9)]
Where = Literal["all", "node", "pair"]
"""Which links: all, those of one node, those between two."""


class Partition(Nemesis):
    """A part of the mesh is cut off without a word, TCP and UDP."""

    shape: Literal["node", "halves", "pair"] = "node"
    """One node from the rest; a minority from the majority; two nodes from each other."""
    target: Role = "holder"
    """For `node` and `pair`: who is cut off."""
    direction: Literal["both", "in", "out"] = "both"
    """in: those cut off hear nothing and are heard; out: they hear all and are not heard."""

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        everyone = {machine.name for machine in mesh.members()}
        if len(everyone) < 2:
            raise CannotInject("there is one node only")
        if self.shape == "halves":
            some = set(chance.sample(sorted(everyone), len(everyone) // 2))
            others, who = everyone - some, " and ".join(sorted(some))
        else:
            machine, role = await cast(mesh, self.target, chance)
            some, others = {machine.name}, everyone - {machine.name}
            who = f"{machine.name}, {role},"
            if self.shape == "pair":
                others = {chance.choice(sorted(others))}
        links = _directed(mesh, self.direction, some, others)
        _trouble(self.remedy, links, CUT)
        how = {"both": "both ways", "in": "towards it", "out": "away from it"}[self.direction]
        rest = next(iter(others)) if self.shape == "pair" else "the rest"
        return Hit(tuple(sorted(some)), f"cut {who} off from {rest}, {how}")


class Zombie(Nemesis):
    """A node that answers gossip and no requests: its TCP is a black hole, its UDP passes."""

    target: Role = "holder"

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        machine, role = await cast(mesh, self.target, chance)
        everyone = {member.name for member in mesh.members()}
        links = mesh.links.around(machine.name, everyone)
        _trouble(self.remedy, links, Trouble(cut_streams=True))
        did = f"let only gossip pass to and from {machine.name}, {role}"
        return Hit((machine.name,), did)


class Latency(Nemesis):
    """Links that take their time, TCP and UDP."""

    links: Where = "all"
    target: Role = "any"
    latency_s: Seconds = 0.1
    """One way."""
    jitter_s: Seconds = 0.05

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        links, nodes, where = await _chosen(mesh, self.links, self.target, chance)
        trouble = Trouble(latency_s=self.latency_s, jitter_s=self.jitter_s)
        _trouble(self.remedy, links, trouble)
        least, most = self.latency_s * 1000, (self.latency_s + self.jitter_s) * 1000
        return Hit(nodes, f"delayed {where} by {least:g} to {most:g} ms each way")


class Loss(Nemesis):
    """Links that lose datagrams.  Streams lose nothing: TCP sees to that."""

    links: Where = "all"
    target: Role = "any"
    share: Share = 0.3

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        links, nodes, where = await _chosen(mesh, self.links, self.target, chance)
        _trouble(self.remedy, links, Trouble(loss=self.share))
        return Hit(nodes, f"lost {self.share:.0%} of the datagrams on {where}")


class SlowLink(Nemesis):
    """Links that carry few bytes a second, each way."""

    links: Where = "node"
    target: Role = "holder"
    bytes_per_s: Rate = 20_000.0

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        links, nodes, where = await _chosen(mesh, self.links, self.target, chance)
        _trouble(self.remedy, links, Trouble(bytes_per_s=self.bytes_per_s))
        return Hit(nodes, f"slowed {where} to {self.bytes_per_s:g} bytes a second a connection")


class Reset(Nemesis):
    """Every connection on some links is reset, once."""

    links: Where = "node"
    target: Role = "holder"

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        links, nodes, where = await _chosen(mesh, self.links, self.target, chance)
        broken = sum(link.reset() for link in links)
        return Hit(nodes, f"reset {broken} connections on {where}", is_moment=True)


async def _chosen(
    mesh: Mesh, where: Where, target: Role, chance: Random
) -> tuple[list[Link], tuple[str, ...], str]:
    """The links that are meant, whose they are, and how to call them."""
    everyone = {machine.name for machine in mesh.members()}
    if len(everyone) < 2:
        raise CannotInject("there is one node only, and no link")
    if where == "all":
        return mesh.links.between(everyone, everyone), (), "all links"
    machine, role = await cast(mesh, target, chance)
    name = machine.name
    if where == "node":
        return mesh.links.around(name, everyone), (name,), f"the links of {name}, {role},"
    other = chance.choice(sorted(everyone - {name}))
    links = mesh.links.around(name, {name, other})
    return links, (name, other), f"the links between {name}, {role}, and {other}"


def _directed(mesh: Mesh, direction: str, some: set[str], others: set[str]) -> list[Link]:
    links = []
    if direction in ("both", "in"):
        links += mesh.links.between(others, some)
    if direction in ("both", "out"):
        links += mesh.links.between(some, others)
    return links


def _trouble(
    remedy: Callable[[Callable[[], None]], None], links: list[Link], trouble: Trouble
) -> None:
    def undo() -> None:
        for link in links:
            link.remove(trouble)

    for link in links:
        link.add(trouble)
    remedy(undo)
