"""Backups of the record: a snapshot file (proto/journal.md), written and read whole.  Pure.

The same form as the snapshots in a journal, so that one of those can stand in for a backup that
nobody made.  Who keeps a backup keeps what the record holds of secrets: what join tokens are proven
with, and the hashes of API keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from meshd import limits
from meshd.consensus.entries import Point
from meshd.consensus.journal.segments import NewerVersion
from meshd.consensus.journal.snapshot_file import (
    TRAILER_BYTES,
    SnapshotHead,
    encode_head,
    encode_size,
    read_head,
    read_trailer,
)
from meshd.errors import MeshdError, ProtocolError
from meshd.ids import MeshId, NodeId, short
from meshd.record.frozen import FrozenState
from meshd.record.state import RecordState

BACKUP_BYTES: Final = limits.RAFT_SNAPSHOT_BYTES + limits.JOURNAL_HEADER_BYTES + TRAILER_BYTES

_PIECE_BYTES: Final = 64 * limits.KIB
_TERMS: Final = 2**52


class BackupUnusable(MeshdError):
    """What was given as a backup is none, not whole, or not for this mesh or this meshd."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was read and checked whole."""

    mesh: MeshId
    point: Point
    """The place in the log that it is of."""
    voters: tuple[NodeId, ...]
    """Who had a vote then."""
    frozen: bytes
    state: RecordState
    """What `frozen` is of."""


def pieces(
    mesh: MeshId, point: Point, voters: Sequence[NodeId], frozen: FrozenState
) -> Iterator[bytes]:
    """The bytes of a backup, a millisecond or so between two items."""
    digest, size_bytes = hashlib.sha256(), 0
    waiting = bytearray(encode_head(SnapshotHead(mesh, point, tuple(voters))))
    for part in frozen.parts():
        size_bytes += len(part)
        waiting += part
        if len(waiting) >= _PIECE_BYTES:
            digest.update(waiting)
            yield bytes(waiting)
            waiting.clear()
    waiting += encode_size(size_bytes)
    digest.update(waiting)
    yield bytes(waiting + digest.digest())


def read_backup(data: bytes, mesh: MeshId | None = None) -> Backup:
    """Read a backup and check all of it: checksum, state, invariants.

    `mesh` is the one that it has to be of.  Raises BackupUnusable with half a sentence that says
    what is wrong with the file.
    """
    head, frozen = _take_apart(data)
    if mesh is not None and head.mesh != mesh:
        raise BackupUnusable(f"it is of the mesh {short(head.mesh)}, and this is {short(mesh)}")
    if not head.point.index or not 0 < head.point.term < _TERMS:
        raise BackupUnusable("it is of no place that a log can have")
    state = RecordState()
    try:
        state.restore(frozen)
        state.check()
    except MeshdError as error:
        raise BackupUnusable(_lower(str(error))) from error
    except AssertionError as error:
        raise BackupUnusable("what is in it cannot be a record: it contradicts itself") from error
    if not state.nodes.is_founded:
        raise BackupUnusable("the record in it was not founded yet: there is nothing in it")
    if state.nodes.mesh.mesh != head.mesh:
        raise BackupUnusable("the record in it is of another mesh than its head says")
    if state.index > head.point.index:
        raise BackupUnusable("the record in it is of a later place than its head says")
    return Backup(head.mesh, head.point, head.voters, frozen, state)


def _take_apart(data: bytes) -> tuple[SnapshotHead, bytes]:
    """Head and state.  Raises BackupUnusable."""
    if len(data) > BACKUP_BYTES:
        raise BackupUnusable("it is larger than a backup can be")
    try:
        head, offset = read_head(data[: limits.JOURNAL_HEADER_BYTES])
    except NewerVersion as error:
        raise BackupUnusable(f"{error}: update this meshd") from error
    except ProtocolError as error:
        raise BackupUnusable(_lower(str(error))) from error
    end = len(data) - TRAILER_BYTES
    if end < offset:
        raise BackupUnusable("it is not whole")
    size_bytes, digest = read_trailer(data[end:])
    if size_bytes != end - offset:
        raise BackupUnusable("it is not whole")
    if hashlib.sha256(memoryview(data)[: len(data) - len(digest)]).digest() != digest:
        raise BackupUnusable("it does not match its checksum")
    return head, data[offset:end]


def _lower(sentence: str) -> str:
    """A sentence as the end of another."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")
