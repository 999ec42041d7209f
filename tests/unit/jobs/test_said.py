"""What a run says, and those who listen to it."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from meshd import limits
from meshd.errors import Refused
from meshd.http import Room, Share
from meshd.jobs.said import Broken, End, Listener, NotHeard, Said, TooMuchSaid, Whole

MOST = limits.MIB


def said_in(room: Room, most_bytes: int = MOST) -> Said:
    return Said(Share(room), most_bytes)


async def heard(listener: Listener) -> tuple[bytes, End]:
    data = b""
    while isinstance(more := await listener.next(), bytes):
        data += more
    return data, more


async def test_all_who_listen_hear_it_from_their_byte_on(autojump_clock: MockClock) -> None:
    said = said_in(Room())
    results: dict[int, tuple[bytes, End]] = {}

    async def listen(from_byte: int) -> None:
        with said.listen(from_byte) as listener:
            results[from_byte] = await heard(listener)

    said.add(b"abc")
    async with trio.open_nursery() as nursery:
        for from_byte in range(4):
            nursery.start_soon(listen, from_byte)
        for letter in (b"d", b"e", b"f"):
            await trio.sleep(1.0)
            said.add(letter)
        said.finish(Whole())
    assert results == {n: (b"abcdef"[n:], Whole()) for n in range(4)}


async def test_what_is_held_back_is_heard_only_with_a_whole_end(autojump_clock: MockClock) -> None:
    for end, expected in ((Whole(), b"body, end"), (Broken(b"!"), b"body")):
        said = said_in(Room())
        said.add(b"body")
        said.hold_back()
        said.add(b", end")
        assert (said.size_bytes, said.all) == (4, b"body, end")
        with said.listen() as listener:
            assert await listener.next() == b"body"
            said.finish(end)
            said.finish(Whole())  # the first word counts
            assert await heard(listener) == (expected[4:], end)


async def test_a_run_with_nothing_to_say_says_so_to_those_who_wait(
    autojump_clock: MockClock,
) -> None:
    said = said_in(Room())
    said.quiet()  # before anybody listened
    results = []

    async def listen() -> None:
        with said.listen() as listener:
            results.append([await listener.next() for _ in range(2)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await wait_all_tasks_blocked()
        said.quiet()
        await wait_all_tasks_blocked()
        said.add(b"x")
    assert results == [[b"", b"x"]]


def test_bytes_are_counted_until_the_last_listener_has_gone() -> None:
    room = Room()
    said = said_in(room)
    data = b"x" * limits.BODY_COUNTED_BYTES
    said.add(data)
    with said.listen():
        with said.listen():
            said.close()
        assert room.held_bytes == len(data)
    assert room.held_bytes == 0
    with pytest.raises(NotHeard), said.listen():
        pass


def test_more_than_may_be_kept_is_refused_and_changes_nothing() -> None:
    said = said_in(Room(), most_bytes=5)
    said.add(b"abc")
    with pytest.raises(TooMuchSaid, match="6 bytes"):
        said.add(b"def")
    assert said.all == b"abc"
    size = limits.BODY_COUNTED_BYTES
    room = Room(size)
    other = Share(room)
    assert other.hold(size)
    crowded = said_in(room)
    with pytest.raises(TooMuchSaid):
        crowded.add(b"x" * size)
    other.release()
    crowded.add(b"x" * size)


def test_too_many_listeners_and_bytes_that_were_not_said_are_refused() -> None:
    said = said_in(Room())
    said.add(b"abc")
    with pytest.raises(Refused, match="said 3 bytes, and not 4"), said.listen(4):
        pass
    ways = [said.listen() for _ in range(limits.SAID_LISTENERS)]
    for way in ways:
        way.__enter__()
    with pytest.raises(NotHeard, match="listen to that run already"), said.listen():
        pass
    ways[0].__exit__(None, None, None)
    with said.listen():
        pass


@given(st.lists(st.binary(max_size=200_000), max_size=4), st.data())
def test_however_it_is_said_and_heard_it_is_the_same_bytes(
    pieces: list[bytes], data: st.DataObject
) -> None:
    async def main() -> None:
        said = said_in(Room())
        whole = b"".join(pieces)
        first = data.draw(st.integers(0, len(pieces)))
        for piece in pieces[:first]:
            said.add(piece)
        from_byte = data.draw(st.integers(0, said.size_bytes))
        with said.listen(from_byte) as listener:
            for piece in pieces[first:]:
                said.add(piece)
            said.finish(Whole())
            assert await heard(listener) == (whole[from_byte:], Whole())

    trio.run(main)
