"""All bodies of a node together have a bound: whoever finds the room full is told to come again."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshd import limits
from meshd.http import Headers, Responder, Room, ServerOptions, ServerRequest, Share
from tests.unit.http.rig import read_all, serving

LARGE = limits.BODY_COUNTED_BYTES


def post(size_bytes: int, *, close: bool = True) -> bytes:
    last = b"Connection: close\r\n" if close else b""
    return b"POST /x HTTP/1.1\r\nHost: x\r\n" + last + b"Content-Length: %d\r\n\r\n" % size_bytes


class Holding:
    """A handler that keeps each request until it is let go."""

    def __init__(self) -> None:
        self.go = trio.Event()
        self.running = 0

    async def __call__(self, request: ServerRequest, responder: Responder) -> None:
        self.running += 1
        await self.go.wait()
        await responder.send(200, [], b"%d" % len(request.body))


def say(status: int, message: str, path: str) -> tuple[Headers, bytes]:
    return [], f"{path}: {message}".encode()


async def test_a_body_for_which_there_is_no_room_is_refused_until_there_is(
    autojump_clock: object,
) -> None:
    room, handler = Room(3 * LARGE), Holding()
    async with serving(handler, ServerOptions(room=room, error_body=say)) as (rig, _):
        first = await rig.dial()
        await first.send_all(post(2 * LARGE, close=False) + bytes(2 * LARGE))
        await trio.sleep(1.0)
        assert (handler.running, room.held_bytes) == (1, 2 * LARGE)
        refused = await rig.talk(post(2 * LARGE) + bytes(2 * LARGE))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 2\r\n" in refused
        assert refused.endswith(b"/x: this node has as many large bodies in memory as it may; "
                                b"try again soon")  # fmt: skip
        small = await rig.dial()
        await small.send_all(post(LARGE - 1) + bytes(LARGE - 1))
        await trio.sleep(1.0)
        assert handler.running == 2, "small ones are not counted"
        handler.go.set()
        await trio.sleep(1.0)
        assert room.held_bytes == 0, "the connection idles, and holds nothing"
        answer = await rig.talk(post(2 * LARGE) + bytes(2 * LARGE))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert room.held_bytes == 0


async def test_a_body_takes_room_as_it_arrives_and_gives_it_back_if_it_never_does(
    autojump_clock: object,
) -> None:
    room, handler = Room(3 * LARGE), Holding()
    async with serving(handler, ServerOptions(room=room)) as (rig, _):
        stream = await rig.dial()
        await stream.send_all(post(100 * LARGE))
        await trio.sleep(1.0)
        assert room.held_bytes == 0, "what was only announced costs nothing"
        await stream.send_all(bytes(2 * LARGE))
        await trio.sleep(1.0)
        assert room.held_bytes == 2 * LARGE
        await stream.send_all(bytes(2 * LARGE))
        assert (await read_all(stream)).startswith(b"HTTP/1.1 503 ")
        await trio.sleep(1.0)
        assert (handler.running, room.held_bytes) == (0, 0)
        other = await rig.dial()
        await other.send_all(post(100 * LARGE) + bytes(2 * LARGE))
        await trio.sleep(1.0)
        other.abort("the client left")
        await trio.sleep(1.0)
        assert room.held_bytes == 0


@pytest.mark.parametrize("fails", [True, False])
async def test_whatever_becomes_of_a_request_its_room_is_given_back(
    autojump_clock: object, fails: bool
) -> None:
    room = Room(3 * LARGE)

    async def handle(request: ServerRequest, responder: Responder) -> None:
        assert room.held_bytes == LARGE
        if fails:
            raise ZeroDivisionError("nobody thought of this")
        gone = trio.Event()
        responder.on_disconnect = gone.set
        await gone.wait()

    async with serving(handle, ServerOptions(room=room)) as (rig, _):
        stream = await rig.dial()
        await stream.send_all(post(LARGE) + bytes(LARGE))
        await trio.sleep(1.0)
        stream.abort("the client left")
        await trio.sleep(5.0)
        assert room.held_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5 * LARGE)), max_size=60))
def test_shares_are_never_more_than_the_room(steps: list[tuple[int, int]]) -> None:
    room = Room(6 * LARGE)
    shares = [Share(room) for _ in range(5)]
    for which, size in steps:
        before = shares[which].held_bytes
        if size % 5 == 0:
            shares[which].release()
            assert shares[which].held_bytes == 0
        elif shares[which].hold(size):
            assert shares[which].held_bytes == (size if size >= LARGE else 0)
        else:
            assert shares[which].held_bytes == before
        assert room.held_bytes == sum(share.held_bytes for share in shares)
        assert 0 <= room.held_bytes <= room.size_bytes
