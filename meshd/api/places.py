"""Places in a streamed answer: how much of it a client has, checked by what that is.  Pure.

A stream is counted in what a client reads from it: events of SSE, without comments, or lines of
NDJSON.  The place after 17 of them is `17-3fa9c1d2`: the number, and the first eight hex digits of
the SHA-256 of those 17 as they came, each with what ends it, without its `id:` line.  Each event of
a keyed SSE stream has its place as its id; whoever reads NDJSON can count and hash.  Bytes would be
no measure: clients see what their library makes of them.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from meshd import limits
from meshd.errors import Refused

HEADER: Final = b"last-event-id"
CHECK_CHARS: Final = 8
_EVENT_END: Final = b"\n\n"
_LINE_END: Final = b"\n"
_ID: Final = b"id: "
_PLACE: Final = re.compile(rf"([0-9]{{1,9}})(?:-([0-9a-f]{{{CHECK_CHARS}}}))?")


class OtherWords(Refused):
    """What the client has is not the beginning of this answer, or need not be."""


class BeyondTheEnd(Refused):
    """The answer is shorter than what the client says that it has."""


class Place(msgspec.Struct, frozen=True):
    """After so many events or lines of a stream."""

    count: int = 0
    check: str = ""
    """Hex digits of what they hash to; "": the client says no more than their number."""


def read_place(text: str) -> Place:
    """A place as clients say it.  Raises Refused."""
    match = _PLACE.fullmatch(text.strip())
    if match is None:
        raise Refused(
            f"{text[:40]!r} is no place in a stream: say how many events or lines of it were read, "
            "or the id of the last event, as in 17 or 17-3fa9c1d2"
        )
    return Place(int(match[1]), match[2] or "")


def comment(data: bytes) -> bytes:
    """A comment of SSE for a stream whose events have ids: without an empty line of its own.

    OpenAI's Python library takes an empty line for an event without data once it has seen an id.
    """
    return data.removesuffix(_LINE_END) if data.endswith(_EVENT_END) else data


class Numbering:
    """Gives the events of one SSE stream their ids."""

    def __init__(self) -> None:
        self._count = 0
        self._hashed = hashlib.sha256()

    def add(self, data: bytes) -> bytes:
        """The same whole events, with ids; a comment is put before the event that follows it."""
        out = bytearray()
        at = 0
        while at < len(data):
            end = data.index(_EVENT_END, at) + len(_EVENT_END)
            event, at = data[at:end], end
            if event.startswith(b":"):
                out += comment(event)
                continue
            self._count += 1
            self._hashed.update(event)
            check = self._hashed.hexdigest()[:CHECK_CHARS]
            out += b"%b%d-%b\n" % (_ID, self._count, check.encode())
            out += event
        return bytes(out)


class Rest:
    """What of a stream follows a place."""

    def __init__(self, place: Place, *, events: bool) -> None:
        """`events`: the stream is SSE; else it is NDJSON."""
        self._place = place
        self._events = events
        self._end = _EVENT_END if events else _LINE_END
        self._held = bytearray()
        """Of an event or a line that is not here to its end."""
        self._count = 0
        self._hashed = hashlib.sha256()

    @property
    def reached(self) -> bool:
        """All that comes now follows the place."""
        return self._count == self._place.count

    def feed(self, data: bytes) -> bytes:
        """What of these next bytes follows the place.  Raises OtherWords."""
        if self.reached:
            return data
        held, at = self._held, 0
        search_at = max(0, len(held) - len(self._end) + 1)  # before it no end was
        held += data
        while not self.reached:
            end = held.find(self._end, max(at, search_at))
            if end < 0:
                break
            end += len(self._end)
            self._pass(bytes(held[at:end]))
            at = end
        del held[:at]
        if self.reached:
            self._held = bytearray()
            return bytes(held)
        if len(held) > limits.STREAM_EVENT_BYTES:
            raise OtherWords(
                f"this answer goes on for {len(held)} bytes without an end of an event"
            )
        return b""

    def close(self) -> None:
        """The stream is over.  Raises BeyondTheEnd if the place was not reached."""
        if not self.reached:
            what = "events" if self._events else "lines"
            raise BeyondTheEnd(
                f"this answer has {self._count} {what} in all: nothing of it comes after "
                f"{self._place.count}"
            )

    def _pass(self, piece: bytes) -> None:
        at = 0
        while self._events and piece.startswith((b":", _ID), at):
            at = piece.index(_LINE_END, at) + 1
        self._count += 1
        self._hashed.update(piece[at:])
        check = self._place.check
        if self.reached and check and self._hashed.hexdigest()[:CHECK_CHARS] != check:
            raise OtherWords(
                "what was read of this answer is not how it begins now: another run of it said "
                "other words. Ask for it from its start"
            )
