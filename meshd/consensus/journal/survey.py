"""Looking at a journal's folder: what is in it, what counts, what a crash has left.

Nothing is changed here.  `journal.py` opens what was found, `repair.py` reports on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath

from meshd import limits
from meshd.consensus.entries import Rebase, Record, Snapshot, Stored
from meshd.consensus.journal.blocks import OVERHEAD_BYTES, Block
from meshd.consensus.journal.errors import JournalDamaged, JournalForeign, JournalNewer
from meshd.consensus.journal.records import decode_records
from meshd.consensus.journal.segments import (
    Header,
    NewerVersion,
    Owner,
    Scan,
    read_header,
    scan_segment,
    segment_first,
    segment_name,
)
from meshd.consensus.journal.snapshot_file import snapshot_index
from meshd.consensus.journal.snapshots import ASIDE_SUFFIX, Snapshots
from meshd.consensus.journal.state import Cursor, LogState
from meshd.errors import ProtocolError
from meshd.ids import short
from meshd.ports import Disk

_SEGMENT_MAX_BYTES = (
    limits.JOURNAL_SEGMENT_BYTES
    + limits.JOURNAL_BLOCK_BYTES
    + limits.JOURNAL_HEADER_BYTES
    + OVERHEAD_BYTES
)


@dataclass(frozen=True, slots=True)
class Cut:
    """What a crash in the middle of a write has left at the end: it was never acknowledged."""

    file: PurePath
    offset: int
    size_bytes: int
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.file}: {self.size_bytes} bytes at the end, from byte {self.offset} on, are of "
            f"a write that was not finished ({self.reason})"
        )


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of a journal by name; others are nobody's business here."""

    segments: tuple[int, ...]
    """Numbers of their first blocks, ascending."""
    snapshots: tuple[int, ...]
    """Their indexes, ascending."""
    aside: tuple[str, ...]
    """Files that were being written in an earlier life."""


@dataclass(slots=True)
class Survey:
    """A journal that may be gone on with."""

    folder: Folder
    needed: list[Header]
    """Of the segments that count, in order; empty: there is no journal yet."""
    last: Scan | None
    """The one that is to be continued."""
    stored: Stored
    state: LogState
    cut: Cut | None = None
    obsolete: list[str] = field(default_factory=list)
    """Segments and snapshots that a later snapshot stands for, and those that were never used."""


def look_into(disk: Disk, folder: PurePath) -> Folder:
    """What is there.  Raises DiskFailed."""
    names = disk.names(folder)
    return Folder(
        segments=tuple(sorted(n for name in names if (n := segment_first(name)) is not None)),
        snapshots=tuple(sorted(n for name in names if (n := snapshot_index(name)) is not None)),
        aside=tuple(name for name in names if name.endswith(ASIDE_SUFFIX)),
    )


def survey(disk: Disk, folder: PurePath, owner: Owner, snapshots: Snapshots) -> Survey:
    """Read all that counts and check it.  Raises JournalUnusable, DiskFailed."""
    found = look_into(disk, folder)
    if not found.segments:
        if found.snapshots:
            path = snapshots.path(found.snapshots[-1])
            raise JournalDamaged(path, "there is a snapshot and no log that leads to it")
        state = LogState(Cursor())
        return Survey(found, [], None, _stored(state, None), state)
    last = scan_file(disk, folder, found.segments[-1])
    _require_owner(folder, last.header, owner)
    cut = _cut_of(disk, folder, last)
    base_index = _base_index(folder, last)
    needed = _needed(disk, folder, found.segments, last.header, base_index)
    for header in needed:
        _require_owner(folder, header, owner)
    state = LogState(needed[0].cursor)
    before: Scan | None = None
    for header in needed:
        scan = last if header is last.header else scan_file(disk, folder, header.first)
        _apply(folder, scan, before, state, is_last=scan is last)
        before = scan
    if state.missing:
        raise JournalDamaged(
            folder / segment_name(needed[0].first),
            f"the segments with the entries {state.missing[0]} to {state.missing[-1]} are missing",
        )
    base = state.cursor.base
    snapshot = snapshots.load(base) if base.index else None
    obsolete = [segment_name(n) for n in found.segments if n < needed[0].first]
    obsolete += [snapshots.path(n).name for n in found.snapshots if n != base.index]
    return Survey(found, needed, last, _stored(state, snapshot), state, cut, obsolete)


def scan_file(disk: Disk, folder: PurePath, first: int) -> Scan:
    """Read a segment.  Raises JournalUnusable, DiskFailed."""
    path = folder / segment_name(first)
    size = disk.size(path) or 0
    if size > _SEGMENT_MAX_BYTES:
        raise JournalDamaged(path, f"it has {size} bytes, more than a segment can have")
    try:
        scan = scan_segment(disk.read(path) or b"")
    except NewerVersion as error:
        raise JournalNewer(path, str(error)) from error
    except ProtocolError as error:
        raise JournalDamaged(path, str(error).rstrip(".")) from error
    if scan.header.first != first:
        raise JournalDamaged(path, f"it begins with block {scan.header.first}, not with {first}")
    return scan


def block_records(path: PurePath, block: Block) -> list[Record]:
    """The records of a good block.  Raises JournalDamaged."""
    try:
        return decode_records(block.body)
    except ProtocolError as error:
        raise JournalDamaged(path, f"block {block.number}: {str(error).rstrip('.')}") from error


def needed_from(headers: list[Header], base_index: int) -> int:
    """The position of the first segment that counts when a snapshot stands for all up to there.

    Where a segment begins at or before the snapshot, whatever is after the snapshot was written in
    it or later.  0 if there is no such segment.
    """
    for position in range(len(headers) - 1, 0, -1):
        if headers[position].cursor.last_index <= base_index:
            return position
    return 0


def _needed(
    disk: Disk, folder: PurePath, segments: tuple[int, ...], last: Header, base_index: int
) -> list[Header]:
    """Headers of those that count.  Older ones are not even looked at: they may be half deleted."""
    headers = [last]
    for first in reversed(segments[:-1]):
        if headers[0].cursor.last_index <= base_index:
            break
        headers.insert(0, _header(disk, folder, first))
    return headers


def _header(disk: Disk, folder: PurePath, first: int) -> Header:
    path = folder / segment_name(first)
    try:
        return read_header(disk.read_part(path, 0, limits.JOURNAL_HEADER_BYTES) or b"")[0]
    except NewerVersion as error:
        raise JournalNewer(path, str(error)) from error
    except ProtocolError as error:
        raise JournalDamaged(path, str(error).rstrip(".")) from error


def _base_index(folder: PurePath, last: Scan) -> int:
    """Up to where a snapshot stands for the log, at the end of it."""
    path = folder / segment_name(last.header.first)
    for block in reversed(last.blocks):
        for record in reversed(block_records(path, block)):
            if isinstance(record, Rebase):
                return record.point.index
    return last.header.cursor.base.index


def _apply(
    folder: PurePath, scan: Scan, before: Scan | None, state: LogState, *, is_last: bool
) -> None:
    """Go on with the segment that follows what was read before."""
    path = folder / segment_name(scan.header.first)
    if before is not None and (scan.header.first, scan.header.previous) != (
        before.next_number,
        before.checksum,
    ):
        raise JournalDamaged(path, "it does not follow the segment before it")
    if scan.flaw is not None and not (is_last and scan.flaw.is_torn):
        raise JournalDamaged(path, f"at byte {scan.flaw.offset}, {scan.flaw.reason}")
    if scan.header.cursor != state.cursor:
        raise JournalDamaged(path, "its header and the blocks before it do not agree")
    for block in scan.blocks:
        for record in block_records(path, block):
            try:
                state.apply(record)
            except ValueError as error:
                raise JournalDamaged(path, f"block {block.number}: {error}") from error


def _cut_of(disk: Disk, folder: PurePath, last: Scan) -> Cut | None:
    if last.flaw is None or not last.flaw.is_torn:
        return None
    path = folder / segment_name(last.header.first)
    return Cut(path, last.end, (disk.size(path) or 0) - last.end, last.flaw.reason)


def _require_owner(folder: PurePath, header: Header, owner: Owner) -> None:
    path = folder / segment_name(header.first)
    if header.owner.mesh != owner.mesh:
        whose = f"the mesh {short(header.owner.mesh)}, and this is {short(owner.mesh)}"
        raise JournalForeign(path, f"it is a journal of {whose}")
    if header.owner.node != owner.node:
        whose = f"the node {short(header.owner.node)}, and this is {short(owner.node)}"
        raise JournalForeign(path, f"it is the journal of {whose}")


def _stored(state: LogState, snapshot: Snapshot | None) -> Stored:
    return Stored(state.cursor.ballot, snapshot, tuple(state.entries))
