"""The UDP side of the peer port."""

from __future__ import annotations

import socket
from contextlib import suppress

import trio

from meshd import limits
from meshd.errors import StreamAborted
from meshd.ids import Address
from meshd.machine.sockets import SockAddr, is_literal, to_address

_KNOWN_ADDRESSES = 4 * limits.MEMBERS


class UdpDatagrams:
    """Datagrams on one bound socket of either family."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._closed = False
        address = to_address(sock.getsockname())
        assert address is not None
        self._address = address
        self._known: dict[Address, SockAddr] = {}

    @property
    def address(self) -> Address:
        return self._address

    async def send(self, data: bytes, to: Address) -> None:
        """Never waits: a full buffer, no route, a refused packet are all losses."""
        sockaddr = self._known.get(to) or self._resolve(to)
        if sockaddr is not None and not self._closed:
            with suppress(OSError):
                self._sock.sendto(data, sockaddr)

    def _resolve(self, to: Address) -> SockAddr:
        """Literals only: members announce addresses, and a look-up could block."""
        if not is_literal(to.host):
            return None
        mapped = self._sock.family == socket.AF_INET6 and ":" not in to.host
        host = f"::ffff:{to.host}" if mapped else to.host
        try:
            found = socket.getaddrinfo(
                host,
                to.port,
                family=self._sock.family,
                type=socket.SOCK_DGRAM,
                flags=socket.AI_NUMERICHOST,
            )
        except (OSError, UnicodeError):
            return None
        if len(self._known) >= _KNOWN_ADDRESSES:
            self._known.clear()
        self._known[to] = found[0][4]
        return found[0][4]

    async def receive(self) -> tuple[bytes, Address]:
        while True:
            if self._closed:
                raise StreamAborted("the datagram socket is closed")
            try:
                await trio.lowlevel.wait_readable(self._sock.fileno())
                data, sockaddr = self._sock.recvfrom(65536)
            except (OSError, trio.ClosedResourceError):
                continue  # on some systems an error of an earlier send shows here
            address = to_address(sockaddr)
            assert address is not None
            return data, address

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._sock.fileno())
            self._sock.close()
        await trio.lowlevel.checkpoint()
