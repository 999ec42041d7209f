"""Which way of waiting is chosen.  That both are right is tests/unit/test_network_ports.py's."""

from __future__ import annotations

import os
import select
import socket

import pytest
import trio

from meshd.errors import StreamAborted
from meshd.machine import readiness
from meshd.machine.streams import AcceptedSocket, SocketStream
from meshd.ports import Remote

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll here")


def pair() -> tuple[SocketStream, SocketStream]:
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    near, far = (SocketStream(end, Remote(None)) for end in ends)
    return near, far


async def play(rounds: int, near: SocketStream, far: SocketStream) -> None:
    """Two tasks that send one byte to and fro."""

    async def bounce(stream: SocketStream) -> None:
        for _ in range(rounds):
            await stream.send_all(await stream.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bounce, far)
        for _ in range(rounds):
            await near.send_all(b"x")
            assert await near.receive_some() == b"x"


def busy() -> bool:
    poller = readiness._poller()
    assert poller is not None
    return poller.busy


async def test_many_busy_sockets_change_the_mode_and_one_changes_it_back() -> None:
    pairs = [pair() for _ in range(24)]
    assert not busy()
    async with trio.open_nursery() as nursery:
        for near, far in pairs:
            nursery.start_soon(play, 100, near, far)
    assert busy()

    async def sit(stream: SocketStream) -> None:
        with pytest.raises(StreamAborted):
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        for _, far in pairs[1:]:
            nursery.start_soon(sit, far)  # parked, and must not be lost by the change of mode
        await play(1000, *pairs[0])
        assert not busy()
        await play(1000, *pairs[0])
        for _, far in pairs[1:]:
            far.abort("the test is over")
    for near, far in pairs:
        near.close()
        far.close()


def known() -> dict[int, readiness.Readable]:
    poller = readiness._poller()
    assert poller is not None
    return poller._sockets


def accepted() -> tuple[AcceptedSocket, socket.socket]:
    near, far = socket.socketpair()
    near.setblocking(False)
    return AcceptedSocket(near, Remote(None)), far


async def test_a_socket_that_tls_took_over_is_not_followed_any_more() -> None:
    stream, far = accepted()
    fd = stream.sock.fileno()
    assert fd in known()
    stream.finish(None)  # type: ignore[arg-type]
    assert fd not in known()
    far.send(b"x")
    poller = readiness._poller()
    assert poller is not None
    assert poller._dispatch() == 0, "what comes over TLS wakes nobody here"
    stream.close()
    stream.sock.close()
    far.close()


async def test_however_a_connection_ends_before_tls_it_is_forgotten() -> None:
    for end in ("close", "abort", "closed by another", "number in use again"):
        stream, far = accepted()
        fd = stream.sock.fileno()
        if end == "abort":
            stream.abort("the test says so")
        elif end == "closed by another":  # a failed `wrap_socket` closes what it was given
            os.close(stream.sock.detach())
        elif end == "number in use again":
            stream.finish(None)  # type: ignore[arg-type]
            stream.sock.close()
            other, other_far = accepted()
            assert other.sock.fileno() == fd
            stream._readable.forget()
            assert known()[fd] is other._readable
            other.close()
            other_far.close()
        stream.close()
        assert fd not in known(), end
        far.close()


async def test_one_busy_socket_is_waited_for_in_trios_way() -> None:
    near, far = pair()
    await play(1000, near, far)
    assert not busy()
    near.close()
    far.close()


async def test_who_is_parked_while_the_mode_changes_still_gets_what_comes() -> None:
    pairs = [pair() for _ in range(24)]
    got: list[bytes] = []

    async def wait_for_one(stream: SocketStream) -> None:
        got.append(await stream.receive_some())

    async with trio.open_nursery() as nursery:
        for near, far in pairs:
            nursery.start_soon(play, 100, near, far)
    async with trio.open_nursery() as nursery:
        for _, far in pairs[1:]:
            nursery.start_soon(wait_for_one, far)
        await play(1000, *pairs[0])
        assert not busy()
        for near, _ in pairs[1:]:
            await near.send_all(b"y")
    assert got == [b"y"] * 23
    for near, far in pairs:
        near.close()
        far.close()
