"""Who is told of which message on the control links.

Each part of the node that speaks with its like elsewhere registers for its message types; the links
know no message but the greeting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from meshd.errors import Refused
from meshd.ids import MeshId, NodeId, short
from meshd.wire.control import Hello, Message, Unknown

M = TypeVar("M", bound=Message)
Answering = Callable[[NodeId, Any], Awaitable[Message | None]]


class Switchboard:
    """`LinkHandler` for a node: greets, and passes each message to whoever registered for it."""

    def __init__(self, mesh: MeshId, hello: Callable[[], Hello]) -> None:
        self._mesh = mesh
        self._hello = hello
        self._answering: dict[type[Message], Answering] = {}
        self._taking: dict[type[Message], Callable[[NodeId, Any], None]] = {}
        self._on_greeted: list[Callable[[NodeId, Hello], None]] = []
        self._on_linked: list[Callable[[NodeId], None]] = []
        self._on_unlinked: list[Callable[[NodeId, str], None]] = []
        self._on_sent_away: list[Callable[[NodeId], None]] = []
        self._on_measured: list[Callable[[NodeId, float], None]] = []
        self.counters: Counter[str] = Counter()

    # ---------------------------------------------------------------- registering

    def answer(self, kind: type[M], how: Callable[[NodeId, M], Awaitable[Message | None]]) -> None:
        """Messages of this type go to `how`; one answerer a type."""
        assert kind not in self._answering, f"{kind.__name__} has an answerer already"
        self._answering[kind] = how

    def take_in_order(self, kind: type[M], how: Callable[[NodeId, M], None]) -> None:
        """Notifications of this type go to `how` at once, in the order in which they came.

        `how` must be quick: the link reads nothing meanwhile.
        """
        assert kind not in self._taking, f"{kind.__name__} has a taker already"
        self._taking[kind] = how

    def on_greeted(self, call: Callable[[NodeId, Hello], None]) -> None:
        """Be told what the other side of a link says of itself; may raise Refused."""
        self._on_greeted.append(call)

    def on_linked(self, call: Callable[[NodeId], None]) -> None:
        """Be told when our link to a node is up."""
        self._on_linked.append(call)

    def on_unlinked(self, call: Callable[[NodeId, str], None]) -> None:
        """Be told when our link to a node is down."""
        self._on_unlinked.append(call)

    def on_sent_away(self, call: Callable[[NodeId], None]) -> None:
        """Be told when a node says that this one was removed from the mesh."""
        self._on_sent_away.append(call)

    def on_measured(self, call: Callable[[NodeId, float], None]) -> None:
        """Be told of round trips."""
        self._on_measured.append(call)

    # ---------------------------------------------------------------- LinkHandler

    def hello(self) -> Hello:
        return self._hello()

    def take(self, node: NodeId, message: Message) -> bool:
        taking = self._taking.get(type(message))
        if taking is None:
            return False
        taking(node, message)
        return True

    async def handle(self, node: NodeId, message: Message) -> Message | None:
        if isinstance(message, Unknown):
            self.counters["control_unknown"] += 1
            return None
        answering = self._answering.get(type(message))
        if answering is None:
            self.counters["control_not_a_question"] += 1
            raise Refused(f"{type(message).__name__} is no question for this node")
        return await answering(node, message)

    def greeted(self, node: NodeId, hello: Hello) -> None:
        ours = self._hello()
        if hello.mesh != self._mesh:
            raise Refused(f"node {short(node)} is of mesh {short(hello.mesh)}, not of this one")
        if hello.node != node:
            raise Refused(f"node {short(node)} says that it is {short(hello.node)}")
        if ours.protocol_with(hello) is None:
            raise Refused(
                f"no common protocol: it speaks {hello.protocol_min} to {hello.protocol_max}, "
                f"this node {ours.protocol_min} to {ours.protocol_max}; update the older one"
            )
        for call in self._on_greeted:
            call(node, hello)

    def linked(self, node: NodeId) -> None:
        for call in self._on_linked:
            call(node)

    def unlinked(self, node: NodeId, reason: str) -> None:
        for call in self._on_unlinked:
            call(node, reason)

    def sent_away(self, node: NodeId) -> None:
        for call in self._on_sent_away:
            call(node)

    def measured(self, node: NodeId, rtt_s: float) -> None:
        for call in self._on_measured:
            call(node, rtt_s)
