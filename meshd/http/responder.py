"""The answering half of one request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from meshd.errors import StreamBroken
from meshd.http.encode import CHUNKED, CLOSE, KEEP_ALIVE, LAST_CHUNK, chunk, response_head
from meshd.http.messages import Headers, ServerRequest

_BODILESS = frozenset({204, 304})


class Wire(Protocol):
    """What a responder needs of its connection."""

    def closing(self) -> bool:
        """Whether the connection is to end after this answer anyway."""
        ...

    async def send(self, data: bytes) -> None: ...

    def send_nowait(self, data: bytes) -> bool: ...


class Responder:
    """Answers one request: either `send`, or `start`, any `write`s, `finish`.

    Every method raises StreamBroken once the client is gone.  Headers given here are the
    message's own; framing and Connection are added.
    """

    __slots__ = (
        "_chunked",
        "_keep_alive",
        "_on_disconnect",
        "_request",
        "_silent",
        "_wire",
        "disconnected",
        "finished",
        "started",
    )

    def __init__(self, wire: Wire, request: ServerRequest) -> None:
        self._wire = wire
        self._request = request
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
        head = self._begin(status, headers, length=len(body))
        self.finished = True
        if self._silent or status in _BODILESS:
            await self._wire.send(head)
        elif len(body) <= 65536:
            await self._wire.send(head + body)
        else:  # sooner two system calls than a copy
            await self._wire.send(head)
            await self._wire.send(body)

    async def start(self, status: int, headers: Headers, data: bytes = b"") -> None:
        """Status and headers of a streamed answer, and what of the body is there already."""
        self._silent = self._silent or status in _BODILESS
        head = self._begin(status, headers, length=None)
        await self._wire.send(head + self._piece(data))

    async def write(self, data: bytes) -> None:
        """One piece of the body, as soon as the transport takes it: this is the backpressure."""
        if self.disconnected:
            raise StreamBroken("the client went away")
        if piece := self._piece(data):
            await self._wire.send(piece)

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
        if last:
            await self._wire.send(last)

    def _begin(self, status: int, headers: Headers, length: int | None) -> bytes:
        """The head of the answer."""
        if self.disconnected:
            raise StreamBroken("the client went away")
        if self.started:
            raise RuntimeError("this request is being answered already")
        http10 = self._request.http10
        framing = b""
        if length is None:
            if self._chunked:
                framing = CHUNKED
            elif not self._silent:
                self._keep_alive = False  # the end of the connection ends the body
        elif status != 204:
            framing = b"content-length: %d\r\n" % length
        if self._wire.closing():
            self._keep_alive = False
        connection = b""
        if not self._keep_alive:
            connection = CLOSE
        elif http10:
            connection = KEEP_ALIVE
        head = response_head(status, headers, connection, framing)
        self.started = True  # not before: what cannot be encoded can still become an error
        return head

    def _piece(self, data: bytes) -> bytes:
        if not data or self._silent:
            return b""
        return chunk(data) if self._chunked else data
