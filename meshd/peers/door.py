"""The mesh port's front door: one listener, three kinds of visitor (trio shell).

The transport proves who knocks (or, for `meshd-join/1`, that nobody is proven); the ALPN says what
for.  Each connection has a task of its own and a deadline for its handshake, so a slow or hostile
stranger delays nobody; their number is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import trio

from meshd import limits, logs
from meshd.errors import MeshdError
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
        """`on_bad(source, why)` is told of every refused connection; it limits its own logging."""
        self._visits = visits
        self._on_bad = on_bad
        self.counters: Counter[str] = Counter()
        self._open = 0

    async def run(self, listener: Listener) -> None:
        """Accept until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                stream = await listener.accept()
                if self._open >= limits.PEER_CONNECTIONS:
                    self._bad(stream, "too many connections are open on the mesh port")
                    continue
                self._open += 1
                nursery.start_soon(self._visit, listener, stream)

    async def _visit(self, listener: Listener, raw: ByteStream) -> None:
        stream = raw
        try:
            with trio.move_on_after(limits.PEER_HANDSHAKE_S) as deadline:
                stream = await listener.handshake(raw)
            if deadline.cancelled_caught:
                self._bad(raw, f"no handshake within {limits.PEER_HANDSHAKE_S:.0f} s")
                return
            alpn = stream.remote.alpn
            visit = self._visits.get(alpn) if alpn is not None else None
            if visit is None:
                self._bad(stream, f"nothing is served for ALPN {alpn!r} here")
                return
            self.counters[f"peer_{alpn}"] += 1
            await visit(stream)
        except MeshdError as e:
            self._bad(stream, str(e))
        except Exception:  # a connection's task: the node goes on without it
            log.exception("a connection on the mesh port failed")
        finally:
            self._open -= 1
            stream.abort("the visit is over")

    def _bad(self, stream: ByteStream, why: str) -> None:
        self.counters["peer_refused"] += 1
        address = stream.remote.address
        self._on_bad(address.host if address else "?", why)
        stream.abort(why)
