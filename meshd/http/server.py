"""The HTTP/1.1 server: accepts, counts and drains; `connection.py` serves."""

from __future__ import annotations

import trio

from meshd.errors import MeshdError, StreamBroken
from meshd.http.connection import Connection, Handler, ServerOptions
from meshd.http.encode import CLOSE, response_head
from meshd.http.responder import Drain
from meshd.http.sweeper import Sweeper
from meshd.ports import ByteStream, Listener

_DEFAULTS = ServerOptions()


class HttpServer:
    """Serves a handler on any number of listeners and streams."""

    def __init__(
        self, handler: Handler, sweeper: Sweeper, *, options: ServerOptions = _DEFAULTS
    ) -> None:
        self._handler = handler
        self._sweeper = sweeper
        self._options = options
        self._connections: dict[Connection, None] = {}
        self._drain = Drain()

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._connections)

    async def serve(self, listener: Listener) -> None:
        """Accept for ever.

        Ends when the listener is closed and its connections have ended; cancel it to end both.
        """
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    stream = await listener.accept()
                except StreamBroken:
                    return
                nursery.start_soon(self._serve_accepted, listener, stream)

    async def serve_stream(self, stream: ByteStream) -> None:
        """Serve one connection whose handshake is done; returns when it is closed."""
        if len(self._connections) >= self._options.connections:
            await self._turn_away(stream)
            return
        connection = Connection(stream, self._handler, self._sweeper, self._options, self._drain)
        self._connections[connection] = None
        try:
            await connection.run()
        finally:
            del self._connections[connection]

    def drain(self) -> None:
        """End idle connections now and the others after the answer they are at."""
        self._drain.begun = True
        for connection in list(self._connections):
            connection.close_if_idle()

    async def _serve_accepted(self, listener: Listener, stream: ByteStream) -> None:
        late = self._sweeper.watch(lambda: stream.abort("the handshake took too long"))
        late.at = self._sweeper.now + self._options.handshake_s
        try:
            stream = await listener.handshake(stream)
        except MeshdError as error:
            self._options.on_error("a connection was not let in", error)
            stream.abort(str(error))
            return
        finally:
            self._sweeper.unwatch(late)
        try:
            await self.serve_stream(stream)
        except Exception as error:  # a bug here must not end the other connections
            self._options.on_error("a connection ended by a bug", error)

    async def _turn_away(self, stream: ByteStream) -> None:
        headers, body = self._options.error_body(503, "Too many connections; try again.", "")
        framing = b"retry-after: 1\r\ncontent-length: %d\r\n" % len(body)
        try:
            stream.send_nowait(response_head(503, headers, CLOSE + framing) + body)
            await stream.aclose()
        except MeshdError:
            stream.abort("turned away")
