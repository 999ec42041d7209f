"""Sockets without ceremony: what the proxies send and receive with.

Every token of a run passes several of these, in the process that also is all of the clients, so
they cost a third of trio's streams: no checkpoint where nothing is waited for.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio

from meshd.ids import Address
from meshd.machine import sockets

PIECE_BYTES: Final = 16 * 1024
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of no time at all: closing resets."""


async def serve(
    listener: socket.socket, handle: Callable[[socket.socket], Awaitable[None]]
) -> None:
    """Handle each connection in a task of its own, until cancelled; closes the listener."""
    listener.setblocking(False)
    with listener:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener)
                with suppress(OSError):  # it has gone again
                    accepted, _ = listener.accept()
                    sockets.tune(accepted, peer=False)
                    nursery.start_soon(handle, accepted)


async def connect(target: tuple[str, int]) -> socket.socket:
    """A connection, for `send` and `receive`.  Raises DialFailed; has no timeout."""
    return await sockets.connect(Address(*target), peer=False)


async def receive(sock: socket.socket) -> bytes:
    """What comes next; b"": the other side has ended.  Raises OSError, ClosedResourceError."""
    while True:
        if sock.fileno() < 0:
            raise trio.ClosedResourceError("another task has closed this socket")
        await trio.lowlevel.wait_readable(sock)
        with suppress(BlockingIOError):
            return sock.recv(PIECE_BYTES)


async def send(sock: socket.socket, data: bytes) -> None:
    """All of it; no checkpoint if there is room.  Raises OSError, ClosedResourceError."""
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


def close(sock: socket.socket) -> None:
    """Close it; whoever waits for it is told."""
    if sock.fileno() >= 0:
        trio.lowlevel.notify_closing(sock)
        sock.close()


def reset(sock: socket.socket) -> None:
    """Close it with a reset to the other side, as a process that dies in the middle does."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    close(sock)
