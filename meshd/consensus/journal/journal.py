"""The journal of one node: what it must not forget, on disk before anybody is told.

    opened = open_journal(disk, folder, owner, entropy)     # what was stored, and what was cut
    opened.journal.write(records)                           # returns when they are durable

One write is one block and one sync, whatever number of records it has: the caller gathers what has
come together meanwhile (group commit).  Calls block; make them where that does no harm, inline on a
fast disk or in a worker thread on a slow one (`probe_sync_s` tells), one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import PurePath

from meshd import limits
from meshd.consensus.entries import Point, Rebase, Record, Stored
from meshd.consensus.journal.blocks import encode_block
from meshd.consensus.journal.errors import JournalFailed
from meshd.consensus.journal.records import decode_records, encode_records
from meshd.consensus.journal.segments import (
    SALT_BYTES,
    Header,
    Owner,
    encode_segment,
    segment_name,
)
from meshd.consensus.journal.snapshots import ASIDE_SUFFIX, Snapshots
from meshd.consensus.journal.state import Cursor
from meshd.consensus.journal.survey import Cut, Survey, needed_from, survey
from meshd.errors import DiskFailed
from meshd.ports import AppendFile, Disk, Entropy

_PROBE_BYTES = 512
_PROBE_ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Opened:
    """A journal that is ready, and what is to be said of it."""

    journal: Journal
    stored: Stored
    is_new: bool
    """There was none.  A node that had one must not go on as if it had never promised anything."""
    cut: Cut | None
    """A write that a crash had broken off; log it."""
    swept: tuple[str, ...]
    """Files of earlier lives that were deleted; log them."""


class Journal:
    """An open journal.  Make it with `open_journal`."""

    def __init__(
        self,
        disk: Disk,
        folder: PurePath,
        entropy: Entropy,
        snapshots: Snapshots,
        segment_bytes: int,
    ) -> None:
        self.snapshots = snapshots
        """Where snapshots are written before the `Rebase` that names them."""
        self._disk = disk
        self._folder = folder
        self._entropy = entropy
        self._segment_bytes = segment_bytes
        self._failed: str | None = None
        self._headers: list[Header] = []
        """Of the segments that are there, in order; the last one is being written."""
        self._file: AppendFile | None = None
        self._next_number = 1
        self._checksum = 0
        """Of the last block, or of the header if there is none behind it."""
        self._cursor = Cursor()

    @property
    def failed(self) -> str | None:
        """Why it takes nothing any more; None while all is well."""
        return self._failed

    @property
    def cursor(self) -> Cursor:
        """Where the log stands, as far as it is durable."""
        return self._cursor

    def write(self, records: Sequence[Record]) -> None:
        """Make the records durable, in their order.  When it returns, they may be spoken of.

        Raises JournalFailed, at once and ever after, if they are not known to be durable: they may
        be there or not when the journal is opened again, a beginning of them at least in order.
        Raises ValueError, with nothing written and no harm done, for records that cannot follow
        what is there, and for a Rebase to a snapshot that is not durable.
        """
        cursor = self._cursor
        for record in records:
            cursor = cursor.after(record)
            if isinstance(record, Rebase) and not self._is_durable(record):
                raise ValueError(f"there is no durable snapshot of {record.point}")
        bodies = encode_records(records)
        self._require_usable()
        try:
            for body in bodies:
                self._write_block(body)
                # Where a write takes several blocks, the next may begin a segment.
                self._cursor = cursor if len(bodies) == 1 else _after(self._cursor, body)
        except DiskFailed as error:
            self._failed = f"The journal takes nothing any more: {error}."
            raise JournalFailed(self._failed) from error
        except BaseException:  # also an interrupt: half a block may be there; raised again
            self._failed = "The journal takes nothing any more: a write was broken off."
            raise

    def compact(self, keep: Collection[Point] = ()) -> list[str]:
        """Delete the segments and snapshots that the snapshot of the last Rebase stands for.

        Snapshots of the places `keep` stay: somebody still reads them.
        Returns their names.  Raises DiskFailed; what is left is deleted the next time, or when the
        journal is opened, and does no harm until then.
        """
        self._require_usable()
        deleted = []
        for _ in range(needed_from(self._headers, self._cursor.base.index)):
            name = segment_name(self._headers[0].first)
            self._disk.delete(self._folder / name)
            deleted.append(name)
            del self._headers[0]
        for point in sorted(self.snapshots.durable):
            if point.index < self._cursor.base.index and point not in keep:
                self.snapshots.forget(point)
                deleted.append(self.snapshots.path(point.index).name)
        return deleted

    def close(self) -> None:
        """Let go of the file; nothing is waiting to be written.  Idempotent."""
        self._failed = self._failed or "The journal is closed."
        if self._file is not None:
            self._file.close()
            self._file = None

    def _require_usable(self) -> None:
        if self._failed is not None:
            raise JournalFailed(self._failed)

    def _is_durable(self, record: Rebase) -> bool:
        return record.point in self.snapshots.durable or record.point == self._cursor.base

    def _write_block(self, body: bytes) -> None:
        """One block, which is durable before there is another."""
        active = self._headers[-1]
        assert self._file is not None
        if self._file.size_bytes >= self._segment_bytes and self._next_number > active.first:
            active = self._begin_segment(
                replace(
                    active,
                    first=self._next_number,
                    previous=self._checksum,
                    cursor=self._cursor,
                )
            )
        block, checksum = encode_block(self._next_number, self._checksum, active.seed, body)
        self._file.append(block)
        self._file.sync()
        self._next_number += 1
        self._checksum = checksum

    def _begin_segment(self, header: Header, bodies: Sequence[bytes] = ()) -> Header:
        """Go on in a new file, which takes the place of one of that name, if there is one."""
        header = replace(header, salt=self._entropy.token(SALT_BYTES))
        data, checksum = encode_segment(header, bodies)
        name = segment_name(header.first)
        aside = self._folder / (name + ASIDE_SUFFIX)
        file = self._disk.create(aside)
        try:
            file.append(data)
            file.sync()
            self._disk.rename(aside, self._folder / name)
        except DiskFailed:
            file.close()
            with suppress(DiskFailed):
                self._disk.delete(aside)  # a full disk has better use for it
            raise
        if self._file is not None:
            self._file.close()
        self._file = file
        self._headers.append(header)
        self._next_number = header.first + len(bodies)
        self._checksum = checksum
        return header

    def _start(self, owner: Owner, found: Survey) -> None:
        """Write the last segment anew, without what a crash left behind its last good block.

        Also if nothing is to be cut: a process that died may have left blocks that were written
        and not synced, or that a sync failed on.  They were read just now, and need not be on the
        medium; what is counted as stored from here on has to be.
        """
        self._cursor = found.state.cursor
        if found.last is None:
            self._begin_segment(Header(owner, 1, 0, b"", Cursor()))
        else:
            self._headers = found.needed[:-1]
            self._begin_segment(found.last.header, [block.body for block in found.last.blocks])


def open_journal(
    disk: Disk,
    folder: PurePath,
    owner: Owner,
    entropy: Entropy,
    *,
    segment_bytes: int = limits.JOURNAL_SEGMENT_BYTES,
) -> Opened:
    """Open the journal in that folder; make it if there is none.

    Raises JournalUnusable with nothing changed if it is damaged, or not that owner's.  Raises
    DiskFailed; then it may be tried again.
    """
    snapshots = Snapshots(disk, folder, owner.mesh)
    found = survey(disk, folder, owner, snapshots)
    disk.folder(folder)
    swept = [*found.folder.aside, *found.obsolete]
    for name in found.folder.aside:
        disk.delete(folder / name)
    journal = Journal(disk, folder, entropy, snapshots, segment_bytes)
    journal._start(owner, found)
    # Only now is durable what makes these obsolete.
    for name in found.obsolete:
        disk.delete(folder / name)
    return Opened(journal, found.stored, found.last is None, found.cut, tuple(swept))


def probe_sync_s(disk: Disk, folder: PurePath, now: Callable[[], float]) -> float:
    """What one sync of a small write costs on that disk: the median of a few, in seconds.

    Takes that many syncs; `now` is a monotonic clock.  Raises DiskFailed.
    """
    path = folder / f"probe{ASIDE_SUFFIX}"
    disk.delete(path)
    file = disk.create(path)
    took = []
    try:
        for _ in range(_PROBE_ROUNDS):
            begun = now()
            file.append(bytes(_PROBE_BYTES))
            file.sync()
            took.append(now() - begun)
    finally:
        file.close()
        with suppress(DiskFailed):
            disk.delete(path)
    return sorted(took)[_PROBE_ROUNDS // 2]


def _after(cursor: Cursor, body: bytes) -> Cursor:
    for record in decode_records(body):
        cursor = cursor.after(record)
    return cursor
