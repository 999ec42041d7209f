"""Snapshots as bytes: a head, the state, and a trailer with the hash of all of it.  Pure.

The file is the same on every node, so that what is sent to a follower, in chunks, is the file, and
the hash that its maker wrote is checked where it arrives.
"""

from __future__ import annotations

import re
import struct
from typing import Any, Final, NamedTuple

from meshd import limits
from meshd.consensus.entries import Point
from meshd.consensus.journal.segments import NewerVersion
from meshd.errors import ProtocolError
from meshd.ids import MeshId, NodeId, is_key_id
from meshd.wire.codec import pack, unpack

MAGIC: Final = b"meshsnap"
VERSION: Final = 1
SUFFIX: Final = ".snapshot"

_start = struct.Struct(">8sHH")  # magic, version, size of the map
_trailer = struct.Struct(">Q32s")  # size of the state, SHA-256 of all that is before the hash
_size = struct.Struct(">Q")
TRAILER_BYTES: Final = _trailer.size
_NAME = re.compile(r"\d{20}\.snapshot\Z")


class SnapshotHead(NamedTuple):
    """What precedes the state."""

    mesh: MeshId
    point: Point
    voters: tuple[NodeId, ...]


def snapshot_name(index: int) -> str:
    """The file of the snapshot after that entry; names sort as indexes do."""
    return f"{index:020d}{SUFFIX}"


def snapshot_index(name: str) -> int | None:
    """The index of the snapshot of that name, None if it is none."""
    return int(name.removesuffix(SUFFIX)) if _NAME.match(name) else None


def encode_head(head: SnapshotHead) -> bytes:
    """The bytes before the state.  Raises ValueError for more voters than there can be."""
    body = pack(
        {
            "index": head.point.index,
            "mesh": head.mesh,
            "term": head.point.term,
            "voters": list(head.voters),
        }
    )
    if _start.size + len(body) > limits.JOURNAL_HEADER_BYTES:
        raise ValueError(f"{len(head.voters)} voters do not fit into the head of a snapshot")
    return _start.pack(MAGIC, VERSION, len(body)) + body


def read_head(data: bytes) -> tuple[SnapshotHead, int]:
    """The head at the beginning of a snapshot, and the offset behind it.

    Raises NewerVersion, and ProtocolError with half a sentence for anything that is none.
    """
    if len(data) < _start.size:
        raise ProtocolError("its head is not whole")
    magic, version, size = _start.unpack_from(data, 0)
    if magic != MAGIC:
        raise ProtocolError("it does not begin as a snapshot does")
    if version != VERSION:
        raise NewerVersion(
            f"it has version {version} of the format, and this meshd reads {VERSION}"
        )
    end = _start.size + size
    if end > min(len(data), limits.JOURNAL_HEADER_BYTES):
        raise ProtocolError("its head is not whole")
    return _to_head(unpack(data[_start.size : end], max_bytes=limits.JOURNAL_HEADER_BYTES)), end


def _to_head(fields: Any) -> SnapshotHead:
    try:
        mesh, term, index = fields["mesh"], fields["term"], fields["index"]
        ids = (mesh, *fields["voters"])
        if not all(
            isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (term, index)
        ):
            raise ValueError
        if not all(isinstance(i, str) and is_key_id(i) for i in ids):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ProtocolError("its head does not have the fields that it must have") from None
    voters = tuple(NodeId(voter) for voter in fields["voters"])
    return SnapshotHead(MeshId(mesh), Point(term, index), voters)


def encode_size(size_bytes: int) -> bytes:
    """The beginning of the trailer, which the hash covers as well; the hash follows."""
    return _size.pack(size_bytes)


def read_trailer(data: bytes) -> tuple[int, bytes]:
    """The size of the state and the hash, of the last `TRAILER_BYTES`."""
    size, digest = _trailer.unpack(data)
    return size, digest
