"""An engine at a pace: its bytes, later, and its fate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from meshd_chaos.addresses import HOST, bound_pair
from meshd_chaos.pacer import Pacer

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LINES = SSE.replace(b"text/event-stream", b"application/x-ndjson")
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def chunked(events: Iterable[bytes]) -> bytes:
    """As llama.cpp and Ollama send them: a chunk each, then the last, empty one."""
    chunks = [f"{len(event):x}\r\n".encode() + event + b"\r\n" for event in events]
    return b"".join(chunks) + b"0\r\n\r\n"


@dataclass
class Desk:
    """An engine that answers each request with the next of `answers`, behind a pacer."""

    pacer: Pacer
    answers: list[bytes]

    async def dial(self) -> trio.SocketStream:
        host, _, port = self.pacer.url.removeprefix("http://").rpartition(":")
        return await trio.open_tcp_stream(host, int(port))


@asynccontextmanager
async def desk(*answers: bytes, tokens_per_s: float = 2) -> AsyncIterator[Desk]:
    listener, datagrams = bound_pair()
    datagrams.close()
    made = Desk(Pacer(tokens_per_s, listener), list(answers))

    async def engine(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            await stream.send_all(made.answers.pop(0))

    async with trio.open_nursery() as nursery:
        (server,) = await trio.open_tcp_listeners(0, host=HOST)
        made.pacer.target = server.socket.getsockname()[:2]
        nursery.start_soon(trio.serve_listeners, engine, [server])
        nursery.start_soon(made.pacer.run)
        yield made
        nursery.cancel_scope.cancel()


async def read(stream: trio.SocketStream, size_bytes: int) -> bytes:
    got = b""
    while len(got) < size_bytes:
        got += await stream.receive_some()
    return got


@pytest.mark.parametrize(
    ("head", "events"),
    [(SSE, [b'data: {"n": 1}\n\n'] * 10), (LINES, [b'{"n": {"m": 1}}\n'] * 10)],
    ids=["server-sent events", "lines of JSON"],
)
async def test_a_stream_comes_at_its_pace_and_unchanged(
    clock: MockClock, head: bytes, events: list[bytes]
) -> None:
    answer = head + chunked(events)
    async with desk(answer, tokens_per_s=2) as one:
        asker = await one.dial()
        began_s = trio.current_time()
        await asker.send_all(b"ask")
        assert await read(asker, len(answer)) == answer
        assert 4.5 <= trio.current_time() - began_s <= 6, "ten events, two a second"


async def test_what_is_no_stream_passes_at_once_also_on_a_connection_that_had_one(
    clock: MockClock,
) -> None:
    stream = SSE + chunked([b"data: x\n\n"])
    async with desk(stream, JSON, tokens_per_s=0.1) as one:
        asker = await one.dial()
        await asker.send_all(b"ask")
        assert await read(asker, len(stream)) == stream
        began_s = trio.current_time()
        await asker.send_all(b"ask")
        assert await read(asker, len(JSON)) == JSON
        assert trio.current_time() - began_s < 5


async def test_what_a_killed_engine_had_not_said_by_its_pace_is_never_heard(
    clock: MockClock,
) -> None:
    async with desk(SSE + chunked([b"data: x\n\n"] * 100), tokens_per_s=1) as one:
        asker = await one.dial()
        await asker.send_all(b"ask")
        await read(asker, len(SSE))
        one.pacer.target = None
        assert one.pacer.break_off() == 1
        with pytest.raises(trio.BrokenResourceError):
            await read(asker, 10_000)
        asker = await one.dial()
        with pytest.raises(trio.BrokenResourceError):
            await asker.receive_some()


async def test_a_frozen_engine_says_nothing_until_it_thaws(clock: MockClock) -> None:
    answer = SSE + chunked([b"data: x\n\n"] * 3)
    async with desk(answer, JSON, tokens_per_s=1) as one:
        asker = await one.dial()
        await asker.send_all(b"ask")
        got = await read(asker, len(SSE))
        one.pacer.freeze()
        with trio.move_on_after(60):
            while True:
                got += await asker.receive_some()
        assert got != answer
        other = await one.dial()
        await other.send_all(b"ask")
        with trio.move_on_after(60):
            assert not await other.receive_some(), "it is accepted, and not heard"
        one.pacer.thaw()
        assert got + await read(asker, len(answer) - len(got)) == answer
        assert await read(other, len(JSON)) == JSON
