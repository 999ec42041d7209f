"""The HTTP/1.1 client: one pool of keep-alive connections to one place.

No task reads in the background: whoever wants the answer reads it inline, and whoever sees a
deadline or a disconnect aborts the stream under the reader.  A pooled connection that the server
has closed meanwhile is noticed at checkout, or by its end before the first byte of an answer; then
the request goes out once more, on a fresh connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError, StreamAborted, StreamBroken
from meshd.http.encode import request_head
from meshd.http.messages import Headers, find_header
from meshd.http.responses import ResponseLimits, ResponseParser
from meshd.http.sweeper import Sweeper, Watch
from meshd.ports import ByteStream

Dial = Callable[[], Awaitable[ByteStream]]
OnStream = Callable[[ByteStream], None]

_LONE_BODY_BYTES = 64 * limits.KIB
_KEEP_ALIVE_MARGIN_S = 1.0
_DEFAULT_LIMITS = ResponseLimits()


READ_BYTES = 16 * limits.KIB
"""Of a body at a time: some eighty tokens of an engine, decoded in about a millisecond, so that a
quick engine does not keep the loop from everybody else."""


class _Pooled:
    """A connection and what is read from it."""

    __slots__ = ("half_sent", "heard", "idle_since", "idle_until", "parser", "stream")

    def __init__(self, stream: ByteStream, bounds: ResponseLimits) -> None:
        self.stream = stream
        self.parser = ResponseParser(bounds)
        self.idle_since = self.idle_until = 0.0
        self.heard = False
        """Something of the answer has come."""
        self.half_sent = False
        """The server answered without having taken the whole request."""


class ClientResponse:
    """An answer whose head has come; its body is read as it comes.

    Read it to its end, or `abort`, or `aclose`: else its connection is lost to the pool.
    """

    __slots__ = ("_connection", "_owner", "_parser", "_released", "headers", "status")

    def __init__(self, owner: HttpClient, connection: _Pooled) -> None:
        self._owner = owner
        self._connection = connection
        self._parser = connection.parser
        self._released = False
        self.status = self._parser.status
        self.headers = self._parser.headers

    def header(self, name: bytes) -> bytes | None:
        """The first header of that (lower-case) name."""
        return find_header(self.headers, name)

    async def read_some(self) -> bytes:
        """The next bytes of the body as they came, b"" at its end.

        Raises StreamBroken if it was cut (StreamAborted: by this side) and ProtocolError for
        garbage.
        """
        parser = self._parser
        if self._released:
            return b""
        try:
            while True:
                if data := parser.take():
                    return data
                if parser.complete:
                    self._release()
                    return b""
                data = await self._connection.stream.receive_some(READ_BYTES)
                if data:
                    parser.feed(data)
                else:
                    parser.feed_eof()
        except (StreamBroken, ProtocolError) as error:
            self.abort(str(error))
            raise

    async def read(self, max_bytes: int) -> bytes:
        """The rest of the body.  Raises LimitExceeded above `max_bytes`, else as `read_some`."""
        body: bytes | bytearray = self._parser.take()  # often all of it came with the head
        while len(body) <= max_bytes:
            if self._parser.complete:
                if not self._released:
                    self._release()
                return bytes(body)
            if not (data := await self.read_some()):
                return bytes(body)
            if type(body) is bytes:
                body = bytearray(body)
            body += data
        self.abort("the answer is too large")
        raise LimitExceeded(f"The server's answer is larger than {max_bytes} bytes.")

    def abort(self, reason: str) -> None:
        """Give up: close the connection at once.  Nothing happens if the body has ended."""
        if not self._released:
            self._released = True
            self._owner._give_up(self._connection, reason)

    async def aclose(self) -> None:
        """Done with it, read or not."""
        if not self._released and self._parser.complete:
            self._release()
        self.abort("the answer is not wanted any more")

    def _release(self) -> None:
        self._released = True
        self._owner._give_back(self._connection)


class HttpClient:
    """Requests to one place."""

    def __init__(
        self,
        dial: Dial,
        *,
        host: str,
        sweeper: Sweeper,
        pool_size: int = limits.HTTP_POOL_IDLE_PER_HOST,
        pool_idle_s: float = limits.HTTP_POOL_IDLE_S,
        bounds: ResponseLimits = _DEFAULT_LIMITS,
    ) -> None:
        """`host` is the Host header.  `dial` makes a connection within its own timeout."""
        self._dial = dial
        self._fixed = f"host: {host}\r\n".encode("ascii")
        self._sweeper = sweeper
        self._pool_size = pool_size
        self._pool_idle_s = pool_idle_s
        self._bounds = bounds
        self._idle: list[_Pooled] = []  # the last one used is at the end, and is used next
        self._connections: dict[_Pooled, None] = {}
        self._watch: Watch | None = None
        self._closed = False

    @property
    def idle_connections(self) -> int:
        return len(self._idle)

    async def request(
        self,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes = b"",
        *,
        on_stream: OnStream | None = None,
        on_sent: Callable[[], None] | None = None,
    ) -> ClientResponse:
        """Send one request and wait for the head of its answer.

        `headers` are the message's own; Host and framing are added.  `on_stream` is told of the
        stream before anything is awaited on it (twice if a stale connection was replaced), so that
        the caller can abort it; `on_sent` when all of the request is with the transport.  Raises
        what `dial` raises, StreamBroken, ProtocolError.
        """
        fixed = self._fixed
        if body or method in ("POST", "PUT", "PATCH"):
            fixed += b"content-length: %d\r\n" % len(body)
        head = request_head(method, path, fixed, headers)
        message, rest = (head + body, b"") if len(body) <= _LONE_BODY_BYTES else (head, body)
        fresh = False
        while True:
            connection = None if fresh else self._take_idle()
            if connection is None:
                fresh = True
                connection = _Pooled(await self._dial(), self._bounds)
                self._connections[connection] = None
            connection.parser.expect(head_only=method == "HEAD")
            try:
                if on_stream is not None:
                    on_stream(connection.stream)
                await self._exchange(connection, message, rest, on_sent)
            except BaseException as error:  # also a cancel: the connection must not be lost to us
                stale = type(error) is StreamBroken and not connection.heard
                self._give_up(connection, "the request failed")
                if fresh or not stale:
                    raise
                fresh = True
            else:
                return ClientResponse(self, connection)

    async def _exchange(
        self,
        connection: _Pooled,
        message: bytes,
        rest: bytes,
        on_sent: Callable[[], None] | None,
    ) -> None:
        """Send a request and read until the head of its answer is there."""
        stream, parser = connection.stream, connection.parser
        connection.heard = False
        try:
            if not stream.send_nowait(message):
                await stream.send_all(message)
            elif stream.unsent_bytes:
                await stream.send_all(b"")
            if rest:
                await stream.send_all(rest)
        except StreamAborted:
            raise
        except StreamBroken:
            # A server that refuses a body may answer and close while it is being sent.
            connection.half_sent = True
        if on_sent is not None:
            on_sent()
        while not parser.head_complete:
            data = await stream.receive_some()
            if data:
                connection.heard = True
                parser.feed(data)
            else:
                parser.feed_eof()

    def close_idle(self) -> None:
        """Close what is not in use, for instance after the machine has slept."""
        for connection in self._idle:
            self._close(connection)
        self._idle.clear()

    def close_all(self, reason: str) -> None:
        """Close everything, for good; requests in progress raise StreamAborted(reason)."""
        self._closed = True
        self.close_idle()
        for connection in list(self._connections):
            self._give_up(connection, reason)

    # --- the pool

    def _take_idle(self) -> _Pooled | None:
        now = self._sweeper.now
        while self._idle:
            connection = self._idle.pop()
            # Within the tick in which it was given back it is taken on trust: asking the socket
            # costs a system call, and being wrong costs one fresh dial.
            if connection.idle_since == now or (
                connection.idle_until > now and not connection.stream.is_stale()
            ):
                return connection
            self._close(connection)
        return None

    def _give_back(self, connection: _Pooled) -> None:
        parser = connection.parser
        if (
            not parser.reusable
            or connection.half_sent
            or self._closed
            or len(self._idle) >= self._pool_size
        ):
            self._close(connection)
            return
        idle_s = self._pool_idle_s
        if parser.keep_alive_s is not None:
            idle_s = min(idle_s, parser.keep_alive_s - _KEEP_ALIVE_MARGIN_S)
            if idle_s <= 0:
                self._close(connection)
                return
        if self._watch is None:
            self._watch = self._sweeper.watch(self._expire)
        connection.idle_since = now = self._sweeper.now
        connection.idle_until = now + idle_s
        if connection.idle_until < self._watch.at:
            self._watch.at = connection.idle_until
        self._idle.append(connection)

    def _close(self, connection: _Pooled) -> None:
        self._connections.pop(connection, None)
        connection.stream.close()

    def _give_up(self, connection: _Pooled, reason: str) -> None:
        self._connections.pop(connection, None)
        connection.stream.abort(reason)

    def _expire(self) -> None:
        now = self._sweeper.now
        for connection in [c for c in self._idle if c.idle_until <= now]:
            self._idle.remove(connection)
            self._close(connection)
        assert self._watch is not None
        if self._idle:
            self._watch.at = min(connection.idle_until for connection in self._idle)
        else:  # a pool with nothing in it is not watched, so that an idle process sleeps
            self._sweeper.unwatch(self._watch)
            self._watch = None
