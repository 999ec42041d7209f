"""Records as bytes: the body of a block (proto/journal.md).  Pure.

Fixed fields, big-endian, and no general format: a body is read only after its checksum, so what is
in it is what was written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from meshd import limits
from meshd.consensus.entries import (
    Append,
    Ballot,
    Entry,
    EntryKind,
    Point,
    Rebase,
    Record,
    Truncate,
)
from meshd.errors import ProtocolError
from meshd.ids import NodeId

_ENTRY: Final = 1
_BALLOT: Final = 2
_TRUNCATE: Final = 3
_REBASE: Final = 4

_entry = struct.Struct(">BQQBI")  # tag, index, term, kind, size of the data behind it
_ballot = struct.Struct(">BQB")  # tag, term, size of the name behind it (0: no vote)
_truncate = struct.Struct(">BQ")  # tag, first index
_rebase = struct.Struct(">BQQB")  # tag, term, index, keep_after

_KINDS: Final = {int(kind): kind for kind in EntryKind}


def encode_records(records: Iterable[Record]) -> list[bytes]:
    """The bodies of blocks that hold these records, in their order; mostly it is one.

    None is over `limits.JOURNAL_BLOCK_BYTES`.  Raises ValueError for an entry over
    `limits.JOURNAL_ENTRY_BYTES`.
    """
    bodies: list[bytes] = []
    parts: list[bytes] = []
    size = 0
    for part in _parts(records):
        if size + len(part) > limits.JOURNAL_BLOCK_BYTES:
            bodies.append(b"".join(parts))
            parts, size = [], 0
        parts.append(part)
        size += len(part)
    if parts:
        bodies.append(b"".join(parts))
    return bodies


def _parts(records: Iterable[Record]) -> Iterable[bytes]:
    for record in records:
        match record:
            case Append(entries):
                for index, term, kind, data in _fields(entries):
                    yield _entry.pack(_ENTRY, index, term, kind, len(data)) + data
            case Ballot(term, voted_for):
                name = (voted_for or "").encode()
                yield _ballot.pack(_BALLOT, term, len(name)) + name
            case Truncate(first_index):
                yield _truncate.pack(_TRUNCATE, first_index)
            case Rebase(point, keep_after):
                yield _rebase.pack(_REBASE, point.term, point.index, keep_after)


def _fields(entries: Sequence[Entry]) -> Iterable[tuple[int, int, EntryKind, bytes]]:
    for entry in entries:
        if len(entry.data) > limits.JOURNAL_ENTRY_BYTES:
            raise ValueError(
                f"entry {entry.index} has {len(entry.data)} bytes, "
                f"more than the {limits.JOURNAL_ENTRY_BYTES} that fit"
            )
        yield entry.index, entry.term, entry.kind, entry.data


def decode_records(body: bytes) -> list[Record]:
    """The records of a body whose checksum is right; entries that follow each other in one Append.

    Raises ProtocolError for anything but whole records of known kinds: a later version's.
    """
    records: list[Record] = []
    entries: list[Entry] = []
    at, end = 0, len(body)
    try:
        while at < end:
            tag = body[at]
            if tag == _ENTRY:
                _, index, term, kind, size = _entry.unpack_from(body, at)
                at += _entry.size + size
                entries.append(Entry(index, term, _KINDS[kind], body[at - size : at]))
                continue
            if entries:
                records.append(Append(tuple(entries)))
                entries = []
            if tag == _BALLOT:
                _, term, size = _ballot.unpack_from(body, at)
                at += _ballot.size + size
                voted_for = body[at - size : at].decode("ascii")
                records.append(Ballot(term, NodeId(voted_for) if voted_for else None))
            elif tag == _TRUNCATE:
                records.append(Truncate(_truncate.unpack_from(body, at)[1]))
                at += _truncate.size
            elif tag == _REBASE:
                _, term, index, keep_after = _rebase.unpack_from(body, at)
                records.append(Rebase(Point(term, index), bool(keep_after)))
                at += _rebase.size
            else:
                raise ProtocolError(f"A block has a record of unknown type {tag}.")
    except KeyError as error:
        raise ProtocolError(f"A block has an entry of unknown kind {error}.") from None
    except (struct.error, UnicodeDecodeError):
        raise ProtocolError("A block has a record that is cut.") from None
    if at != end:
        raise ProtocolError("A block has a record that is cut.")
    if entries:
        records.append(Append(tuple(entries)))
    return records
