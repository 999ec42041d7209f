"""What the server refuses, with which status and in whose words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from meshd.errors import StreamBroken
from meshd.http import Headers, Responder, ServerOptions, ServerRequest
from meshd.ports import Remote
from tests.unit.http.manners import GET, HEAD, SMALL, fine, never
from tests.unit.http.rig import read_all, read_until, serving, trickle

BAD = {
    "both framings": (400, b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "both framings, reversed": (400, b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"),
    "two lengths": (400, b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    "a list of lengths": (400, b"Content-Length: 3, 3\r\n\r\nabc"),
    "a signed length": (400, b"Content-Length: +3\r\n\r\nabc"),
    "a length of no end": (400, b"Content-Length: 99999999999999999999999\r\n\r\nabc"),
    "another coding": (501, b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked twice": (400, b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "nearly chunked": (501, b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "a folded line": (400, b"A: b\r\n c\r\n\r\n"),
    "a bare line feed": (400, b"A: b\nB: c\r\n\r\n"),
    "a bare carriage return": (400, b"A: b\rB: c\r\n\r\n"),
    "a zero byte": (400, b"A: b\0c\r\n\r\n"),
    "a blank before the colon": (400, b"A : b\r\n\r\n"),
    "no colon": (400, b"A\r\n\r\n"),
    "a second host": (400, b"Host: y\r\n\r\n"),
    "an expectation nobody knows": (417, b"Expect: wonders\r\n\r\n"),
    "a chunk size that is none": (400, b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"),
    "a negative chunk size": (400, b"Transfer-Encoding: chunked\r\n\r\n-1\r\n"),
    "a chunk longer than it says": (
        400,
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_request_that_could_be_read_in_two_ways_is_refused(
    name: str, autojump_clock: object
) -> None:
    status, rest = BAD[name]
    async with serving(never) as (rig, _):
        answer = await rig.talk(HEAD + rest)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert b"connection: close" in answer
        assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ],
)
async def test_what_is_not_a_request_of_this_protocol_is_refused(
    request_bytes: bytes, status: int, autojump_clock: object
) -> None:
    async with serving(never) as (rig, _):
        assert (await rig.talk(request_bytes)).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /" + b"a" * 50 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (HEAD + b"A: " + b"b" * 200 + b"\r\n\r\n", 431),
        (HEAD + b"A: " + b"b" * 600, 431),
        (HEAD + b"A" * 600, 431),
        (HEAD + b"A:b\r\n" * 5 + b"\r\n", 431),
        (HEAD + b"A:b\r\n" * 6, 431),
        (HEAD + b"Content-Length: 101\r\n\r\n", 413),
        (
            HEAD
            + b"Transfer-Encoding: chunked\r\n\r\n40\r\n"
            + b"a" * 64
            + b"\r\n40\r\n"
            + b"a" * 64,
            413,
        ),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"b" * 300 + b"\r\n\r\n", 431),
    ],
)
async def test_each_limit_has_its_status(
    request_bytes: bytes, status: int, autojump_clock: object
) -> None:
    async with serving(never, SMALL) as (rig, _):
        assert (await rig.talk(request_bytes)).startswith(b"HTTP/1.1 %d " % status)


async def test_a_request_at_the_limits_is_served(autojump_clock: object) -> None:
    request = (
        b"POST /" + b"a" * 49 + b" HTTP/1.1\r\nHost: x\r\nA: b\r\nB: c\r\n"
        b"Content-Length: 100\r\nConnection: close\r\n\r\n" + b"a" * 100
    )
    async with serving(fine, SMALL) as (rig, _):
        assert (await rig.talk(request)).startswith(b"HTTP/1.1 200 ")


async def test_requests_before_a_bad_one_are_still_answered(autojump_clock: object) -> None:
    async with serving(fine) as (rig, _):
        answer = await rig.talk(GET + GET + b"nonsense\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert answer.count(b"HTTP/1.1 400 Bad Request") == 1


async def test_errors_speak_through_the_callback(autojump_clock: object) -> None:
    def say(status: int, message: str, path: str) -> tuple[Headers, bytes]:
        return [(b"x-e", b"1")], b"<%d>" % status

    async with serving(never, ServerOptions(error_body=say)) as (rig, _):
        answer = await rig.talk(b"nonsense\r\n\r\n")
        assert b"x-e: 1\r\n" in answer
        assert answer.endswith(b"<400>")


@pytest.mark.parametrize(
    ("request_bytes", "path"),
    [
        (b"nonsense\r\n\r\n", ""),
        (b"POST /v1/x?a=b HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n", "/v1/x"),
        (b"POST /v1/x HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n", "/v1/x"),
        (b"POST /v1/x HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 600, "/v1/x"),
        (b"POST /v1/x HTTP/1.1\r\nHost: x\r\n", "/v1/x"),  # and nothing more: 408
        (b"POST http://y/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n", "/v1/x"),
        (b"POST /" + b"a" * 60 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "/" + "a" * 60),
        (b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf", "/v1/x"),
    ],
)
async def test_an_error_below_the_handler_knows_whose_words_to_use_and_is_told_of(
    request_bytes: bytes, path: str, autojump_clock: object
) -> None:
    said: list[tuple[int, str, str]] = []
    told: list[tuple[str, int, str]] = []

    def say(status: int, message: str, path: str) -> tuple[Headers, bytes]:
        said.append((status, message, path))
        return [], b"?"

    def note(remote: Remote, status: int, message: str) -> None:
        assert remote.address is not None
        told.append((remote.address.host, status, message))

    options = replace(SMALL, error_body=say, on_refused=note)
    async with serving(never, options) as (rig, _):
        await rig.talk(request_bytes)
        ((status, message, found),) = said
        assert found == path
        assert told == [(rig.world.hosts["client"].addresses[0], status, message)]


async def test_a_refusal_by_admit_is_told_of_and_so_is_no_request_that_is_served(
    autojump_clock: object,
) -> None:
    told: list[int] = []
    options = ServerOptions(
        admit=lambda request: (403, [], b"no") if request.path == "/no" else None,
        on_refused=lambda remote, status, message: told.append(status),
    )
    async with serving(fine, options) as (rig, _):
        await rig.talk(b"GET /yes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert told == []
        await rig.talk(b"GET /no HTTP/1.1\r\nHost: x\r\n\r\n")
        assert told == [403]


async def test_a_handlers_bug_is_answered_in_the_words_of_its_path(autojump_clock: object) -> None:
    said: list[str] = []

    def say(status: int, message: str, path: str) -> tuple[Headers, bytes]:
        said.append(path)
        return [], b"?"

    async def bug(request: ServerRequest, responder: Responder) -> None:
        raise KeyError("nobody thought of this")

    async with serving(bug, ServerOptions(error_body=say)) as (rig, _):
        answer = await rig.talk(b"GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert said == ["/v1/x"]


async def test_a_client_that_is_still_uploading_reads_why_it_was_refused(
    autojump_clock: object,
) -> None:
    """Its unread bytes must not turn the answer into a reset."""
    async with serving(never, SMALL) as (rig, _):
        connection = await rig.dial()
        await connection.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n")

        async def upload() -> None:
            for _ in range(300):
                await connection.send_all(b"x" * 1000)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            assert (await read_until(connection, b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")


async def test_an_uploader_without_end_is_cut_off_after_a_while(autojump_clock: object) -> None:
    async with serving(never, SMALL) as (rig, _):
        connection = await rig.dial()
        await connection.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n")
        with pytest.raises(StreamBroken), trio.fail_after(60):
            await trickle(connection, b"x" * 100_000, 0.1)


async def test_above_the_limit_of_connections_newcomers_are_told_to_come_later(
    autojump_clock: object,
) -> None:
    async with serving(fine, ServerOptions(connections=2)) as (rig, server):
        first, second = await rig.dial(), await rig.dial()
        for connection in (first, second):
            await connection.send_all(GET)
            await read_until(connection, b"fine")
        answer = await read_all(await rig.dial())
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in answer
        await first.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert server.connections == 1
        assert (await rig.talk(HEAD + b"Connection: close\r\n\r\n")).endswith(b"fine")
