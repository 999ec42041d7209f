"""One machine's address for TCP: what others dial, and what its links do to it.

`StreamProxy` listens in front of one daemon.  Who dials is asked of `whose` by the dialler's port,
so each connection rides on two links: from the dialler to the daemon, and back.  Bytes are never
changed and never overtake each other.  A cut holds them, an end or a reset included; healed, they
go on, as retransmissions would.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio

from meshd_chaos.links import BUFFER_BYTES, Link, Links

Whose = Callable[[int], Awaitable[str | None]]
"""Which machine has the connection whose local port that is; None: none of ours."""

_PIECE_BYTES: Final = 16 * 1024
_HELD_S: Final = 15.0
"""So long a connection is held that cannot be made because of a cut: its dialler gave up before."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of no time at all: closing resets."""


class StreamProxy:
    """The TCP side of the address that a machine is known by."""

    def __init__(self, name: str, links: Links, whose: Whose, listener: socket.socket) -> None:
        """`listener` listens on the address already."""
        self.name = name
        self.target: tuple[str, int] | None = None
        """Where the daemon itself listens; None: nowhere yet."""
        self._links, self._whose = links, whose
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(listener))

    async def run(self) -> None:
        """Carry connections until cancelled; they end with it."""
        await trio.serve_listeners(self._carry, [self._listener])

    async def _carry(self, dialler: trio.SocketStream) -> None:
        port = dialler.socket.getpeername()[1] if _has_peer(dialler) else 0
        source = await self._whose(port) if port else None
        if source is None:
            _reset(dialler)  # it has gone already
            return
        forth, back = self._links[source, self.name], self._links[self.name, source]
        daemon = await self._reach(forth, back)
        if daemon is None:
            _reset(dialler)
            return
        await carry(dialler, daemon, forth, back)

    async def _reach(self, forth: Link, back: Link) -> trio.SocketStream | None:
        """A connection to the daemon itself, as soon as both ways are open."""
        with trio.move_on_after(_HELD_S):
            await forth.stream_gate.passed()
            await trio.sleep(forth.delay_s())
            await back.stream_gate.passed()
            if self.target is None:
                return None
            with suppress(OSError):
                host, port = self.target
                sock = trio.socket.socket()
                try:
                    await sock.connect((host, port))
                except BaseException:  # also a cancel: it is closed; raised again
                    sock.close()
                    raise
                return trio.SocketStream(sock)
        return None


async def carry(near: trio.SocketStream, far: trio.SocketStream, forth: Link, back: Link) -> None:
    """Carry bytes both ways until both sides have ended, or one has broken off; closes both."""
    async with trio.open_nursery() as nursery:

        def reset() -> None:
            _reset(near)
            _reset(far)
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
            near.socket.close()
            far.socket.close()


class _Pipe:
    """One direction of one connection."""

    def __init__(
        self,
        source: trio.SocketStream,
        target: trio.SocketStream,
        link: Link,
        back: Link,
        reset: Callable[[], None],
    ) -> None:
        self._source, self._target = source, target
        self._link, self._back, self._reset = link, back, reset
        self._free_at = 0.0
        """When the link has carried all that was put on it."""

    async def run(self) -> None:
        pieces = BUFFER_BYTES // _PIECE_BYTES
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
                    piece = await self._source.receive_some(_PIECE_BYTES)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    piece = None
                with suppress(trio.BrokenResourceError):  # nobody takes it any more
                    await send.send((self._arrives_at(piece), piece))

    def _arrives_at(self, piece: bytes | None) -> float:
        """Never before what was sent earlier."""
        begins_at = max(trio.current_time(), self._free_at)
        self._free_at = begins_at + self._link.takes_s(len(piece or b""))
        return self._free_at + self._link.delay_s()

    async def _write(self, receive: trio.MemoryReceiveChannel[tuple[float, bytes | None]]) -> None:
        """Take what arrives off the link."""
        async with receive:
            last = 0.0
            async for due_at, piece in receive:
                last = max(last, due_at)
                await trio.sleep_until(last)
                await self._link.stream_gate.passed()
                try:
                    if piece:
                        await self._target.send_all(piece)
                    elif piece is None:
                        self._reset()
                    else:
                        await self._target.send_eof()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._back.stream_gate.passed()  # the sender hears of it by the way back
                    self._reset()


def _has_peer(stream: trio.SocketStream) -> bool:
    try:
        stream.socket.getpeername()
    except OSError:
        return False
    return True


def _reset(stream: trio.SocketStream) -> None:
    """Close it with a reset to the other side."""
    with suppress(OSError):
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    stream.socket.close()
