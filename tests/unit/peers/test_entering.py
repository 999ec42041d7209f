"""Into a mesh that was found by looking around: whichever of its members answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from meshd.errors import DialFailed, Refused
from meshd.ids import Address
from meshd.peers.entering import Entrance
from meshd.peers.join_talk import JoinRefused
from meshd.ports import Ports
from meshd.screen import Screen, SightedMesh
from meshd.testing.clock import SimClock
from meshd.testing.database import MemoryDatabases
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy
from meshd.testing.machine import SimHost
from meshd.testing.world import MemoryScreen
from tests.joins import HOST, NOW_UNIX_S, JoinNetwork, Mesh

GONE = [Address(f"192.168.7.{n}", 11436) for n in (200, 201)]


def entrance(network: JoinNetwork, sighted: Sequence[SightedMesh]) -> tuple[Entrance, MemoryScreen]:
    async def browse() -> Sequence[SightedMesh]:
        await trio.lowlevel.checkpoint()
        return sighted

    screen = MemoryScreen()
    ports = Ports(
        network.network,
        SimClock(wall_unix_s=NOW_UNIX_S),
        MemoryDisk(),
        SeededEntropy("newcomer"),
        None,  # type: ignore[arg-type]
        SimHost(),
        MemoryDatabases(),
    )
    made = Entrance(
        ports,
        PurePosixPath("/data"),
        cast(Screen, screen),
        name="laptop",
        addresses=[Address("192.168.7.9", 11436)],
        browse=browse,
    )
    return made, screen


def seen(mesh: Mesh, *addresses: Address) -> list[SightedMesh]:
    return [SightedMesh(mesh.authority.mesh, "attic", str(address)) for address in addresses]


@pytest.mark.parametrize("order", [[HOST], [*GONE, HOST], [GONE[0], HOST, GONE[1]]])
async def test_any_member_in_sight_lets_it_in(
    order: list[Address], autojump_clock: MockClock
) -> None:
    mesh = Mesh()
    async with trio.open_nursery() as nursery:
        who, screen = entrance(mesh.network(nursery), seen(mesh, *order))
        standing = await who.enter("auto", mesh.token().text())
        assert standing.identity.mesh == mesh.authority.mesh
        assert standing.reached == (mesh.key.public.node, HOST)
        joining = [what["address"] for kind, what in screen.shown if kind == "joining"]
        assert joining == [str(a) for a in order[: order.index(HOST) + 1]]


async def test_nobody_who_is_in_sight_answers(autojump_clock: MockClock) -> None:
    mesh = Mesh()
    async with trio.open_nursery() as nursery:
        who, _ = entrance(mesh.network(nursery), seen(mesh, *GONE))
        with pytest.raises(DialFailed, match="nobody listens on 192"):
            await who.enter("auto", mesh.token().text())


async def test_a_refusal_is_the_meshs_and_is_not_taken_elsewhere(
    autojump_clock: MockClock,
) -> None:
    mesh = Mesh()
    token = mesh.token(ttl_s=1)
    mesh.pass_time(10)
    async with trio.open_nursery() as nursery:
        network = mesh.network(nursery)
        who, _ = entrance(network, seen(mesh, HOST, HOST))
        with pytest.raises(JoinRefused, match="expired"):
            await who.enter("auto", token.text())
        assert len(network.dialled) == 1


async def test_meshes_of_others_are_not_asked_with_a_token_of_this_one(
    autojump_clock: MockClock,
) -> None:
    mesh, other = Mesh(), Mesh("other")
    async with trio.open_nursery() as nursery:
        network = mesh.network(nursery)
        who, _ = entrance(network, seen(other, HOST))
        with pytest.raises(Refused, match="no mesh is in sight"):
            await who.enter("auto", mesh.token().text())
        assert network.dialled == []
