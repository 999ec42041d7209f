"""Members in virtual time: real cores over a made-up network, driven by one heap of events.

Everything follows from the seed: latency, loss, duplication, and the members' own choices.  No
trio, no sockets, no clock; the same seed gives the same trace, byte for byte.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from meshd.ids import Address, NodeId
from meshd.membership import events
from meshd.membership.constants import LAN, Settings
from meshd.membership.core import Core
from meshd.membership.members import State
from meshd.membership.outbox import BUDGET_BYTES
from meshd.wire.envelope import PAYLOAD_BYTES
from meshd.wire.gossip import Profile, decode_packet, encode_packet

PORT = 11436


@dataclass(frozen=True, slots=True)
class Weather:
    """What the network does to datagrams.  Times in seconds."""

    latency_min_s: float = 0.0002
    latency_mean_s: float = 0.001
    """Of the part above the minimum, which is exponential."""
    loss: float = 0.0
    duplication: float = 0.0


def node_id(index: int) -> NodeId:
    """Ids that sort like the index and look like ids."""
    return NodeId(base64.b32encode((index << 6).to_bytes(17, "big")).decode().lower()[:26])


def address_of(index: int) -> Address:
    return Address(f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}", PORT)


def sign(payload: bytes) -> bytes:
    """A stand-in of the right size: what matters is that the core asks."""
    return b"s" * 64


def verify(node: NodeId, payload: bytes, signature: bytes) -> bool:
    return signature == b"s" * 64


class Node:
    """One machine: its core, its address, whether it is up, and its own clock."""

    __slots__ = ("address", "asleep", "core", "id", "index", "scheduled", "slept_s", "up")

    def __init__(self, index: int, core: Core) -> None:
        self.index = index
        self.id = core.node
        self.core = core
        self.address = address_of(index)
        self.up = True
        self.asleep = False
        self.slept_s = 0.0
        """How far its clock, which stands still in sleep, is behind the world's."""
        self.scheduled = float("inf")


Observer = Callable[[float, Node, events.Changed], None]


class World:
    """A mesh of simulated machines."""

    def __init__(
        self,
        seed: int,
        *,
        weather: Weather | None = None,
        settings: Settings = LAN,
        trace: bool = False,
        check_packets: bool = False,
    ) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.weather = weather or Weather()
        self.settings = settings
        self.now = 0.0
        self.nodes: dict[NodeId, Node] = {}
        self.by_address: dict[Address, Node] = {}
        self.observers: list[Observer] = []
        self.directives: list[tuple[float, NodeId, events.Directive]] = []
        """Those that no machine carries out by itself: Renewed, Warned, Departed."""
        self.packets = 0
        self.messages = 0
        self.steps = 0
        self._heap: list[tuple[float, int, Node | None, object]] = []
        self._sequence = 0
        self._cut: set[tuple[int, int]] = set()
        self._trace = hashlib.sha256() if trace else None
        self._check_packets = check_packets

    # --- machines

    def add(self, index: int, *, generation: int = 1) -> Node:
        """A machine that is switched on and knows nobody yet (`admit` comes next)."""
        core = Core(
            node_id(index),
            generation,
            Profile(f"node-{index}", (address_of(index),)),
            sign=sign,
            verify=verify,
            chance=random.Random(f"{self.seed}/{index}/{generation}"),
            now=self.now,
            settings=self.settings,
        )
        node = Node(index, core)
        self.nodes[node.id] = node
        self.by_address[node.address] = node
        self._schedule(node)
        return node

    def admit(self, nodes: Iterable[NodeId] | None = None) -> None:
        """Give every machine the member list."""
        admitted = frozenset(self.nodes if nodes is None else nodes)
        for node in list(self.nodes.values()):
            if node.up:
                self.tell(node, events.Admitted(admitted))

    def build(self, count: int) -> list[Node]:
        """A mesh in which everybody knows everybody, quietly: as it is some time after founding."""
        nodes = [self.add(index) for index in range(count)]
        self.admit()
        words = tuple(node.core.word for node in nodes)
        for node in nodes:
            first = nodes[0] if node is not nodes[0] else nodes[-1]
            self.tell(node, events.Merged(first.id, words))
        return nodes

    def crash(self, node: Node) -> None:
        node.up = False

    def restart(self, node: Node, *, generation: int) -> Node:
        """Switch it on again, as a machine that has forgotten all but its generation."""
        return self.add(node.index, generation=generation)

    def move(self, node: Node, address: Address) -> None:
        """The machine has another address from now on, and says so."""
        del self.by_address[node.address]
        node.address = address
        self.by_address[address] = node
        self.tell(node, events.ProfileChanged(Profile(f"node-{node.index}", (address,))))

    def sleep(self, node: Node, duration_s: float) -> None:
        """Its clock stands still and datagrams to it are lost; then it wakes and notices."""
        node.asleep = True

        def wake() -> None:
            node.asleep = False
            node.slept_s += duration_s
            node.scheduled = float("inf")
            self.tell(node, events.Froze())
            self.tell(node, events.Woke(duration_s))

        self.at(self.now + duration_s, wake)

    def cut(self, one: Iterable[Node], other: Iterable[Node], *, both_ways: bool = True) -> None:
        """Nothing passes from `one` to `other` (nor back)."""
        others = [node.index for node in other]
        for index in [node.index for node in one]:
            for peer in others:
                self._cut.add((index, peer))
                if both_ways:
                    self._cut.add((peer, index))

    def heal(self) -> None:
        self._cut.clear()

    # --- time

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._push(when, None, action)

    def run(self, until: float) -> None:
        """Let events happen up to that time."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, node, what = heapq.heappop(heap)
            if node is None:
                assert callable(what)
                what()
            elif what is None:
                if self.now == node.scheduled:
                    node.scheduled = float("inf")
                    self.tell(node, _TICK)
            else:
                self.tell(node, what)  # type: ignore[arg-type]
        self.now = until

    def tell(self, node: Node, event: events.Event) -> None:
        """One event to one core, and its directives carried out."""
        if not node.up or node.asleep:
            return
        self.steps += 1
        at = self.now - node.slept_s
        if event is _TICK:
            at = max(at, node.core.wake_at)  # the subtraction may round down to just before it
        directives = node.core.handle(event, at)
        for directive in directives:
            kind = type(directive)
            if kind is events.Send:
                self._send(node, directive)  # type: ignore[arg-type]
            elif kind is events.Changed:
                for observer in self.observers:
                    observer(self.now, node, directive)  # type: ignore[arg-type]
            elif kind is events.TcpPing:
                self._tcp_ping(node, directive)  # type: ignore[arg-type]
            elif kind is events.Exchange:
                self._exchange(node, directive)  # type: ignore[arg-type]
            else:
                self.directives.append((self.now, node.id, directive))
        if self._trace is not None:
            self._trace.update(f"{self.now!r} {node.index} {event!r} {directives!r}\n".encode())
        self._schedule(node)

    def digest(self) -> str:
        """A hash of all that happened."""
        assert self._trace is not None
        return self._trace.hexdigest()

    # --- looking

    def views(self, of: Node) -> dict[Node, State | None]:
        """What each other machine that is up holds of that one."""
        return {
            node: None if (member := node.core.members.get(of.id)) is None else member.state
            for node in self.nodes.values()
            if node.id != of.id and node.up and not node.asleep
        }

    # --- the network

    def _latency(self) -> float:
        weather = self.weather
        return weather.latency_min_s + self.chance.expovariate(1 / weather.latency_mean_s)

    def _send(self, node: Node, send: events.Send) -> None:
        weather, chance = self.weather, self.chance
        self.packets += 1
        self.messages += len(send.messages)
        if self._check_packets:
            data = encode_packet(send.messages)
            assert len(data) <= PAYLOAD_BYTES, (len(data), BUDGET_BYTES, send)
            assert decode_packet(data, max_bytes=PAYLOAD_BYTES).messages == send.messages
        for address in send.addresses:
            copies = 2 if weather.duplication and chance.random() < weather.duplication else 1
            for _ in range(copies):
                target = self.by_address.get(address)
                if target is None or (node.index, target.index) in self._cut:
                    continue
                if weather.loss and chance.random() < weather.loss:
                    continue
                event = events.Received(node.id, node.address, send.messages)
                self._push(self.now + self._latency(), target, event)

    def _stream_to(self, node: Node, addresses: tuple[Address, ...]) -> Node | None:
        """Who accepts a TCP connection: loss costs TCP time, here that much that it fails."""
        for address in addresses:
            target = self.by_address.get(address)
            if target is None or not target.up or target.asleep:
                continue
            if (node.index, target.index) in self._cut or (target.index, node.index) in self._cut:
                continue
            if self.chance.random() < (1 - self.weather.loss) ** 4:
                return target
        return None

    def _tcp_ping(self, node: Node, ping: events.TcpPing) -> None:
        target = self._stream_to(node, ping.addresses)
        answered = target is not None and target.id == ping.node
        when = self.now + 4 * self._latency() if answered else ping.deadline + node.slept_s
        self._push(when, node, events.TcpPinged(ping.node, ping.sequence, answered))

    def _exchange(self, node: Node, exchange: events.Exchange) -> None:
        target = self._stream_to(node, exchange.addresses)
        if target is None or target.id != exchange.node:
            return
        sent = node.core.state()

        def arrive() -> None:
            if not target.up or target.asleep:
                return
            self.tell(target, events.Merged(node.id, sent))
            back = events.Merged(target.id, target.core.state())
            self._push(self.now + self._latency(), node, back)

        self.at(self.now + 4 * self._latency(), arrive)

    def _schedule(self, node: Node) -> None:
        wake_at = max(node.core.wake_at + node.slept_s, self.now)
        if wake_at < node.scheduled:
            node.scheduled = wake_at
            self._push(wake_at, node, None)

    def _push(self, when: float, node: Node | None, what: object) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, node, what))


_TICK = events.Tick()
