"""What a client has of a stream, and how it says so at another node.

Written from what `meshd/api/places.py` promises to clients, and without its code: this is the
client's side of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import msgspec

_ID: Final = b"id: "


def whole_events(raw: bytes) -> bytes:
    """What of these bytes says something of the answer: events or lines that are there to their
    end, without comments and ids, and without an error, which is none of the answer's."""
    return b"".join(event for _, event in _events(raw) if not _is_error(event))


def place_after(events: bytes) -> str:
    """The place after so many `whole_events`: their number, and what they hash to."""
    return _named(sum(1 for _ in _events(events)), hashlib.sha256(events))


def wrong_id(raw: bytes) -> str:
    """Which event of a stream has an id that is not its place, and what that is; "": none has."""
    hashed = hashlib.sha256()
    for number, (name, event) in enumerate(_events(raw), 1):
        hashed.update(event)
        if name and name != (place := _named(number, hashed)):
            return f"has an event with the id {name}, whose place is {place}"
    return ""


def _named(count: int, hashed: hashlib._Hash) -> str:
    return f"{count}-{hashed.hexdigest()[:8]}"


def _events(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Each whole event or line, behind its id if it has one."""
    end = b"\n" if raw.startswith(b"{") else b"\n\n"
    *pieces, _ = raw.split(end)
    for piece in pieces:
        name = ""
        lines = []
        for line in piece.split(b"\n"):
            if line.startswith(_ID):
                name = line.removeprefix(_ID).decode()
            elif line and not line.startswith(b":"):
                lines.append(line)
        if lines:
            yield name, b"\n".join(lines) + end


def _is_error(event: bytes) -> bool:
    data = event.removeprefix(b"data: ").strip()
    return data.startswith(b"{") and "error" in msgspec.json.decode(data)
