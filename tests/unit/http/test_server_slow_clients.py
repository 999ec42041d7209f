"""Clients that are slow, go away in the middle, or ask faster than they read."""

from __future__ import annotations

import pytest
import trio

from meshd import limits
from meshd.errors import StreamBroken
from meshd.http import Responder, ServerRequest
from tests.unit.http.manners import GET, HEAD, fine, never
from tests.unit.http.rig import read_all, read_until, serving, trickle


async def test_an_idle_connection_is_closed_without_a_word(autojump_clock: object) -> None:
    async with serving(fine) as (rig, _):
        connection = await rig.dial()
        await connection.send_all(GET)
        await read_until(connection, b"fine")
        start = trio.current_time()
        assert await connection.receive_some() == b""
        assert trio.current_time() - start == pytest.approx(limits.HTTP_IDLE_S, abs=0.2)


@pytest.mark.parametrize("first", [b"", GET])
async def test_a_head_that_trickles_is_given_up(autojump_clock: object, first: bytes) -> None:
    async with serving(fine) as (rig, _):
        connection = await rig.dial()
        await connection.send_all(first)
        start = trio.current_time()

        async def send_slowly() -> None:
            with pytest.raises(StreamBroken):
                await trickle(connection, HEAD * 100, 0.5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_slowly)
            answer = await read_until(connection, b"408 Request Timeout")
            assert answer.count(b"HTTP/1.1 200") == bool(first)
            took_s = trio.current_time() - start
        assert took_s == pytest.approx(limits.HTTP_HEAD_S, abs=1.2)


async def test_a_body_that_stops_arriving_is_given_up(autojump_clock: object) -> None:
    async with serving(never) as (rig, _):
        start = trio.current_time()
        answer = await rig.talk(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - start == pytest.approx(limits.HTTP_BODY_STALL_S, abs=0.2)


async def test_a_body_that_trickles_has_an_end_too(autojump_clock: object) -> None:
    async with serving(never) as (rig, _):
        connection = await rig.dial()
        start = trio.current_time()
        await connection.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n")

        async def send_slowly() -> None:
            with pytest.raises(StreamBroken):
                await trickle(connection, b"x" * 5000, 10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_slowly)
            await read_until(connection, b"408 Request Timeout")
            took_s = trio.current_time() - start
        assert took_s == pytest.approx(limits.HTTP_BODY_S, abs=11)


async def test_a_client_that_never_reads_is_cut_off(autojump_clock: object) -> None:
    ended = []

    async def endless(request: ServerRequest, responder: Responder) -> None:
        await responder.start(200, [])
        start = trio.current_time()
        try:
            while True:
                await responder.write(b"x" * 1000)
        except StreamBroken:
            ended.append(trio.current_time() - start)
            raise

    async with serving(endless) as (rig, server):
        connection = await rig.dial()
        await connection.send_all(GET)
        await trio.sleep(limits.HTTP_SEND_STALL_S + 2)
        assert server.connections == 0
    assert ended == [pytest.approx(limits.HTTP_SEND_STALL_S, abs=0.2)]


async def test_a_client_that_reads_slowly_is_not_cut_off(autojump_clock: object) -> None:
    body = b"x" * 2_000_000

    async def big(request: ServerRequest, responder: Responder) -> None:
        await responder.send(200, [], body)

    async with serving(big) as (rig, _):
        connection = await rig.dial()
        await connection.send_all(HEAD + b"Connection: close\r\n\r\n")
        received = 0
        start = trio.current_time()
        while piece := await connection.receive_some(20_000):
            received += len(piece)
            await trio.sleep(1)
        assert received > len(body)
        assert trio.current_time() - start > 2 * limits.HTTP_SEND_STALL_S


# --- clients that go away


async def test_a_handler_learns_that_its_client_went_away(autojump_clock: object) -> None:
    told = []

    async def waits(request: ServerRequest, responder: Responder) -> None:
        gone = trio.Event()

        def on_disconnect() -> None:
            told.append(trio.current_time())
            gone.set()

        responder.on_disconnect = on_disconnect
        await gone.wait()
        assert responder.disconnected
        with pytest.raises(StreamBroken):
            await responder.start(200, [])
        with pytest.raises(StreamBroken):
            await responder.send(200, [], b"")

    for leave in ("close", "abort"):
        async with serving(waits) as (rig, server):
            connection = await rig.dial()
            await connection.send_all(GET)
            await trio.sleep(5)
            start = trio.current_time()
            connection.close() if leave == "close" else connection.abort("bored")
            await trio.sleep(1)
            assert server.connections == 0
            assert told.pop() == start
            assert told == []


async def test_a_client_that_leaves_at_once_is_noticed_within_a_moment(
    autojump_clock: object,
) -> None:
    told = []

    async def waits(request: ServerRequest, responder: Responder) -> None:
        responder.on_disconnect = lambda: told.append(trio.current_time())
        await trio.sleep(10)

    async with serving(waits) as (rig, _):
        start = trio.current_time()
        connection = await rig.dial()
        await connection.send_all(GET)
        connection.close()
        await trio.sleep(1)
        assert len(told) == 1
        assert told[0] - start < 0.2


async def test_a_writer_that_waits_for_its_client_is_ended_when_that_leaves(
    autojump_clock: object,
) -> None:
    ended = trio.Event()

    async def endless(request: ServerRequest, responder: Responder) -> None:
        await responder.start(200, [])
        with pytest.raises(StreamBroken):
            await write_for_ever(responder)
        ended.set()

    async with serving(endless) as (rig, _):
        connection = await rig.dial()
        await connection.send_all(GET)
        await trio.sleep(3)
        connection.abort("bored")
        with trio.fail_after(1):
            await ended.wait()


async def write_for_ever(responder: Responder) -> None:
    while True:
        await responder.write(b"x" * 1000)


async def test_a_request_sent_while_a_slow_one_runs_is_served_after_it(
    autojump_clock: object,
) -> None:
    async def slow(request: ServerRequest, responder: Responder) -> None:
        await trio.sleep(1)
        await responder.send(200, [], request.path.encode())

    async with serving(slow) as (rig, _):
        connection = await rig.dial()
        for number in range(5):  # each before the answer to the one before
            await connection.send_all(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
            await trio.sleep(0.3)
        data = await read_until(connection, b"/4")
        assert [data.count(b"\r\n\r\n/%d" % number) for number in range(5)] == [1] * 5
        # and the connection is as good as before
        await connection.send_all(b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await read_all(connection)).endswith(b"/last")


async def test_a_flood_of_pipelined_requests_waits_in_the_transport(
    autojump_clock: object,
) -> None:
    release = trio.Event()
    served = 0

    async def held(request: ServerRequest, responder: Responder) -> None:
        nonlocal served
        await release.wait()
        await responder.send(200, [], b"")
        served += 1

    count = 20_000
    async with serving(held) as (rig, _):
        connection = await rig.dial()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            for _ in range(count):
                await connection.send_all(GET)
                sent += 1

        async def drink() -> None:
            while served < count:
                await connection.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await trio.sleep(10)
            assert sent * len(GET) < 400_000
            release.set()
            nursery.start_soon(drink)
        assert served == count
