"""UDP between machines that share one: each known only by its own address."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

import trio
from trio.testing import MockClock

from meshd_chaos.addresses import HOST, bound_pair
from meshd_chaos.datagram_proxy import DatagramProxy
from meshd_chaos.links import Links, Trouble


@dataclass
class House:
    """Machines with a socket each, and the addresses by which they are known."""

    links: Links
    public: dict[str, tuple[str, int]]
    sockets: dict[str, trio.socket.SocketType]

    async def send(self, source: str, target: str, data: bytes) -> None:
        await self.sockets[source].sendto(data, self.public[target])

    async def hears(self, name: str) -> tuple[bytes, str] | None:
        """What arrives next, and from whom it seems to be; None: nothing does."""
        with trio.move_on_after(1):
            data, sender = await self.sockets[name].recvfrom(2000)
            (known,) = [name for name, address in self.public.items() if address == sender]
            return data, known
        return None


@asynccontextmanager
async def house(*names: str) -> AsyncIterator[House]:
    links = Links(seed=1)
    proxy = DatagramProxy(links)
    found = House(links, {}, {})
    async with trio.open_nursery() as nursery:
        for name in names:
            listener, datagrams = bound_pair()
            listener.close()
            daemon = trio.socket.socket(type=socket.SOCK_DGRAM)
            await daemon.bind((HOST, 0))
            found.public[name], found.sockets[name] = datagrams.getsockname(), daemon
            proxy.add(name, datagrams)
            proxy.found(name, daemon.getsockname()[1])
            nursery.start_soon(proxy.run, name)
        try:
            yield found
        finally:
            for daemon in found.sockets.values():
                daemon.close()
            nursery.cancel_scope.cancel()


async def test_a_datagram_seems_to_come_from_the_senders_public_address(clock: MockClock) -> None:
    async with house("a", "b", "c") as three:
        await three.send("a", "b", b"ping")
        assert await three.hears("b") == (b"ping", "a")
        await three.send("b", "a", b"ack")
        assert await three.hears("a") == (b"ack", "b")
        assert await three.hears("c") is None


async def test_a_cut_of_one_direction_loses_what_is_sent_there(clock: MockClock) -> None:
    async with house("a", "b") as two:
        two.links["a", "b"].add(Trouble(cut_datagrams=True))
        await two.send("a", "b", b"lost")
        await two.send("b", "a", b"arrives")
        assert await two.hears("b") is None
        assert await two.hears("a") == (b"arrives", "b")
        two.links.heal()
        await two.send("a", "b", b"again")
        assert await two.hears("b") == (b"again", "a")


async def test_a_late_datagram_arrives_late(clock: MockClock) -> None:
    async with house("a", "b") as two:
        two.links["a", "b"].add(Trouble(latency_s=5))
        began_s = trio.current_time()
        await two.send("a", "b", b"late")
        assert await two.hears("b") is None
        await trio.sleep(5)
        assert await two.hears("b") == (b"late", "a")
        assert trio.current_time() - began_s >= 5


async def test_what_a_stranger_sends_goes_nowhere(clock: MockClock) -> None:
    async with house("a") as one:
        with closing(socket.socket(type=socket.SOCK_DGRAM)) as stranger:
            stranger.sendto(b"hello", one.public["a"])
            assert await one.hears("a") is None
