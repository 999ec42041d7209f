"""A node takes nothing new and lets what runs end, before it goes; it may come back from that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from meshd.api.keyed import KeyedApi
from meshd.http import HttpServer
from meshd.node.data import DataSide
from meshd.ports import Listener

LAST_WORDS_S: Final = 1.0
"""For the errors of answers that could not be finished to reach their clients."""


class ClientPort:
    """Where clients come in."""

    def __init__(
        self,
        nursery: trio.Nursery,
        server: Callable[[], HttpServer],
        listen: Callable[[], Awaitable[Listener]],
    ) -> None:
        """`server` makes one, since one that was drained serves no more; `listen` binds the port
        again."""
        self._nursery = nursery
        self._server = server
        self._listen = listen
        self._open: tuple[Listener, HttpServer] | None = None

    @property
    def is_open(self) -> bool:
        """Whether clients get in."""
        return self._open is not None

    def serve(self, listener: Listener) -> None:
        """Let clients in that come there."""
        server = self._server()
        self._open = (listener, server)
        self._nursery.start_soon(server.serve, listener)

    async def close(self) -> None:
        """Let no more in.  Idle connections end now, others after the answer they are at."""
        if self._open is None:
            return
        (listener, server), self._open = self._open, None
        await listener.aclose()  # newcomers are better off at another node
        server.drain()

    async def reopen(self) -> None:
        """Let clients in again, where they came in before.  Raises what `listen` does."""
        if self._open is None:
            self.serve(await self._listen())


class Drain:
    """Of one node."""

    def __init__(self, data: DataSide, keyed: KeyedApi, timeout_s: float) -> None:
        """`timeout_s` is what all that runs has, together, to end."""
        self._data = data
        self._keyed = keyed
        self._port: ClientPort | None = None
        self._is_over = False
        self.timeout_s = timeout_s

    def use(self, port: ClientPort) -> None:
        """Where this node's clients come in: it is open."""
        self._port = port

    @property
    def is_open(self) -> bool:
        """Whether clients are let in."""
        return self._port is not None and self._port.is_open

    @property
    def running(self) -> int:
        """Requests that are under way, of own clients and of others."""
        data = self._data
        return max(data.holder.in_flight.count, data.forwarder.in_flight.count)

    async def begin(self) -> None:
        """Take nothing new, and tell the others."""
        if self._port is not None:
            await self._port.close()
        self._data.drain()

    async def finish(self) -> int:
        """Give what runs its time, and end the rest with an error; how much that was.

        Nothing runs afterwards.  A second time there is nothing to wait for.
        """
        if self._is_over:
            return 0
        data, keyed = self._data, self._keyed
        with trio.move_on_after(self.timeout_s):
            await data.forwarder.in_flight.until_none()
            await keyed.in_flight.until_none()
            await data.holder.in_flight.until_none()
        unfinished = max(self.running, keyed.in_flight.count)
        data.stop()
        keyed.stop()
        with trio.move_on_after(LAST_WORDS_S):
            await data.forwarder.in_flight.until_none()
            await keyed.in_flight.until_none()
            await data.service.in_flight.until_none()
        self._is_over = True
        return unfinished

    async def take_back(self) -> None:
        """Serve again, and tell the others.  Raises what opening the client port does."""
        self._is_over = False
        self._keyed.serve_again()
        self._data.serve_again()
        if self._port is not None:
            await self._port.reopen()
