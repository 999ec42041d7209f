"""Joins over the real network (TLS on loopback) and over the one in memory, door and all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from meshd.errors import SentAway
from meshd.identity import MeshIdentity, PrivateKey, check_peer, to_pem
from meshd.ids import Address, NodeId
from meshd.machine.network import RealNetwork
from meshd.peers.door import PeerDoor
from meshd.peers.join_client import Newcomer, PairingOffer, join_by_pairing, join_with_token
from meshd.peers.join_talk import JoinRefused
from meshd.ports import Alpn, ByteStream, Credentials, Listener, Network
from meshd.record import MemberRegistry
from meshd.testing.entropy import SeededEntropy
from meshd.testing.network import MemoryNetwork
from meshd.wire.join import Reason
from tests.joins import NOW_UNIX_S, Mesh, make_key


def credentials(key: PrivateKey, identity: MeshIdentity, registry: MemberRegistry) -> Credentials:
    def check(certificate_der: bytes) -> NodeId:
        return check_peer(
            certificate_der,
            mesh=registry.mesh,
            ca_public_key=identity.ca,
            registered=registry.key_hash_of,
            removed=registry.is_removed,
            now_unix_s=NOW_UNIX_S,
        )

    return Credentials(
        node=key.public.node,
        mesh=registry.mesh,
        certificate_pem=to_pem(identity.certificate_der),
        private_key_pem=key.pem(),
        ca_pem=to_pem(identity.ca_certificate_der),
        check_peer=check,
    )


class World:
    """A founder that listens, and a machine that wants in."""

    def __init__(self, mesh: Mesh, founder: Network, laptop: Network, address: Address) -> None:
        self.mesh, self.founder, self.laptop, self.address = mesh, founder, laptop, address
        self.bad: list[str] = []
        self.linked: list[NodeId] = []

    async def run(self, listener: Listener) -> None:
        async def link(stream: ByteStream) -> None:
            assert stream.remote.node is not None
            self.linked.append(stream.remote.node)
            await stream.send_all(b"hello")
            await stream.aclose()

        door = PeerDoor(
            {Alpn.JOIN: self.mesh.server.serve, Alpn.CONTROL: link},
            lambda source, why: self.bad.append(why),
        )
        await door.run(listener)


@asynccontextmanager
async def open_world(kind: str) -> AsyncIterator[World]:
    mesh = Mesh()
    if kind == "real":
        founder: Network = RealNetwork()
        laptop: Network = RealNetwork()
        host, port = "127.0.0.1", 0
    else:
        memory = MemoryNetwork(seed=1)
        founder, laptop = memory.host("attic", ["10.0.0.1"]), memory.host("laptop", ["10.0.0.2"])
        host, port = "10.0.0.1", 11436
    founder.use(credentials(mesh.key, mesh.identity, mesh.registry))
    listener = await founder.listen_peers(port)
    assert listener.address is not None
    world = World(mesh, founder, laptop, Address(host, listener.address.port))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run, listener)
        yield world
        nursery.cancel_scope.cancel()
    await listener.aclose()


def laptop() -> Newcomer:
    return Newcomer(make_key("laptop"), "laptop", [Address("192.168.7.9", 11436)])


KINDS = pytest.mark.parametrize("kind", ["real", "memory"])


@KINDS
async def test_who_joined_by_token_is_let_in_as_a_member(kind: str) -> None:
    who = laptop()
    async with open_world(kind) as world:
        joined = await join_with_token(
            world.laptop, SeededEntropy(1), world.address, world.mesh.token(), who
        )
        registry = MemberRegistry(joined.identity.ca, joined.members)
        world.laptop.use(credentials(who.key, joined.identity, registry))
        node = world.mesh.key.public.node
        stream = await world.laptop.dial_peer(node, [world.address], Alpn.CONTROL, 5.0)
        assert await stream.receive_some() == b"hello"
        await stream.aclose()
        assert world.linked == [who.key.public.node]
        assert world.bad == []


@KINDS
async def test_both_sides_of_a_pairing_show_the_same_digits(kind: str) -> None:
    async with open_world(kind) as world:

        async def confirm(offer: PairingOffer) -> bool:
            await world.mesh.somebody_waits.wait()
            world.mesh.server.approve(offer.digits)
            return True

        await join_by_pairing(world.laptop, SeededEntropy(1), world.address, laptop(), confirm)
        assert world.mesh.names == ["attic", "laptop"]


@KINDS
async def test_a_refusal_arrives_even_if_something_more_was_sent_before_it(kind: str) -> None:
    async with open_world(kind) as world:
        token = world.mesh.token()
        await join_with_token(world.laptop, SeededEntropy(1), world.address, token, laptop())
        other = Newcomer(make_key("other"), "other", [])
        with pytest.raises(JoinRefused) as caught:
            await join_with_token(world.laptop, SeededEntropy(2), world.address, token, other)
        assert caught.value.reason is Reason.USED_TOKEN


@KINDS
async def test_a_removed_member_is_not_let_in_any_more(kind: str) -> None:
    who = laptop()
    async with open_world(kind) as world:
        joined = await join_with_token(
            world.laptop, SeededEntropy(1), world.address, world.mesh.token(), who
        )
        registry = MemberRegistry(joined.identity.ca, joined.members)
        world.laptop.use(credentials(who.key, joined.identity, registry))
        world.mesh.remove(who.key.public.node)
        node = world.mesh.key.public.node
        with pytest.raises(SentAway, match="removed"):
            await world.laptop.dial_peer(node, [world.address], Alpn.CONTROL, 5.0)
        assert world.linked == []
