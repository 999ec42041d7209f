"""The mesh port's front door: one listener, three kinds of visitor (trio shell).

The transport proves who knocks (or, for `meshd-join/1`, that nobody is proven); the ALPN says what
for.  Each connection has a task of its own and a deadline for its handshake, so a slow or hostile
stranger delays nobody; their number is bounded, and whoever has proven nothing gives way first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import trio

from meshd import limits, logs
from meshd.errors import MeshdError, WentAway
from meshd.ids import NodeId
from meshd.peers.join_limits import source_of
from meshd.ports import Alpn, ByteStream, Listener

log = logs.get("door")

Visit = Callable[[ByteStream], Awaitable[None]]


class PeerDoor:
    """Accepts on the mesh port and hands each stream to whoever serves its ALPN."""

    def __init__(
        self,
        visits: Mapping[Alpn, Visit],
        on_bad: Callable[[str, str], None],
    ) -> None:
        """`on_bad(source, why)` is told of every connection that was refused for a reason; it
        limits its own logging."""
        self._visits = visits
        self._on_bad = on_bad
        self.counters: Counter[str] = Counter()
        self._open = 0
        self._unproven: dict[ByteStream, None] = {}
        """In their handshake, the oldest first."""
        self._strangers: Counter[str] = Counter()
        """Let in for a join, by where they come from."""
        self._members: dict[NodeId, set[ByteStream]] = {}

    async def run(self, listener: Listener) -> None:
        """Accept until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                stream = await listener.accept()
                if self._open >= limits.PEER_CONNECTIONS and not self._make_room():
                    self._bad(stream, "too many connections are open on the mesh port")
                    continue
                self._open += 1
                self._unproven[stream] = None
                nursery.start_soon(self._visit, listener, stream)

    def cut(self, node: NodeId, reason: str) -> None:
        """Close what a node that is no member any more has open, its control links apart.

        Those are cut by whoever keeps them: a node that leaves may hear that it has left.
        """
        for stream in list(self._members.get(node, ())):
            if stream.remote.alpn is not Alpn.CONTROL:
                stream.abort(reason)

    def _make_room(self) -> bool:
        """A connection that has waited longest for its handshake gives way to the next one.

        An honest handshake is over in milliseconds, so with all places taken by connections that
        say nothing the next member still gets in.
        """
        oldest = next(iter(self._unproven), None)
        if oldest is None:
            return False
        del self._unproven[oldest]
        oldest.abort("others needed the place of a connection that proved nothing")
        return True

    async def _visit(self, listener: Listener, raw: ByteStream) -> None:
        stream = raw
        try:
            stream = await self._let_in(listener, raw)
            alpn = stream.remote.alpn
            visit = self._visits.get(alpn) if alpn is not None else None
            if visit is None:
                self._bad(stream, f"nothing is served for ALPN {alpn!r} here")
                return
            self.counters[f"peer_{alpn}"] += 1
            if stream.remote.node is None:
                await self._visit_of_stranger(visit, stream)
            else:
                await self._visit_of_member(visit, stream, stream.remote.node)
        except WentAway:  # who dials several of our addresses hangs up on all but one: no warning
            self.counters["peer_refused"] += 1
        except MeshdError as e:
            self._bad(stream, str(e))
        except Exception:  # a connection's task: the node goes on without it
            log.exception("a connection on the mesh port failed")
        finally:
            self._open -= 1
            self._unproven.pop(raw, None)
            stream.abort("the visit is over")

    async def _let_in(self, listener: Listener, raw: ByteStream) -> ByteStream:
        """The handshake, within its time."""
        with trio.move_on_after(limits.PEER_HANDSHAKE_S):
            stream = await listener.handshake(raw)
            self._unproven.pop(raw, None)
            return stream
        raise MeshdError(f"no handshake within {limits.PEER_HANDSHAKE_S:.0f} s")

    async def _visit_of_stranger(self, visit: Visit, stream: ByteStream) -> None:
        source = source_of(stream.remote.address)
        if (
            self._strangers[source] >= limits.JOIN_CONNECTIONS_PER_ADDRESS
            or self._strangers.total() >= limits.JOIN_CONNECTIONS
        ):
            raise MeshdError("too many strangers are at the door")
        self._strangers[source] += 1
        try:
            await visit(stream)
        finally:
            self._strangers[source] -= 1
            self._strangers += Counter()  # keeps what is above zero

    async def _visit_of_member(self, visit: Visit, stream: ByteStream, node: NodeId) -> None:
        streams = self._members.setdefault(node, set())
        streams.add(stream)
        try:
            await visit(stream)
        finally:
            streams.discard(stream)
            if not streams and self._members.get(node) is streams:
                del self._members[node]

    def _bad(self, stream: ByteStream, why: str) -> None:
        self.counters["peer_refused"] += 1
        address = stream.remote.address
        self._on_bad(address.host if address else "?", why)
        stream.abort(why)
