"""The answering half of one request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from meshd.errors import StreamBroken
from meshd.http.encode import CHUNKED, CLOSE, KEEP_ALIVE, LAST_CHUNK, chunk, response_head
from meshd.http.messages import Headers, ServerRequest

_BODILESS = frozenset({204, 304})


@dataclass(slots=True)
class Drain:
    """Shared by the connections of a server: whether each is to end after its answer."""

    begun: bool = False


class Wire(Protocol):
    """What a responder needs of its connection."""

    drain: Drain

    def push(self, data: bytes) -> bytes | None:
        """Send without waiting.  None if all of it is out; else what `flush` must be given."""
        ...

    async def flush(self, data: bytes) -> None: ...

    def send_nowait(self, data: bytes) -> bool: ...

    def abort(self, reason: str) -> None: ...


class Responder:
    """Answers one request: either `send`, or `start`, any `write`s, `finish`.

    Every method raises StreamBroken once the client is gone.  Headers given here are the
    message's own; framing and Connection are added.
    """

    __slots__ = (
        "_chunked",
        "_keep_alive",
        "_on_disconnect",
        "_silent",
        "_wire",
        "disconnected",
        "finished",
        "started",
    )

    def __init__(self, wire: Wire, request: ServerRequest) -> None:
        self._wire = wire
        self._keep_alive = request.keep_alive
        self._chunked = not request.http10
        self._silent = request.method == "HEAD"
        self._on_disconnect: Callable[[], None] | None = None
        self.started = False
        """A status line is out: an error can no longer be a status."""
        self.finished = False
        self.disconnected = False
        """The client went away before `finished`."""

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may carry another request after this answer."""
        return self._keep_alive

    @property
    def on_disconnect(self) -> Callable[[], None] | None:
        """Called once, from another task, if the client goes away before the answer is finished.

        Called at once when set after the fact.  It must not wait and must not raise.
        """
        return self._on_disconnect

    @on_disconnect.setter
    def on_disconnect(self, callback: Callable[[], None] | None) -> None:
        self._on_disconnect = callback
        if self.disconnected and callback is not None:
            self._on_disconnect = None
            callback()

    def disconnect(self) -> None:
        """The connection says that the client is gone."""
        if self.disconnected or self.finished:
            return
        self.disconnected = True
        callback, self._on_disconnect = self._on_disconnect, None
        if callback is not None:
            callback()

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer, with its length."""
        data = self._begin(status, headers, len(body))
        self.finished = True
        wire = self._wire
        if not self._silent and status not in _BODILESS:
            if len(body) <= 65536:
                data += body
            else:  # sooner two system calls than a copy
                if (rest := wire.push(data)) is not None:
                    await wire.flush(rest)
                data = body
        if (rest := wire.push(data)) is not None:
            await wire.flush(rest)

    async def start(self, status: int, headers: Headers, data: bytes = b"") -> None:
        """Status and headers of a streamed answer, and what of the body is there already."""
        self._silent = self._silent or status in _BODILESS
        head = self._begin(status, headers, None)
        if (rest := self._wire.push(head + self._piece(data))) is not None:
            await self._wire.flush(rest)

    def start_nowait(self, status: int, headers: Headers, data: bytes = b"") -> bool:
        """`start` if the transport is not behind; False if nothing was sent."""
        self._silent = self._silent or status in _BODILESS
        head = self._begin(status, headers, None)
        self.started = self._wire.send_nowait(head + self._piece(data))
        return self.started

    async def write(self, data: bytes) -> None:
        """One piece of the body, as soon as the transport takes it: this is the backpressure."""
        if self.disconnected:
            raise StreamBroken("the client went away")
        piece = self._piece(data)
        if piece and (rest := self._wire.push(piece)) is not None:
            await self._wire.flush(rest)

    def write_nowait(self, data: bytes) -> bool:
        """Write if the transport is not behind; False if nothing was sent (see ByteStream)."""
        if self.disconnected:
            raise StreamBroken("the client went away")
        piece = self._piece(data)
        return not piece or self._wire.send_nowait(piece)

    async def finish(self, data: bytes = b"") -> None:
        """The last piece, if there is one left, and the end of the body."""
        if self.disconnected:
            raise StreamBroken("the client went away")
        self.finished = True
        last = self._piece(data)
        if self._chunked and not self._silent:
            last += LAST_CHUNK
        if last and (rest := self._wire.push(last)) is not None:
            await self._wire.flush(rest)

    def abort(self, reason: str) -> None:
        """Break the connection: whoever waits for it to take something gets StreamBroken."""
        self._wire.abort(reason)

    def _begin(self, status: int, headers: Headers, length: int | None) -> bytes:
        """The head of the answer."""
        if self.disconnected:
            raise StreamBroken("the client went away")
        if self.started:
            raise RuntimeError("this request is being answered already")
        fixed = b""
        if length is not None:
            if status != 204:
                fixed = b"content-length: %d\r\n" % length
        elif self._chunked:
            fixed = CHUNKED
        elif not self._silent:
            self._keep_alive = False  # the end of the connection ends the body
        if self._wire.drain.begun:
            self._keep_alive = False
        if not self._keep_alive:
            fixed += CLOSE
        elif not self._chunked:
            fixed += KEEP_ALIVE
        head = response_head(status, headers, fixed)
        self.started = True  # not before: what cannot be encoded can still become an error
        return head

    def _piece(self, data: bytes) -> bytes:
        if not data or self._silent:
            return b""
        return chunk(data) if self._chunked else data
