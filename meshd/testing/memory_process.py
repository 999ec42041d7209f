"""What one process on a host in memory has open, so that it can end as processes do.

Several programs share a host (a daemon, engines, clients); when one is killed, the kernel closes
its sockets and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import cast

from meshd.ids import Address, NodeId
from meshd.ports import Alpn, ByteStream, Credentials, Datagrams, Listener
from meshd.testing.memory_datagrams import MemoryDatagrams
from meshd.testing.memory_host import MemoryHost, MemoryListener
from meshd.testing.memory_stream import MemoryStream

_TIDY_FROM = 256


class MemoryProcess:
    """A `ports.Network`: that of the host, and a note of what was opened through it."""

    def __init__(self, host: MemoryHost) -> None:
        self._host = host
        self._listeners: list[MemoryListener] = []
        self._datagrams: list[MemoryDatagrams] = []
        self._streams: list[MemoryStream] = []

    def die(self, reason: str = "the process ended") -> None:
        """Everything it has open is closed; streams break (others see resets)."""
        for listener in self._listeners:
            listener.kill()
        for datagrams in self._datagrams:
            datagrams.kill()
        for stream in self._streams:
            stream.abort(reason)

    # --- Network

    def use(self, credentials: Credentials) -> None:
        self._host.use(credentials)

    async def listen_peers(self, port: int) -> Listener:
        return self._listening(await self._host.listen_peers(port))

    async def listen_clients(self, host: str, port: int) -> Listener:
        return self._listening(await self._host.listen_clients(host, port))

    async def listen_control(self, path: PurePath) -> Listener:
        return self._listening(await self._host.listen_control(path))

    async def listen_datagrams(self, port: int) -> Datagrams:
        datagrams = cast(MemoryDatagrams, await self._host.listen_datagrams(port))
        self._datagrams.append(datagrams)
        return datagrams

    async def dial_peer(
        self, node: NodeId, addresses: Sequence[Address], alpn: Alpn, timeout_s: float
    ) -> ByteStream:
        return self._keep(await self._host.dial_peer(node, addresses, alpn, timeout_s))

    async def dial_join(self, address: Address, timeout_s: float) -> ByteStream:
        return self._keep(await self._host.dial_join(address, timeout_s))

    async def dial_plain(self, address: Address, timeout_s: float) -> ByteStream:
        return self._keep(await self._host.dial_plain(address, timeout_s))

    async def dial_web(self, address: Address, timeout_s: float) -> ByteStream:
        return self._keep(await self._host.dial_web(address, timeout_s))

    def host_name(self) -> str:
        return self._host.host_name()

    def interface_addresses(self) -> list[str]:
        return self._host.interface_addresses()

    # --- notes

    def _listening(self, listener: Listener) -> Listener:
        self._listeners.append(cast(MemoryListener, listener))
        return _Accepting(listener, self)

    def _keep(self, stream: ByteStream) -> ByteStream:
        if len(self._streams) >= _TIDY_FROM:
            self._streams = [kept for kept in self._streams if not kept.closed]
        self._streams.append(cast(MemoryStream, stream))
        return stream

    def accepted(self, stream: ByteStream) -> ByteStream:
        return self._keep(stream)


class _Accepting:
    """A listener whose streams are noted."""

    def __init__(self, inner: Listener, process: MemoryProcess) -> None:
        self._inner = inner
        self._process = process

    @property
    def address(self) -> Address | None:
        return self._inner.address

    async def accept(self) -> ByteStream:
        return self._process.accepted(await self._inner.accept())

    async def handshake(self, stream: ByteStream) -> ByteStream:
        return await self._inner.handshake(stream)

    async def aclose(self) -> None:
        await self._inner.aclose()
