"""Members on a network in memory, with as much of a node around their links as a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

from meshd.errors import Refused
from meshd.ids import Address, MeshId, NodeId
from meshd.peers.door import PeerDoor
from meshd.peers.links import ControlLinks, LinkHandler
from meshd.ports import Alpn
from meshd.testing.entropy import SeededEntropy
from meshd.testing.network import MemoryHost, MemoryNetwork, memory_credentials
from meshd.wire.control import Hello, Message
from meshd.wire.control_record import RecordMessage
from tests.control_link import Raw

MESH = MeshId("m" * 26)
PORT = 11436


def node_id(letter: str) -> NodeId:
    return NodeId(letter * 26)


A, B, C = node_id("a"), node_id("b"), node_id("c")


def hello_of(node: NodeId, **other: object) -> Hello:
    fields: dict[str, object] = {
        "protocol_min": 1,
        "protocol_max": 1,
        "version": "0",
        "node": node,
        "generation": 1,
        "mesh": MESH,
        "name": node[0],
        "members_version": 1,
    }
    return Hello(**{**fields, **other})  # type: ignore[arg-type]


class Notes:
    """A `LinkHandler` that writes down what it is told, and answers as told."""

    def __init__(self, node: NodeId) -> None:
        self.own_hello = hello_of(node)
        self.greetings: list[tuple[NodeId, Hello]] = []
        self.messages: list[tuple[NodeId, Message]] = []
        self.taken: list[bytes] = []
        self.ups: list[NodeId] = []
        self.downs: list[tuple[NodeId, str]] = []
        self.sent_away_by: list[NodeId] = []
        self.round_trips: list[float] = []
        self.refuses: str | None = None
        self.answer: Callable[[NodeId, Message], Awaitable[Message | None]] = self._nothing

    def hello(self) -> Hello:
        return self.own_hello

    async def handle(self, node: NodeId, message: Message) -> Message | None:
        self.messages.append((node, message))
        return await self.answer(node, message)

    def take(self, node: NodeId, message: Message) -> bool:
        if not isinstance(message, RecordMessage):
            return False
        self.taken.append(message.data)
        return True

    def greeted(self, node: NodeId, hello: Hello) -> None:
        self.greetings.append((node, hello))
        if self.refuses is not None:
            raise Refused(self.refuses)

    def linked(self, node: NodeId) -> None:
        self.ups.append(node)

    def unlinked(self, node: NodeId, reason: str) -> None:
        self.downs.append((node, reason))

    def sent_away(self, node: NodeId) -> None:
        self.sent_away_by.append(node)

    def measured(self, node: NodeId, rtt_s: float) -> None:
        self.round_trips.append(rtt_s)

    @staticmethod
    async def _nothing(node: NodeId, message: Message) -> Message | None:
        await trio.lowlevel.checkpoint()
        return None


@dataclass
class Peer:
    """One member: its machine, its links, and its door if it has one."""

    node: NodeId
    host: MemoryHost
    links: ControlLinks
    notes: Notes = field(init=False)
    bad: list[str] = field(default_factory=list)
    """What its door refused, and why."""
    door: PeerDoor = field(init=False)

    @property
    def address(self) -> Address:
        return Address(self.host.addresses[0], PORT)

    async def serve(self) -> None:
        """Its door, until cancelled."""
        listener = await self.host.listen_peers(PORT)
        await self.door.run(listener)


class Town:
    """A few members that know each other's addresses."""

    def __init__(self, nursery: trio.Nursery, world: MemoryNetwork) -> None:
        self.nursery, self.world = nursery, world
        self.peers: dict[NodeId, Peer] = {}

    @staticmethod
    @asynccontextmanager
    async def open(**network: object) -> AsyncIterator[Town]:
        async with trio.open_nursery() as nursery:
            yield Town(nursery, MemoryNetwork(seed=1, **network))  # type: ignore[arg-type]
            nursery.cancel_scope.cancel()

    def member(self, node: NodeId, handler: LinkHandler | None = None, *, name: str = "") -> Peer:
        """A machine with links; it does nothing yet.  Its host's name is the id's first letter."""
        host = self.world.host(name or node[0])
        host.use(memory_credentials(node, MESH))
        notes = Notes(node)
        links = ControlLinks(host, SeededEntropy(node), handler or notes, self.addresses_of)
        peer = self.peers[node] = Peer(node, host, links)
        peer.notes = notes
        peer.door = PeerDoor({Alpn.CONTROL: links.serve}, lambda source, why: peer.bad.append(why))
        return peer

    async def live(self, node: NodeId, handler: LinkHandler | None = None) -> Peer:
        """A member that serves and keeps links (to whom it is told to)."""
        peer = self.member(node, handler)
        self.run(peer)
        await trio.testing.wait_all_tasks_blocked()
        return peer

    def run(self, peer: Peer) -> None:
        self.nursery.start_soon(peer.serve)
        self.nursery.start_soon(peer.links.run)

    def addresses_of(self, node: NodeId) -> list[Address]:
        return [self.peers[node].address]

    async def dial(self, near: Peer, far: Peer) -> Raw:
        """A link that speaks whatever a test writes."""
        stream = await near.host.dial_peer(far.node, [far.address], Alpn.CONTROL, 5)
        return Raw(stream)


async def until(is_so: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait in virtual time; fails the test if it never comes."""
    with trio.fail_after(within_s):
        while not is_so():  # noqa: ASYNC110 (what is waited for has no event)
            await trio.sleep(0.01)


async def pair(town: Town) -> tuple[Peer, Peer]:
    """Two members with links both ways."""
    a, b = await town.live(A), await town.live(B)
    a.links.want({B})
    b.links.want({A})
    await until(lambda: a.links.is_up(B) and b.links.is_up(A))
    return a, b
