"""Datagrams between hosts in memory: late, lost, doubled and reordered, by a seed."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import trio

from meshd import limits
from meshd.errors import StreamAborted
from meshd.http.baton import Baton
from meshd.ids import Address

INBOX_DATAGRAMS = 1024
"""As a full socket buffer: what comes on top is lost."""

Route = Callable[[bytes, Address, Address], None]


class MemoryDatagrams:
    """One bound socket.  `route` carries what it sends."""

    def __init__(self, address: Address, route: Route, on_close: Callable[[], None]) -> None:
        self._address = address
        self._route = route
        self._on_close = on_close
        self._inbox: list[tuple[float, int, bytes, Address]] = []
        self._arrived = Baton()
        self._count = 0
        self._closed = False

    @property
    def address(self) -> Address:
        return self._address

    async def send(self, data: bytes, to: Address) -> None:
        if not self._closed and len(data) <= 64 * limits.KIB:
            self._route(data, self._address, to)

    def deliver(self, at: float, data: bytes, sender: Address) -> None:
        """It arrives here at that time."""
        if len(self._inbox) < INBOX_DATAGRAMS:
            self._count += 1
            heapq.heappush(self._inbox, (at, self._count, data, sender))
            self._arrived.wake()

    async def receive(self) -> tuple[bytes, Address]:
        waited = False
        while True:
            if self._closed:
                raise StreamAborted("the datagram socket is closed")
            now = trio.current_time()
            if self._inbox and self._inbox[0][0] <= now:
                _, _, data, sender = heapq.heappop(self._inbox)
                if not waited:
                    await trio.lowlevel.checkpoint()
                return data, sender
            waited = True
            if self._inbox:
                with trio.move_on_at(self._inbox[0][0]):
                    await self._arrived.wait()
            else:
                await self._arrived.wait()

    def kill(self) -> None:
        """Closed, without a wait."""
        if not self._closed:
            self._closed = True
            self._arrived.wake()
            self._on_close()

    async def aclose(self) -> None:
        self.kill()
        await trio.lowlevel.checkpoint()
