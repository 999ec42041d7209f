"""Snapshots on disk: written aside a piece at a time, read back in parts.

They count for nothing until the journal has a `Rebase` to their place: what is found beyond that
when a journal is opened was left by a crash, and goes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from errno import ENOENT
from pathlib import PurePath
from typing import Final

from meshd import limits
from meshd.consensus.entries import Point, Snapshot
from meshd.consensus.journal.errors import JournalDamaged, JournalForeign, JournalNewer
from meshd.consensus.journal.segments import NewerVersion
from meshd.consensus.journal.snapshot_file import (
    TRAILER_BYTES,
    SnapshotHead,
    encode_head,
    encode_size,
    read_head,
    read_trailer,
    snapshot_name,
)
from meshd.errors import DiskFailed, LimitExceeded, ProtocolError
from meshd.ids import MeshId, NodeId, short
from meshd.ports import AppendFile, Disk

_READ_BYTES: Final = 1 * limits.MIB

ASIDE_SUFFIX = ".new"
"""Of files that are still being written; those of earlier lives are deleted."""


class SnapshotWriter:
    """A snapshot that is being written; `commit` or `abort` it."""

    def __init__(self, snapshots: Snapshots, head: SnapshotHead, aside: PurePath) -> None:
        beginning = encode_head(head)
        self._snapshots = snapshots
        self._head = head
        self._aside = aside
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._file: AppendFile | None = snapshots.disk.create(aside)
        self._state_offset = len(beginning)
        self._add(beginning)

    @property
    def size_bytes(self) -> int:
        """Of the state so far: where the next piece belongs."""
        return self._size_bytes

    def write(self, piece: bytes) -> None:
        """Add to the state.  Raises DiskFailed, LimitExceeded; then it is aborted."""
        if self._size_bytes + len(piece) > limits.RAFT_SNAPSHOT_BYTES:
            self.abort()
            raise LimitExceeded(
                f"A snapshot is over the limit of {limits.RAFT_SNAPSHOT_BYTES} bytes."
            )
        self._add(piece)
        self._size_bytes += len(piece)

    def commit(self, digest: bytes | None = None) -> Snapshot:
        """Make it durable under its name.

        `digest` is what another node's has: raises ProtocolError if this one differs.  Raises
        DiskFailed.  After either it is aborted, and what was there before is unchanged.
        """
        self._add(encode_size(self._size_bytes))
        found = self._hash.digest()
        if digest is not None and digest != found:
            self.abort()
            raise ProtocolError(
                f"A snapshot of entry {self._head.point.index} arrived with a wrong checksum."
            )
        self._add(found)
        file, target = self._open_file(), self._snapshots.path(self._head.point.index)
        try:
            file.sync()
            file.close()
            self._snapshots.disk.rename(self._aside, target)
        except DiskFailed:
            self.abort()
            raise
        self._file = None
        snapshot = Snapshot(self._head.point, self._head.voters, self._size_bytes, found)
        self._snapshots.note(snapshot, self._state_offset)
        return snapshot

    def abort(self) -> None:
        """Leave nothing of it, as far as the disk allows; idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
            with suppress(DiskFailed):
                self._snapshots.disk.delete(self._aside)

    def _add(self, data: bytes) -> None:
        try:
            self._open_file().append(data)
        except DiskFailed:
            self.abort()
            raise
        self._hash.update(data)

    def _open_file(self) -> AppendFile:
        if self._file is None:
            raise ValueError("this snapshot was committed or aborted")
        return self._file


class Snapshots:
    """The snapshots of one journal's folder.

    May be used in other threads than the journal, and by several: each writer by one.
    """

    def __init__(self, disk: Disk, folder: PurePath, mesh: MeshId) -> None:
        self.disk = disk
        self.folder = folder
        self.mesh = mesh
        self.durable: dict[Point, Snapshot] = {}
        self._offsets: dict[Point, int] = {}
        """Where the state begins in the file."""
        self._numbers = itertools.count(1)

    def path(self, index: int) -> PurePath:
        return self.folder / snapshot_name(index)

    def begin(self, point: Point, voters: Iterable[NodeId]) -> SnapshotWriter:
        """Begin to write the snapshot of the state after `point`.

        Raises DiskFailed, and ValueError for more voters than there can be.
        """
        head = SnapshotHead(self.mesh, point, tuple(voters))
        aside = self.folder / f"snapshot-{next(self._numbers)}{ASIDE_SUFFIX}"
        return SnapshotWriter(self, head, aside)

    def save(self, point: Point, voters: Iterable[NodeId], state: Iterable[bytes]) -> Snapshot:
        """Make a state durable, piece by piece as it comes.

        Raises DiskFailed, LimitExceeded, and what `state` raises: then nothing of it is left.
        """
        writer = self.begin(point, voters)
        try:
            for piece in state:
                writer.write(piece)
            return writer.commit()
        finally:
            writer.abort()  # unless it was committed

    def note(self, snapshot: Snapshot, state_offset: int) -> None:
        """It is durable, and its state begins there in its file."""
        self.durable[snapshot.point] = snapshot
        self._offsets[snapshot.point] = state_offset

    def part(self, point: Point, offset: int, size_bytes: int) -> bytes | None:
        """A piece of the state, at most `limits.RAFT_CHUNK_BYTES`; b"" behind its end.

        None if there is no such snapshot any more: begin with the latest.  Raises DiskFailed.
        """
        snapshot = self.durable.get(point)
        if snapshot is None:
            return None
        size_bytes = min(size_bytes, limits.RAFT_CHUNK_BYTES, max(0, snapshot.size_bytes - offset))
        begin = self._offsets[point] + offset
        return self.disk.read_part(self.path(point.index), begin, size_bytes)

    def state(self, point: Point) -> Iterator[bytes]:
        """A durable snapshot's state in pieces, each read when it is asked for.

        Raises DiskFailed, also if the snapshot goes meanwhile.
        """
        offset = 0
        while piece := self.part(point, offset, limits.RAFT_CHUNK_BYTES):
            yield piece
            offset += len(piece)
        known = self.durable.get(point)
        if known is None or offset != known.size_bytes:
            raise DiskFailed(ENOENT, f"{self.path(point.index)} went while it was read")

    def load(self, point: Point) -> Snapshot:
        """Look for it and check the whole of it.  Raises JournalUnusable, DiskFailed."""
        path = self.path(point.index)
        snapshot = self.check(point.index)
        if snapshot.point != point:
            raise JournalDamaged(path, "it is not of the place that it should be of")
        return snapshot

    def check(self, index: int) -> Snapshot:
        """The same for whatever place of that index it is of."""
        path = self.path(index)
        head, head_bytes, size_bytes, expected = _read_ends(self.disk, path)
        if head.mesh != self.mesh:
            raise JournalForeign(
                path, f"it is of the mesh {short(head.mesh)}, and this is {short(self.mesh)}"
            )
        if head.point.index != index:
            raise JournalDamaged(path, "it is not of the place that its name says")
        offset = len(head_bytes)
        snapshot = Snapshot(head.point, head.voters, size_bytes, expected)
        digest = hashlib.sha256(head_bytes)
        for at in range(0, size_bytes, _READ_BYTES):
            size = min(_READ_BYTES, size_bytes - at)
            digest.update(self.disk.read_part(path, offset + at, size) or b"")
        digest.update(encode_size(size_bytes))
        if digest.digest() != expected:
            raise JournalDamaged(path, "it does not match its checksum")
        self.note(snapshot, offset)
        return snapshot

    def forget(self, point: Point) -> None:
        """Delete a snapshot.  Raises DiskFailed."""
        self.durable.pop(point, None)
        self._offsets.pop(point, None)
        self.disk.delete(self.path(point.index))


def _read_ends(disk: Disk, path: PurePath) -> tuple[SnapshotHead, bytes, int, bytes]:
    """Head, the bytes that it was read from, size of the state, and hash.

    Raises JournalUnusable, DiskFailed.
    """
    size = disk.size(path)
    if size is None:
        raise JournalDamaged(path, "it is missing")
    try:
        if size > limits.RAFT_SNAPSHOT_BYTES + limits.JOURNAL_HEADER_BYTES + TRAILER_BYTES:
            raise ProtocolError("it is larger than a snapshot can be")
        beginning = disk.read_part(path, 0, limits.JOURNAL_HEADER_BYTES) or b""
        head, offset = read_head(beginning)
        state_bytes = size - offset - TRAILER_BYTES
        if state_bytes < 0:
            raise ProtocolError("it is not whole")
        trailer = disk.read_part(path, size - TRAILER_BYTES, TRAILER_BYTES) or b""
        said, digest = read_trailer(trailer)
        if said != state_bytes:
            raise ProtocolError("it is not as long as it says")
    except NewerVersion as error:
        raise JournalNewer(path, str(error)) from error
    except ProtocolError as error:
        raise JournalDamaged(path, str(error).rstrip(".")) from error
    return head, beginning[:offset], state_bytes, digest
