"""What of snapshots goes between a core and whoever drives it: never a whole state.  Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import msgspec

from meshd.consensus.entries import Point
from meshd.consensus.messages import SnapshotPart
from meshd.ids import NodeId


class Piece(msgspec.Struct, frozen=True):
    """Of a leader's snapshot: to be written aside, behind the one before it."""

    point: Point
    voters: tuple[NodeId, ...]
    size_bytes: int
    """Of the whole state."""
    offset: int
    """0: what was arriving before is given up for this one."""
    data: bytes

    @property
    def is_last(self) -> bool:
        return self.offset + len(self.data) == self.size_bytes


class PartToSend(msgspec.Struct, frozen=True):
    """A part of a durable snapshot, to be read and sent."""

    to: NodeId
    part: SnapshotPart
    """Without its data."""
    size_bytes: int

    @property
    def point(self) -> Point:
        return Point(self.part.snapshot_term, self.part.index)

    def with_data(self, data: bytes) -> SnapshotPart:
        """The message, when the part was read."""
        return msgspec.structs.replace(self.part, data=data, crc32=zlib.crc32(data))


class Taken(msgspec.Struct, frozen=True):
    """The state of one moment, to be made durable while commands go on being applied."""

    point: Point
    voters: tuple[NodeId, ...]
    parts: Iterator[bytes]
    """See `StateMachine.capture`."""
