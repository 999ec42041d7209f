"""Two machines in one process, with a proxy between: what its tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from meshd_chaos.addresses import HOST, bound_pair
from meshd_chaos.links import Link, Links
from meshd_chaos.stream_proxy import StreamProxy

Serve = Callable[[trio.SocketStream], Awaitable[None]]


@dataclass
class Line:
    """A server "b", and what it looks like for "a"."""

    links: Links
    proxy: StreamProxy
    address: tuple[str, int]
    accepted: trio.MemoryReceiveChannel[trio.SocketStream]
    """What reached the server."""

    @property
    def forth(self) -> Link:
        return self.links["a", "b"]

    @property
    def back(self) -> Link:
        return self.links["b", "a"]

    async def dial(self) -> trio.SocketStream:
        """A connection of "a"; the proxy has accepted it."""
        return await trio.open_tcp_stream(*self.address)

    async def pair(self) -> tuple[trio.SocketStream, trio.SocketStream]:
        """A connection's two ends, at a and at b."""
        a = await self.dial()
        return a, await self.accepted.receive()


@asynccontextmanager
async def line(*, dialler: str | None = "a") -> AsyncIterator[Line]:
    """A proxy that takes every dialler for that one."""
    links = Links(seed=1)
    listener, datagrams = bound_pair()
    datagrams.close()

    async def whose(_: int) -> str | None:
        await trio.lowlevel.checkpoint()
        return dialler

    send, receive = trio.open_memory_channel[trio.SocketStream](10)

    async def keep(stream: trio.SocketStream) -> None:
        await send.send(stream)
        await trio.sleep_forever()

    proxy = StreamProxy("b", links, whose, listener)
    async with trio.open_nursery() as nursery:
        (server,) = await trio.open_tcp_listeners(0, host=HOST)
        proxy.target = server.socket.getsockname()[:2]
        nursery.start_soon(trio.serve_listeners, keep, [server])
        nursery.start_soon(proxy.run)
        yield Line(links, proxy, listener.getsockname()[:2], receive)
        nursery.cancel_scope.cancel()
