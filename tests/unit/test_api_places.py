"""Places in a stream: what follows one is told once, whole, and only behind the same words."""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd import limits
from meshd.api.places import BeyondTheEnd, Numbering, OtherWords, Place, Rest, read_place
from meshd.errors import Refused

EVENTS = [b'data: {"n":%d}\n\n' % n for n in range(1, 8)]
LINES = [b'{"n":%d}\n' % n for n in range(1, 8)]


def numbered(events: list[bytes]) -> bytes:
    numbering = Numbering()
    return b"".join(numbering.add(event) for event in events)


def ids(stream: bytes) -> list[str]:
    return [found.decode() for found in re.findall(rb"^id: (.*)$", stream, re.MULTILINE)]


def rest_of(
    stream: bytes, place: Place, *, events: bool = True, cuts: tuple[int, ...] = ()
) -> bytes:
    rest = Rest(place, events=events)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    told = b"".join(rest.feed(stream[a:b]) for a, b in pairwise(edges))
    rest.close()
    return told


def test_events_are_numbered_and_named_by_what_was_said() -> None:
    stream = numbered([*EVENTS[:2], b": a comment\n\n", EVENTS[2]])
    assert [int(name.partition("-")[0]) for name in ids(stream)] == [1, 2, 3]
    assert b"\n\n: a comment\nid: 3-" in stream, "an empty line would be an event to some clients"
    check = hashlib.sha256(b"".join(EVENTS[:3])).hexdigest()[:8]
    assert ids(stream)[2] == f"3-{check}", "as a client can say that has no ids"


def test_ids_do_not_depend_on_how_events_are_put_together() -> None:
    numbering = Numbering()
    assert numbering.add(EVENTS[0] + EVENTS[1]) + numbering.add(b"".join(EVENTS[2:])) == numbered(
        EVENTS
    )


@given(st.integers(0, 7), st.lists(st.integers(0, 10_000), max_size=6), st.booleans())
def test_what_was_read_and_the_rest_are_the_whole(
    count: int, cuts: list[int], with_check: bool
) -> None:
    stream = numbered([EVENTS[0], b": seam\n\n", *EVENTS[1:]])
    name = ids(stream)[count - 1] if count else "0"
    place = read_place(name if with_check else str(count))
    told = rest_of(stream, place, cuts=tuple(cuts))
    assert ids(told) == ids(stream)[count:]
    assert stream.endswith(told)


@given(st.integers(0, 7), st.lists(st.integers(0, 10_000), max_size=6))
def test_lines_are_counted_and_hashed_by_who_reads_them(count: int, cuts: list[int]) -> None:
    check = hashlib.sha256(b"".join(LINES[:count])).hexdigest()[:8]
    place = read_place(f"{count}-{check}" if count else "0")
    told = rest_of(b"".join(LINES), place, events=False, cuts=tuple(cuts))
    assert told == b"".join(LINES[count:])


def test_behind_other_words_nothing_is_told() -> None:
    other = numbered([b"data: other\n\n", *EVENTS[1:]])
    for name in ids(numbered(EVENTS)):
        with pytest.raises(OtherWords, match="said other words"):
            rest_of(other, read_place(name))


def test_beyond_the_end_there_is_nothing() -> None:
    with pytest.raises(BeyondTheEnd, match="7 events in all: nothing of it comes after 8"):
        rest_of(numbered(EVENTS), Place(8))


@pytest.mark.parametrize("events", [True, False])
def test_an_event_without_an_end_is_not_kept_for_ever(events: bool) -> None:
    rest = Rest(Place(1), events=events)
    some = bytes(limits.STREAM_EVENT_BYTES // 2)
    assert rest.feed(some) + rest.feed(some) == b""
    with pytest.raises(OtherWords, match="without an end"):
        rest.feed(b"x")


def test_many_comments_and_ids_before_an_event_are_one_event() -> None:
    many = b":\nid: 1\n" * 200_000
    assert rest_of(many + EVENTS[0] + EVENTS[1], Place(1), cuts=(3, 700_000)) == EVENTS[1]


@pytest.mark.parametrize(
    "text", ["", "-1", "1.5", "one", "17-", "17-xyz", "17-3FA9C1D2", "9" * 10, "17 18"]
)
def test_what_is_no_place_is_refused_with_how_one_looks(text: str) -> None:
    with pytest.raises(Refused, match="as in 17 or 17-3fa9c1d2"):
        read_place(text)
