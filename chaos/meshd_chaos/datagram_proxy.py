"""All machines' addresses for UDP: a house of NATs in one task each.

Each machine is known by a socket of its own here.  What a daemon sends to another's address is
passed on from the socket of the *sender's* address: so both know each other only by these.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Final

import trio

from meshd_chaos.links import Links

_ON_THEIR_WAY_MAX: Final = 10_000
"""Datagrams that are late; more are lost."""


class DatagramProxy:
    """The UDP side of all machines' addresses."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._sockets: dict[str, trio.socket.SocketType] = {}
        self._daemons: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._late = 0

    def add(self, name: str, bound: socket.socket) -> None:
        """The machine of that name is known by this socket's address; `run` comes next."""
        self._sockets[name] = trio.socket.from_stdlib_socket(bound)

    def found(self, name: str, port: int) -> None:
        """That machine's daemon itself has this port on loopback."""
        self._names.pop(self._daemons.get(name, 0), None)
        self._daemons[name] = port
        self._names[port] = name

    async def run(self, name: str) -> None:
        """Pass on what is sent to that machine, until cancelled."""
        here = self._sockets[name]
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        data, sender = await here.recvfrom(65_536)
                    except OSError:
                        continue  # an error of an earlier send, on some systems
                    source = self._names.get(sender[1])
                    if source is None or source == name:
                        continue
                    delay_s = self._links[source, name].datagram_delay_s()
                    if delay_s == 0:
                        await self._deliver(source, name, data)
                    elif delay_s is not None and self._late < _ON_THEIR_WAY_MAX:
                        nursery.start_soon(self._deliver_later, source, name, data, delay_s)
        finally:
            here.close()
            del self._sockets[name]

    async def _deliver_later(self, source: str, target: str, data: bytes, delay_s: float) -> None:
        self._late += 1
        try:
            await trio.sleep(delay_s)
            await self._deliver(source, target, data)
        finally:
            self._late -= 1

    async def _deliver(self, source: str, target: str, data: bytes) -> None:
        outlet, port = self._sockets.get(source), self._daemons.get(target)
        if outlet is not None and port is not None:
            with suppress(OSError):  # nobody listens there now: lost
                await outlet.sendto(data, ("127.0.0.1", port))
