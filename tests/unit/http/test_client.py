"""The client against upstreams of every manners."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meshd import limits
from meshd.errors import (
    DialFailed,
    LimitExceeded,
    MeshdError,
    ProtocolError,
    StreamAborted,
    StreamBroken,
)
from meshd.ports import ByteStream
from tests.unit.http.rig import read_until, upstream
from tests.unit.http.upstreams import OK, answers, body_of

EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
EVENTS = b"data: 1\r\n\r\ndata: 2\n\ndata: [DONE]\n\n"


async def exchange(*pieces: bytes) -> tuple[int, bytes]:
    failure: MeshdError | None = None
    async with upstream(answers(*pieces)) as rig:
        try:
            response = await rig.client().request("GET", "/")
            outcome = response.status, await body_of(response)
        except MeshdError as error:
            failure = error
    if failure is not None:  # out here it is not wrapped in the groups of nurseries
        raise failure
    return outcome


async def test_the_request_is_written_as_it_should_be() -> None:
    seen: list[bytes] = []

    async def look(stream: ByteStream) -> None:
        for _ in range(3):
            seen.append(await stream.receive_some())
            await stream.send_all(OK)

    async with upstream(look) as rig:
        client = rig.client()
        for method, body in (("GET", b""), ("POST", b"abc"), ("POST", b"")):
            response = await client.request(method, "/p?q", [(b"x-a", b"b")], body)
            assert await response.read(100) == b"hello"
    assert seen == [
        b"GET /p?q HTTP/1.1\r\nhost: up.stream:1\r\nx-a: b\r\n\r\n",
        b"POST /p?q HTTP/1.1\r\nhost: up.stream:1\r\ncontent-length: 3\r\nx-a: b\r\n\r\nabc",
        b"POST /p?q HTTP/1.1\r\nhost: up.stream:1\r\ncontent-length: 0\r\nx-a: b\r\n\r\n",
    ]
    assert rig.dials == 1


@pytest.mark.parametrize("target", ["/a b", "/a\r\nX: y", "/\n"])
async def test_a_target_that_would_break_the_request_line_is_not_sent(target: str) -> None:
    async with upstream() as rig:
        with pytest.raises(ValueError, match=r"line break|blank"):
            await rig.client().request("GET", target)


async def test_headers_are_read_with_lower_case_names() -> None:
    async with upstream(
        answers(EARLY + b"HTTP/1.1 404 Nope\r\nX-A:  b \r\nContent-Length: 0\r\n\r\n")
    ) as rig:
        response = await rig.client().request("GET", "/")
        assert response.status == 404
        assert response.headers == [(b"x-a", b"b"), (b"content-length", b"0")]
        assert response.header(b"x-a") == b"b"
        assert response.header(b"x-b") is None
        assert await response.read(10) == b""


GOOD = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(EVENTS) + EVENTS),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"%x\r\n%b\r\n%X ;ext\r\n%b\r\n0\r\nX-Trailer: t\r\n\r\n"
        % (9, EVENTS[:9], len(EVENTS) - 9, EVENTS[9:])
    ),
    "http/1.0 to the end": b"HTTP/1.0 200 OK\r\n\r\n" + EVENTS,
    "http/1.1 to the end": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + EVENTS,
    "no reason, no headers": b"HTTP/1.1 200\r\n\r\n" + EVENTS,
    "interim answers first": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(EVENTS) + EVENTS
    ),
}


@pytest.mark.parametrize("name", GOOD)
async def test_an_answer_is_read_whole_cut_at_any_byte(name: str) -> None:
    data = GOOD[name]
    for at in range(1, len(data)):
        assert await exchange(data[:at], data[at:]) == (200, EVENTS), at


@pytest.mark.parametrize("name", GOOD)
async def test_an_answer_is_read_whole_byte_by_byte(name: str) -> None:
    data = GOOD[name]
    assert await exchange(*(data[at : at + 1] for at in range(len(data)))) == (200, EVENTS)


CUT = {
    "before any byte": b"",
    "in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "before the body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "short of its length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
    "before the last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
    "in the last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
    "in an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("name", CUT)
async def test_a_cut_answer_is_never_a_whole_one(name: str) -> None:
    with pytest.raises(StreamBroken) as caught:
        await exchange(CUT[name])
    assert not isinstance(caught.value, StreamAborted)


GARBAGE = {
    "not http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    "a bad status": b"HTTP/1.1 abc OK\r\n\r\n",
    "a bad header": b"HTTP/1.1 200 OK\r\nA B: c\r\n\r\n",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "another protocol": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_is_a_protocol_error(name: str) -> None:
    with pytest.raises(ProtocolError):
        await exchange(GARBAGE[name])


FLOODS = {
    "a long header": [b"HTTP/1.1 200 OK\r\nA: ", *[b"x" * 10_000] * 20],
    "a long name": [b"HTTP/1.1 200 OK\r\n", *[b"x" * 10_000] * 20],
    "many headers": [b"HTTP/1.1 200 OK\r\n", *[b"a: b\r\n"] * (limits.HTTP_HEADERS + 2)],
    "interim answers without end": [b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n" * 100] * 300,
    "trailers": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        *[b"a: " + b"b" * 1000 + b"\r\n"] * 200,
    ],
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_of_headers_has_an_end(name: str) -> None:
    with pytest.raises(LimitExceeded):
        await exchange(*FLOODS[name])


async def test_a_body_above_what_the_reader_wants_is_a_limit() -> None:
    async with upstream(answers(OK), answers(OK[:-5], b"hel", b"lo")) as rig:
        client = rig.client()
        for _ in range(2):
            response = await client.request("GET", "/")
            with pytest.raises(LimitExceeded):
                await response.read(4)
        assert client.idle_connections == 0


async def test_head_has_no_body_and_keeps_the_connection() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    async with upstream(answers(head, requests=2)) as rig:
        client = rig.client()
        for _ in range(2):
            response = await client.request("HEAD", "/")
            assert (response.status, await response.read(100)) == (200, b"")
        assert rig.dials == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_has_none(status: int) -> None:
    head = b"HTTP/1.1 %d x\r\n\r\n" % status
    async with upstream(answers(head, close=False)) as rig:
        response = await rig.client().request("GET", "/")
        assert (response.status, await response.read(100)) == (status, b"")


async def test_an_abort_by_the_reader_cuts_the_upstream_at_once() -> None:
    ended = trio.Event()

    async def endless(stream: ByteStream) -> None:
        await read_until(stream, b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        with pytest.raises(StreamBroken):
            await flood(stream)
        ended.set()

    async with upstream(endless) as rig:
        response = await rig.client().request("GET", "/")
        await response.read_some()
        response.abort("the client left")
        await ended.wait()
        assert await response.read_some() == b""


async def flood(stream: ByteStream) -> None:
    while True:
        await stream.send_all(b"x" * 1000)


async def test_an_upstream_is_read_no_faster_than_its_answer_is_wanted() -> None:
    sent = 0

    async def endless(stream: ByteStream) -> None:
        nonlocal sent
        await read_until(stream, b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 1000)
            sent += 1000

    async with upstream(endless) as rig:
        response = await rig.client().request("GET", "/")
        await wait_all_tasks_blocked()
        assert sent < 200_000
        await response.aclose()


async def test_an_answer_that_comes_before_the_request_is_sent_whole_is_heard() -> None:
    async def refuses(stream: ByteStream) -> None:
        await read_until(stream, b"\r\n\r\n")
        await stream.send_all(
            b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig"
        )
        while await stream.receive_some():
            pass

    async with upstream(refuses) as rig:
        response = await rig.client().request("POST", "/", body=b"x" * 1_000_000)
        assert (response.status, await response.read(10)) == (413, b"big")


async def test_a_failed_dial_is_what_the_caller_gets() -> None:
    async with upstream() as rig:
        await wait_all_tasks_blocked()
        with pytest.raises(DialFailed):
            await rig.client().request("GET", "/")


async def test_a_cancelled_request_closes_its_connection(autojump_clock: object) -> None:
    ended = trio.Event()

    async def silent(stream: ByteStream) -> None:
        await read_until(stream, b"\r\n\r\n")
        with pytest.raises(StreamBroken):
            await stream.receive_some()
        ended.set()

    async with upstream(silent) as rig:
        with trio.move_on_after(1):
            await rig.client().request("GET", "/")
        await ended.wait()
