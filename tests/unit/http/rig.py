"""A server or a scripted upstream on a network in memory, and ways to talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from meshd.errors import StreamBroken
from meshd.http import Handler, HttpClient, HttpServer, ServerOptions, Sweeper
from meshd.ids import Address
from meshd.ports import ByteStream
from meshd.testing.network import MemoryNetwork

Script = Callable[[ByteStream], Awaitable[None]]


@dataclass
class Rig:
    world: MemoryNetwork
    sweeper: Sweeper
    address: Address
    nursery: trio.Nursery
    dials: int = 0

    async def dial(self) -> ByteStream:
        self.dials += 1
        return await self.world.hosts["client"].dial_plain(self.address, 5)

    def client(self) -> HttpClient:
        return HttpClient(self.dial, host="up.stream:1", sweeper=self.sweeper)

    async def talk(self, data: bytes) -> bytes:
        """Send bytes, close this side's sending by reading until the server is done."""
        stream = await self.dial()
        await stream.send_all(data)
        return await read_all(stream)


@asynccontextmanager
async def _rig() -> AsyncIterator[tuple[Rig, MemoryNetwork]]:
    world = MemoryNetwork()
    world.host("client")
    world.host("server")
    sweeper = Sweeper()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        yield Rig(world, sweeper, Address("", 0), nursery), world
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(
    handler: Handler, options: ServerOptions | None = None
) -> AsyncIterator[tuple[Rig, HttpServer]]:
    """An HttpServer with that handler."""
    async with _rig() as (rig, world):
        server = HttpServer(handler, rig.sweeper, options=options or ServerOptions())
        listener = await world.hosts["server"].listen_clients("0.0.0.0", 80)
        assert listener.address is not None
        rig.address = listener.address
        rig.nursery.start_soon(server.serve, listener)
        yield rig, server


@asynccontextmanager
async def upstream(*scripts: Script) -> AsyncIterator[Rig]:
    """A server that treats its first connection by the first script, and so on."""
    async with _rig() as (rig, world):
        listener = await world.hosts["server"].listen_clients("0.0.0.0", 80)
        assert listener.address is not None
        rig.address = listener.address

        async def run(script: Script, stream: ByteStream) -> None:
            with suppress(StreamBroken):
                await script(stream)

        async def serve() -> None:
            for script in scripts:
                rig.nursery.start_soon(run, script, await listener.accept())
            await listener.aclose()

        rig.nursery.start_soon(serve)
        yield rig


async def trickle(stream: ByteStream, data: Iterable[int], pause_s: float) -> None:
    """Byte by byte, until the other side has enough."""
    for byte in data:
        await stream.send_all(bytes([byte]))
        await trio.sleep(pause_s)


async def read_all(stream: ByteStream) -> bytes:
    """Until the orderly end."""
    data = b""
    while piece := await stream.receive_some():
        data += piece
    return data


async def read_until(stream: ByteStream, mark: bytes, already: bytes = b"") -> bytes:
    """Until `mark` has been seen."""
    data = already
    while mark not in data:
        piece = await stream.receive_some()
        assert piece, f"ended after {data!r}"
        data += piece
    return data
