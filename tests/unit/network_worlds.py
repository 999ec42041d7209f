"""The transports that one suite of tests runs over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from meshd.ids import Address
from meshd.machine import readiness
from meshd.machine.network import RealNetwork
from meshd.ports import Alpn, ByteStream, Credentials, Listener, Network
from meshd.testing.network import MemoryNetwork
from tests.unit.tiny_ca import TinyCa

KINDS = ("plain", "plain busy", "plain flapping", "tls", "memory", "memory peer", "memory slow")

READINESS = {
    # from the first wait on, and for good
    "plain busy": {"_LOOK_AFTER_WAITS": 1, "_BUSY_SOCKETS": 0, "_BUSY_EVENTS_PER_POLL": 0},
    # changing its mind as often as it can
    "plain flapping": {
        "_LOOK_AFTER_WAITS": 1,
        "_LOOK_AFTER_WAITS_MOST": 1,
        "_BUSY_SOCKETS": 0,
        "_LOOK_AFTER_POLLS": 1,
        "_BUSY_EVENTS_PER_POLL": 1000,
    },
}
"""How `meshd.machine.readiness` is made to wait in ways that a test is too short to bring about."""


@dataclass
class World:
    """Two machines, and how this transport connects them."""

    kind: str
    near: Network
    far: Network
    listener: Listener
    near_credentials: Credentials
    far_credentials: Credentials
    ca: TinyCa
    streams: list[ByteStream] = field(default_factory=list)

    @property
    def is_peer(self) -> bool:
        return self.kind in ("tls", "memory peer")

    @property
    def address(self) -> Address:
        address = self.listener.address
        assert address is not None
        if self.kind == "tls":
            return Address("127.0.0.1", address.port)
        return address

    async def dial(self) -> ByteStream:
        if self.is_peer:
            stream = await self.near.dial_peer(
                self.far_credentials.node, [self.address], Alpn.CONTROL, 10
            )
        else:
            stream = await self.near.dial_plain(self.address, 10)
        self.streams.append(stream)
        return stream

    async def pair(
        self, dial: Callable[[], Awaitable[ByteStream]] | None = None
    ) -> tuple[ByteStream, ByteStream]:
        """A connected pair: the dialler's end, the acceptor's end.  `dial`: another way to it."""
        accepted: list[ByteStream] = []

        async def accept() -> None:
            stream = await self.listener.accept()
            accepted.append(await self.listener.handshake(stream))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            dialled = await (dial or self.dial)()
        self.streams += [dialled, accepted[0]]
        return dialled, accepted[0]


@asynccontextmanager
async def open_world(kind: str) -> AsyncIterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        if kind in READINESS:
            for name, value in READINESS[kind].items():
                patch.setattr(readiness, name, value)
        async with _open_world(kind) as world:
            yield world


@asynccontextmanager
async def _open_world(kind: str) -> AsyncIterator[World]:
    ca = TinyCa.new()
    near_credentials, far_credentials = ca.credentials(), ca.credentials()
    near: Network
    far: Network
    if kind.startswith("memory"):
        memory = MemoryNetwork(latency_s=0.01 if kind == "memory slow" else 0.0)
        near, far = memory.host("near"), memory.host("far")
    else:
        near, far = RealNetwork(), RealNetwork()
    near.use(near_credentials)
    far.use(far_credentials)
    if kind in ("tls", "memory peer"):
        listener = await far.listen_peers(0)
    else:
        listener = await far.listen_clients("0.0.0.0" if "memory" in kind else "127.0.0.1", 0)
    world = World(kind, near, far, listener, near_credentials, far_credentials, ca)
    try:
        yield world
    finally:
        for stream in world.streams:
            stream.abort("the test is over")
        await listener.aclose()
