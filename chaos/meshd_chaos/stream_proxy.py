"""One machine's address for TCP: what others dial, and what its links do to it.

`StreamProxy` listens in front of one daemon.  Who dials is asked of `whose` by the dialler's port,
so each connection rides on two links: from the dialler to the daemon, and back.  Bytes are never
changed and never overtake each other.  A cut holds them, an end or a reset included; healed, they
go on, as retransmissions would.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio

from meshd.errors import DialFailed
from meshd_chaos import wires
from meshd_chaos.links import BUFFER_BYTES, Link, Links

Whose = Callable[[int], Awaitable[str | None]]
"""Which machine has the connection whose local port that is; None: none of ours."""

_HELD_S: Final = 15.0
"""So long a connection is held that cannot be made because of a cut: its dialler gave up before."""
_GONE: Final = (OSError, trio.ClosedResourceError)


class StreamProxy:
    """The TCP side of the address that a machine is known by."""

    def __init__(self, name: str, links: Links, whose: Whose, listener: socket.socket) -> None:
        """`listener` listens on the address already."""
        self.name = name
        self.target: tuple[str, int] | None = None
        """Where the daemon itself listens; None: nowhere yet."""
        self._links, self._whose, self._listener = links, whose, listener

    async def run(self) -> None:
        """Carry connections until cancelled; they end with it."""
        await wires.serve(self._listener, self._carry)

    async def _carry(self, dialler: socket.socket) -> None:
        try:
            source = await self._whose_is(dialler)
            if source is None:
                return  # it has gone already
            forth, back = self._links[source, self.name], self._links[self.name, source]
            daemon = await self._reach(forth, back)
            if daemon is not None:
                await carry(dialler, daemon, forth, back)
        finally:
            wires.reset(dialler)

    async def _whose_is(self, dialler: socket.socket) -> str | None:
        try:
            port = dialler.getpeername()[1]
        except OSError:
            return None
        return await self._whose(port)

    async def _reach(self, forth: Link, back: Link) -> socket.socket | None:
        """A connection to the daemon itself, as soon as both ways are open."""
        with trio.move_on_after(_HELD_S):
            await forth.stream_gate.passed()
            await trio.sleep(forth.delay_s())
            await back.stream_gate.passed()
            if self.target is not None:
                with suppress(DialFailed):
                    return await wires.connect(self.target)
        return None


async def carry(near: socket.socket, far: socket.socket, forth: Link, back: Link) -> None:
    """Carry bytes both ways until both sides have ended, or one has broken off; closes both."""
    async with trio.open_nursery() as nursery:

        def reset() -> None:
            wires.reset(near)
            wires.reset(far)
            nursery.cancel_scope.cancel()

        for link in (forth, back):
            link.on_reset(reset)
        try:
            async with trio.open_nursery() as both:
                both.start_soon(_Pipe(near, far, forth, back, reset).run)
                both.start_soon(_Pipe(far, near, back, forth, reset).run)
        finally:
            for link in (forth, back):
                link.is_over(reset)
            wires.close(near)
            wires.close(far)


class _Pipe:
    """One direction of one connection."""

    def __init__(
        self,
        source: socket.socket,
        target: socket.socket,
        link: Link,
        back: Link,
        reset: Callable[[], None],
    ) -> None:
        self._source, self._target = source, target
        self._link, self._back, self._reset = link, back, reset
        self._free_at = 0.0
        """When the link has carried all that was put on it."""
        self._queued = 0
        """Pieces that are on their way."""

    async def run(self) -> None:
        pieces = BUFFER_BYTES // wires.PIECE_BYTES
        send, receive = trio.open_memory_channel[tuple[float, bytes | None]](pieces)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, send)
            nursery.start_soon(self._write, receive)

    async def _read(self, send: trio.MemorySendChannel[tuple[float, bytes | None]]) -> None:
        """Put what comes on the link, with the time of its arrival; None is a reset."""
        async with send:
            piece: bytes | None = b" "
            while piece:
                try:
                    piece = await wires.receive(self._source)
                except _GONE:
                    piece = None
                if self._link.is_well and not self._queued:
                    await self._deliver(piece)
                else:
                    self._queued += 1
                    await send.send((self._arrives_at(piece), piece))

    def _arrives_at(self, piece: bytes | None) -> float:
        """Never before what was sent earlier."""
        begins_at = max(trio.current_time(), self._free_at)
        self._free_at = begins_at + self._link.takes_s(len(piece or b""))
        return self._free_at + self._link.delay_s()

    async def _write(self, receive: trio.MemoryReceiveChannel[tuple[float, bytes | None]]) -> None:
        """Take what arrives late off the link."""
        async with receive:
            last = 0.0
            async for due_at, piece in receive:
                last = max(last, due_at)
                await trio.sleep_until(last)
                await self._deliver(piece)
                self._queued -= 1

    async def _deliver(self, piece: bytes | None) -> None:
        """Hand it to its receiver, if need be when the cut is over."""
        await self._link.stream_gate.passed()
        try:
            if piece:
                await wires.send(self._target, piece)
            elif piece is None:
                self._reset()
            else:
                self._target.shutdown(socket.SHUT_WR)
        except _GONE:
            await self._back.stream_gate.passed()  # the sender hears of it by the way back
            self._reset()
