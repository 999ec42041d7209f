"""Control links: typed messages between members over ALPN `meshd/1` (trio shell).

Each node keeps one link *to* every other member, which it dials, and serves the links that others
dial to it.  Requests go out on the own link and are answered on it, so there is no tie to break
and no role to negotiate: two TCP connections a pair, one for each direction of asking.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import trio

from meshd import limits, logs
from meshd.beat import beat_after
from meshd.errors import (
    DialFailed,
    MeshdError,
    NotAdmitted,
    ProtocolError,
    Refused,
    SentAway,
    StreamBroken,
)
from meshd.ids import Address, NodeId, short
from meshd.peers.link import REQUEST_S, AnsweringLink, AskingLink, LinkHandler
from meshd.ports import Alpn, ByteStream, Entropy, Network
from meshd.wire.control import Hello, Message, Ping

__all__ = ["MOVED", "MOVED_HERE", "OWN_DOING", "SLEPT", "ControlLinks", "LinkHandler"]

log = logs.get("links")

REDIAL_FIRST_S = 0.25
REDIAL_MAX_S = 15.0
PING_S = 2.0
"""A link is pinged this often, which also measures the round trip."""
LEAVE_S = 1.0
"""For a node that left to read the answer to that."""

SLEPT = "this machine slept"
MOVED = "it has moved"
MOVED_HERE = "this machine has moved"
OWN_DOING = frozenset({SLEPT, MOVED, MOVED_HERE})
"""Reasons for which this node itself cuts a link, and which say nothing against the other side."""

_NO_MEMBER = "it is no member any more"


class ControlLinks:
    """All control links of a node."""

    def __init__(
        self,
        network: Network,
        entropy: Entropy,
        handler: LinkHandler,
        addresses: Callable[[NodeId], Sequence[Address]],
    ) -> None:
        self._network = network
        self._entropy = entropy
        self._handler = handler
        self._addresses = addresses
        self._asking: dict[NodeId, AskingLink] = {}
        """Links that we dialled, from the first byte on."""
        self._answering: dict[NodeId, list[AnsweringLink]] = {}
        """Links that others dialled, the oldest first."""
        self._keepers: dict[NodeId, trio.CancelScope] = {}
        self._kicks: dict[NodeId, trio.Event] = {}
        self._nursery: trio.Nursery | None = None
        self._wanted: set[NodeId] = set()
        self._leaving: set[NodeId] = set()
        self._complaints = logs.PerSource(log, trio.current_time)

    # ---------------------------------------------------------------- what others use

    async def run(self) -> None:
        """Keep the wanted links up until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for node in sorted(self._wanted):
                self._begin_keeping(node)
            nursery.start_soon(self._watch)
            await trio.sleep_forever()

    def want(self, nodes: set[NodeId]) -> None:
        """These members should be linked; links to and from others are closed at once."""
        gone = self._wanted - nodes
        new = nodes - self._wanted
        self._wanted = set(nodes)
        for node in gone:
            if link := self._asking.get(node):
                link.stream.abort(_NO_MEMBER)
            if scope := self._keepers.pop(node, None):
                scope.cancel()
            self._kicks.pop(node, None)
            if node in self._leaving and self._nursery is not None:
                for session in self._answering.get(node, ()):
                    session.retire()
                self._nursery.start_soon(self._cut_soon, node)
            else:
                self.cut(node, _NO_MEMBER)
        if self._nursery is not None:
            for node in sorted(new):
                self._begin_keeping(node)

    @contextmanager
    def letting_leave(self, node: NodeId) -> Iterator[None]:
        """If that node is no more wanted within, it goes of its own will.

        It may read the answer to that before it is cut off.
        """
        self._leaving.add(node)
        try:
            yield
        finally:
            self._leaving.discard(node)

    async def _cut_soon(self, node: NodeId) -> None:
        await trio.sleep(LEAVE_S)
        self.cut(node, "it has left")

    def cut(self, node: NodeId, reason: str) -> None:
        """Close the open links of a node, both ways."""
        if link := self._asking.get(node):
            link.stream.abort(reason)
        for session in list(self._answering.get(node, ())):
            session.stream.abort(reason)

    def moved_here(self) -> None:
        """This machine has lost an address: links may hang on it, so all are dialled anew."""
        for node in self.up():
            self.cut(node, MOVED_HERE)

    def moved(self, node: NodeId, gone: Collection[Address]) -> None:
        """That node is no longer at these addresses: a link to one of them is dialled anew."""
        link = self._asking.get(node)
        if link is not None and link.stream.remote.address in gone:
            self.cut(node, MOVED)

    def kick(self, node: NodeId) -> None:
        """Dial that node now instead of waiting for the next turn (it was heard of)."""
        event = self._kicks.get(node)
        if event is not None:
            event.set()

    def is_up(self, node: NodeId) -> bool:
        """Whether our link to that node is up."""
        return self._link(node) is not None

    def ping(self, node: NodeId) -> None:
        """Have a member say something; nothing happens if there is no link."""
        if link := self._link(node):
            link.ping()

    def heard_at(self, node: NodeId) -> float | None:
        """When a member last said something on our link; None if there is no link."""
        link = self._link(node)
        return link.heard_at if link is not None else None

    def address_of(self, node: NodeId) -> Address | None:
        """Where our link to that node has reached it; None if there is no link."""
        link = self._link(node)
        return link.stream.remote.address if link is not None else None

    def up(self) -> list[NodeId]:
        """All nodes our links to which are up."""
        return [node for node in self._asking if self.is_up(node)]

    async def request(
        self, node: NodeId, message: Message, timeout_s: float = REQUEST_S
    ) -> Message:
        """Ask a member something.

        Raises DialFailed if there is no link or no answer in time; Refused with the other side's
        own words, or if the message cannot be sent.
        """
        link = self._link(node)
        if link is None:
            raise DialFailed(f"node {short(node)} cannot be reached now")
        return await link.request(message, timeout_s)

    def notify(self, node: NodeId, message: Message) -> None:
        """Tell a member something; nothing happens if there is no link."""
        if link := self._link(node):
            link.tell(message)

    def notify_at_once(self, node: NodeId, messages: Sequence[Message]) -> None:
        """Tell a member these, now if its link has room; nothing happens if there is no link."""
        if link := self._link(node):
            link.tell_at_once(messages)

    def notify_all(self, message: Message) -> None:
        """Tell every linked member."""
        for node in self.up():
            self.notify(node, message)

    def _link(self, node: NodeId) -> AskingLink | None:
        """Our link to a member if it is up.  One to a node that was taken off the list is not."""
        link = self._asking.get(node)
        return link if link is not None and link.greeted and node in self._wanted else None

    # ---------------------------------------------------------------- our own links

    def _begin_keeping(self, node: NodeId) -> None:
        assert self._nursery is not None
        scope = self._keepers[node] = trio.CancelScope()
        self._nursery.start_soon(self._keep, node, scope)

    async def _keep(self, node: NodeId, scope: trio.CancelScope) -> None:
        pause_s = REDIAL_FIRST_S
        with scope:
            while True:
                kick = self._kicks[node] = trio.Event()
                try:
                    if await self._dial(node):
                        pause_s = REDIAL_FIRST_S
                except Exception:  # one member's link must not end the others'
                    log.exception("a link failed", node=short(node))
                jitter = 0.5 + self._entropy.random()
                with trio.move_on_after(pause_s * jitter):
                    await kick.wait()
                pause_s = min(REDIAL_MAX_S, pause_s * 2)

    async def _dial(self, node: NodeId) -> bool:
        """One life of our link to a node; whether it was up."""
        try:
            stream = await self._network.dial_peer(
                node, self._addresses(node), Alpn.CONTROL, limits.PEER_HANDSHAKE_S
            )
        except (DialFailed, NotAdmitted, StreamBroken) as e:
            log.debug("no link", node=short(node), why=str(e))
            if isinstance(e, SentAway):
                self._handler.sent_away(node)
            return False
        link = AskingLink(node, stream)
        self._asking[node] = link
        reason = "closed"
        try:
            await link.run(self._handler.hello(), lambda hello: self._linked(link, hello))
        except* (StreamBroken, ProtocolError, Refused) as group:
            reason = "; ".join(dict.fromkeys(str(error) for error in leaves(group)))
        finally:
            del self._asking[node]
            if node not in self._wanted:
                reason = _NO_MEMBER
            link.close(reason)
            if link.greeted:
                self._handler.unlinked(node, reason)
        if not link.greeted:
            self._complaints.warning("link refused", short(node), why=reason)
        return link.greeted

    def _linked(self, link: AskingLink, hello: Hello) -> None:
        self._handler.greeted(link.node, hello)
        link.greeted = True
        self._handler.linked(link.node)

    # ---------------------------------------------------------------- silence

    async def _watch(self) -> None:
        """Ping our links, and close those, of either side, on which nothing is heard."""
        async with trio.open_nursery() as nursery:
            while True:
                due_at = beat_after(trio.current_time(), PING_S)
                await trio.sleep_until(due_at)
                now = trio.current_time()
                # Time in which this process did not run says nothing about the others.
                deaf_s = now - due_at if now - due_at > PING_S else 0.0
                for link in list(self._all()):
                    link.heard_at += deaf_s
                    link.end_if_silent(now)
                for node in self.up():
                    nursery.start_soon(self._ping, node)

    def _all(self) -> Iterator[AskingLink | AnsweringLink]:
        yield from self._asking.values()
        for sessions in self._answering.values():
            yield from sessions

    async def _ping(self, node: NodeId) -> None:
        began = trio.current_time()
        try:
            await self.request(node, Ping())
        except (DialFailed, Refused):
            return  # the link's own reader reports what is wrong with it
        self._handler.measured(node, trio.current_time() - began)

    # ---------------------------------------------------------------- links of others to us

    async def serve(self, stream: ByteStream) -> None:
        """Serve one link that a member dialled to us, until it ends.

        Raises ProtocolError or Refused for one that was not a link as it should be, for whoever
        counts and logs by source.
        """
        node = stream.remote.node
        assert node is not None, "control links are always verified"
        session = AnsweringLink(node, stream, self._handler)
        sessions = self._answering.setdefault(node, [])
        sessions.append(session)
        if len(sessions) > limits.CONTROL_LINKS_PER_NODE:
            sessions[0].stream.abort("this node opened newer links")
        fault: MeshdError | None = None
        try:
            await session.run()
        except* StreamBroken as group:
            log.debug("control link ended", node=short(node), why=str(leaves(group)[0]))
        except* (ProtocolError, Refused) as group:
            fault = leaves(group)[0]
        finally:
            sessions.remove(session)
            if not sessions:
                self._answering.pop(node, None)
            stream.abort("the control link is over")
        if fault is not None:
            raise fault


def leaves(group: BaseExceptionGroup[MeshdError]) -> list[MeshdError]:
    """The errors themselves, however deep the nurseries were that they came through."""
    found: list[MeshdError] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
