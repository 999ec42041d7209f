"""What the server does with well-meant requests."""

from __future__ import annotations

import pytest
import trio

from meshd.errors import StreamBroken
from meshd.http import Responder, ServerOptions, ServerRequest
from meshd.http.connection import WATCH_AFTER_S
from tests.unit.http.rig import read_all, read_until, serving

GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"
GET_CLOSE = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def echo(request: ServerRequest, responder: Responder) -> None:
    text = f"{request.method} {request.path} {request.query} ".encode()
    await responder.send(200, [(b"x-a", b"b")], text + request.body)


async def stream(request: ServerRequest, responder: Responder) -> None:
    await responder.start(200, [(b"content-type", b"text/event-stream")])
    for number in range(3):
        await responder.write(b"data: %d\n\n" % number)
    await responder.finish()


async def test_a_request_is_answered_and_the_connection_kept() -> None:
    async with serving(echo) as (rig, _):
        connection = await rig.dial()
        for _ in range(3):
            await connection.send_all(GET)
            answer = await read_until(connection, b"GET /a b=c ")
            assert answer == (b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\nx-a: b\r\n\r\nGET /a b=c ")


async def test_connection_close_is_honoured() -> None:
    async with serving(echo) as (rig, _):
        answer = await rig.talk(GET_CLOSE)
        assert b"connection: close\r\n" in answer
        assert answer.endswith(b"\r\n\r\nGET /a b=c ")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def late_first(request: ServerRequest, responder: Responder) -> None:
        await trio.sleep(0.01 if request.path == "/1" else 0)
        await responder.send(200, [], request.path.encode())

    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(1, 50))
    async with serving(late_first) as (rig, _):
        answer = await rig.talk(requests + GET_CLOSE)
        bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 ")[1:]]
        assert bodies == [b"/%d" % n for n in range(1, 50)] + [b"/a"]


async def test_a_streamed_answer_is_chunked() -> None:
    async with serving(stream) as (rig, _):
        answer = await rig.talk(GET_CLOSE)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert b"content-length" not in head
        assert body == (b"9\r\ndata: 0\n\n\r\n9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n")


async def test_an_http_1_0_client_gets_a_stream_without_chunks_that_ends_with_the_connection() -> (
    None
):
    async with serving(stream) as (rig, _):
        answer = await rig.talk(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"connection: close" in head
        assert b"chunked" not in head
        assert body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


async def test_an_http_1_0_client_may_keep_a_connection_for_whole_answers() -> None:
    async with serving(echo) as (rig, _):
        connection = await rig.dial()
        for _ in range(2):
            await connection.send_all(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            answer = await read_until(connection, b"GET / ")
            assert b"connection: keep-alive\r\n" in answer


@pytest.mark.parametrize("handler", [echo, stream])
async def test_head_gets_the_head_alone(handler) -> None:  # type: ignore[no-untyped-def]
    async with serving(handler) as (rig, _):
        answer = await rig.talk(GET.replace(b"GET", b"HEAD") + GET_CLOSE)
        first, rest = answer.split(b"\r\n\r\n", 1)
        assert b"content-length: 12" in first or b"chunked" in first
        assert rest.startswith(b"HTTP/1.1 200 OK")


async def test_a_204_has_neither_body_nor_length() -> None:
    async def nothing(request: ServerRequest, responder: Responder) -> None:
        await responder.send(204, [], b"")

    async with serving(nothing) as (rig, _):
        assert await rig.talk(GET_CLOSE) == (
            b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
        )


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"2\r\nhe\r\n3;extension=1\r\nllo\r\n0\r\nTrailer: x\r\n\r\n",
    ],
    ids=["length", "chunked"],
)
async def test_a_body_arrives_whole_however_it_is_framed(request_bytes: bytes) -> None:
    async with serving(echo) as (rig, _):
        for at in range(1, len(request_bytes)):
            connection = await rig.dial()
            await connection.send_all(request_bytes[:at])
            await trio.testing.wait_all_tasks_blocked()
            await connection.send_all(request_bytes[at:])
            assert (await read_all(connection)).endswith(b"POST /p  hello")


async def test_a_client_that_expects_continue_is_told_to() -> None:
    async with serving(echo) as (rig, _):
        connection = await rig.dial()
        await connection.send_all(
            b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        assert await read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await connection.send_all(b"hello")
        assert (await read_until(connection, b"hello")).startswith(b"HTTP/1.1 200 OK")


async def test_continue_is_not_sent_when_the_body_is_there_already() -> None:
    async with serving(echo) as (rig, _):
        answer = await rig.talk(
            b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n"
            b"Connection: close\r\n\r\nhello"
        )
        assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_an_absolute_target_gives_path_and_host() -> None:
    seen = []

    async def look(request: ServerRequest, responder: Responder) -> None:
        seen.append((request.path, request.query, request.header(b"host")))
        await responder.send(200, [], b"")

    async with serving(look) as (rig, _):
        for target in (b"http://real:8/p?q=/", b"HTTP://u@real:8", b"http://real:8?q"):
            await rig.talk(
                b"GET " + target + b" HTTP/1.1\r\nHost: claimed\r\nConnection: close\r\n\r\n"
            )
    assert seen == [
        ("/p", "q=/", b"real:8"),
        ("/", "", b"real:8"),
        ("/", "q", b"real:8"),
    ]


async def test_an_offer_to_upgrade_is_passed_over_body_and_all() -> None:
    """Java's HTTP client offers h2c with its first POST."""
    request = (
        b"POST /p HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\nContent-Length: 5\r\n\r\nhello"
    )
    async with serving(echo) as (rig, _):
        answer = await rig.talk(request + request + GET_CLOSE)
        assert answer.count(b"POST /p  hello") == 2
        assert answer.endswith(b"GET /a b=c ")


async def test_admission_is_asked_before_the_body_is_read_and_its_answer_sent(
    autojump_clock: object,
) -> None:
    def admit(request: ServerRequest):  # type: ignore[no-untyped-def]
        if request.header(b"host") == b"evil":
            return 403, [(b"x-why", b"host")], b"no"
        return None

    async def fail(request: ServerRequest, responder: Responder) -> None:
        raise AssertionError("a refused request was served")

    async with serving(fail, ServerOptions(admit=admit)) as (rig, _):
        answer = await rig.talk(b"POST / HTTP/1.1\r\nHost: evil\r\nContent-Length: 1000000\r\n\r\n")
        assert answer == (
            b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 2\r\n"
            b"x-why: host\r\n\r\nno"
        )


async def test_admission_is_asked_about_every_request_also_about_one_that_comes_again() -> None:
    asked = 0

    def admit(request: ServerRequest):  # type: ignore[no-untyped-def]
        nonlocal asked
        asked += 1
        return (429, [], b"enough") if asked > 3 else None

    async with serving(echo, ServerOptions(admit=admit)) as (rig, _):
        connection = await rig.dial()
        for _ in range(3):
            await connection.send_all(GET)
            await read_until(connection, b"GET /a b=c ")
        await connection.send_all(GET)
        answer = await read_all(connection)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert answer.endswith(b"enough")


async def test_a_handlers_changes_to_a_request_do_not_show_in_the_next() -> None:
    seen = []

    async def meddle(request: ServerRequest, responder: Responder) -> None:
        seen.append(list(request.headers))
        request.headers.append((b"x-meddled", b"1"))
        request.path = "/elsewhere"
        await responder.send(200, [], b"done")

    async with serving(meddle) as (rig, _):
        connection = await rig.dial()
        for _ in range(3):
            await connection.send_all(GET)
            await read_until(connection, b"done")
    assert seen == [[(b"host", b"x")]] * 3


async def test_a_handlers_bug_is_an_error_of_that_request_alone() -> None:
    told = []

    async def buggy(request: ServerRequest, responder: Responder) -> None:
        if request.path == "/bug":
            raise ZeroDivisionError("oops")
        await responder.send(200, [], b"fine")

    options = ServerOptions(on_error=lambda what, error: told.append((what, repr(error))))
    async with serving(buggy, options) as (rig, _):
        answer = await rig.talk(b"GET /bug HTTP/1.1\r\nHost: x\r\n\r\n" + GET_CLOSE)
        assert answer.startswith(b"HTTP/1.1 500 Internal Server Error")
        assert b"oops" not in answer
        assert answer.endswith(b"fine")
    assert told == [("GET /bug", "ZeroDivisionError('oops')")]


async def test_an_answer_that_stops_halfway_is_cut_and_not_ended() -> None:
    async def half(request: ServerRequest, responder: Responder) -> None:
        await responder.start(200, [])
        await responder.write(b"half")
        raise ZeroDivisionError

    async with serving(half) as (rig, _):
        with pytest.raises(StreamBroken):
            await rig.talk(GET)


async def test_a_header_with_a_line_break_is_never_sent() -> None:
    async def forged(request: ServerRequest, responder: Responder) -> None:
        await responder.send(200, [(b"x", b"a\r\nset-cookie: b")], b"")

    async with serving(forged) as (rig, _):
        answer = await rig.talk(GET_CLOSE)
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"cookie" not in answer


async def test_an_answer_larger_than_any_buffer_arrives_whole() -> None:
    body = bytes(range(256)) * 20_000

    async def big(request: ServerRequest, responder: Responder) -> None:
        await responder.send(200, [], body)

    async with serving(big) as (rig, _):
        answer = await rig.talk(GET_CLOSE)
        assert answer.partition(b"\r\n\r\n")[2] == body


async def test_a_client_that_does_not_read_holds_the_writer_back(autojump_clock: object) -> None:
    written = 0

    async def endless(request: ServerRequest, responder: Responder) -> None:
        nonlocal written
        await responder.start(200, [])
        while True:
            await responder.write(b"x" * 1000)
            written += 1000

    async with serving(endless) as (rig, _):
        connection = await rig.dial()
        await connection.send_all(GET)
        await trio.sleep(5)
        assert written < 200_000
        before = written
        for _ in range(10):
            await connection.receive_some()
        await trio.sleep(1)
        assert written > before


async def test_write_nowait_refuses_when_the_client_is_behind() -> None:
    async def flood(request: ServerRequest, responder: Responder) -> None:
        await responder.start(200, [])
        while responder.write_nowait(b"x" * 10_000):
            pass
        await responder.finish(b"end")

    async with serving(flood) as (rig, _):
        answer = await rig.talk(GET_CLOSE)
        assert answer.endswith(b"3\r\nend\r\n0\r\n\r\n")


async def test_draining_ends_idle_connections_now_and_others_after_their_answer(
    autojump_clock: object,
) -> None:
    finish = trio.Event()

    async def slow(request: ServerRequest, responder: Responder) -> None:
        if request.path == "/slow":
            await finish.wait()
        await responder.send(200, [], b"done")

    async with serving(slow) as (rig, server):
        idle, busy = await rig.dial(), await rig.dial()
        await idle.send_all(GET)
        await read_until(idle, b"done")
        await busy.send_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.sleep(1)
        server.drain()
        assert await idle.receive_some() == b""
        await trio.testing.wait_all_tasks_blocked()
        assert server.connections == 1
        finish.set()
        answer = await read_all(busy)
        assert b"connection: close" in answer
        assert answer.endswith(b"done")


async def test_serve_ends_once_its_listener_is_closed_and_the_last_answer_is_out() -> None:
    async with serving(echo) as (rig, server):
        listener = await rig.world.hosts["server"].listen_clients("0.0.0.0", 81)
        rig.address = listener.address  # type: ignore[assignment]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, listener)
            connection = await rig.dial()
            await connection.send_all(GET_CLOSE)
            await trio.testing.wait_all_tasks_blocked()
            await listener.aclose()
            assert (await read_all(connection)).endswith(b"GET /a b=c ")


async def test_a_connection_that_closes_in_the_very_tick_of_its_deadline_harms_nobody(
    autojump_clock: object,
) -> None:
    """Its watch is looked at by another task between its last answer and its end."""

    async def until_watched(request: ServerRequest, responder: Responder) -> None:
        await trio.sleep(WATCH_AFTER_S)
        await responder.send(200, [], b"done")

    async with serving(until_watched) as (rig, _):
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                for _ in range(50):  # which task of one turn runs first is left to chance
                    nursery.start_soon(rig.talk, GET_CLOSE)
        assert (await rig.talk(GET_CLOSE)).endswith(b"done")
