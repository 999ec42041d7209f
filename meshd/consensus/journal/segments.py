"""Segments: the files of a journal, each of which can be read from its own beginning.  Pure.

`<number of its first block>.log`: a header that says whose it is and where the log stood, then
blocks.  Each block's checksum covers that of the one before, the first one's that of the header,
and the header's that of the last block of the segment before: nothing can be missing in between.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from meshd import limits
from meshd.consensus.entries import Ballot, Point
from meshd.consensus.journal.blocks import (
    Block,
    Flaw,
    crc32c,
    encode_block,
    find_block_after,
    read_block,
)
from meshd.consensus.journal.state import Cursor
from meshd.errors import ProtocolError
from meshd.ids import MeshId, NodeId, is_key_id
from meshd.wire.codec import pack, unpack

MAGIC: Final = b"meshdlog"
VERSION: Final = 1
SALT_BYTES: Final = 8
SUFFIX: Final = ".log"

_start = struct.Struct(">8sHH")  # magic, version, size of the map
_checksum = struct.Struct(">I")
_NAME = re.compile(r"\d{20}\.log\Z")


class NewerVersion(ProtocolError):
    """The file is of a later meshd."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose journal it is: what one node promised counts for no other, and in no other mesh."""

    mesh: MeshId
    node: NodeId


@dataclass(frozen=True, slots=True)
class Header:
    """The beginning of a segment."""

    owner: Owner
    first: int
    """The number of its first block."""
    previous: int
    """The checksum of the block before that, 0 if there never was one."""
    salt: bytes
    """Random, made with the file: no block of another file is taken for one of this."""
    cursor: Cursor
    """Where the log stands before the first block."""

    @property
    def seed(self) -> int:
        """What the checksums of this segment's blocks begin with."""
        return crc32c(self.salt)


@dataclass(frozen=True, slots=True)
class Scan:
    """A segment that was read: its good blocks, and why they end before the file does."""

    header: Header
    blocks: tuple[Block, ...]
    checksum: int
    """That of the last good block, or of the header."""
    end: int
    """The offset behind it."""
    flaw: Flaw | None

    @property
    def next_number(self) -> int:
        """Of the block that would follow."""
        return self.header.first + len(self.blocks)


def segment_name(first: int) -> str:
    """The file of the segment that begins with that block; names sort as numbers do."""
    return f"{first:020d}{SUFFIX}"


def segment_first(name: str) -> int | None:
    """The number of the first block of the segment of that name, None if it is none."""
    return int(name.removesuffix(SUFFIX)) if _NAME.match(name) else None


def encode_header(header: Header) -> tuple[bytes, int]:
    """The first bytes of a segment, and their checksum for its first block."""
    cursor = header.cursor
    body = pack(
        {
            "ballot": [cursor.ballot.term, cursor.ballot.voted_for],
            "base": [cursor.base.term, cursor.base.index],
            "first": header.first,
            "last": cursor.last_index,
            "mesh": header.owner.mesh,
            "node": header.owner.node,
            "previous": header.previous,
            "salt": header.salt,
        }
    )
    head = _start.pack(MAGIC, VERSION, len(body)) + body
    checksum = crc32c(head)
    return head + _checksum.pack(checksum), checksum


def read_header(data: bytes) -> tuple[Header, int, int]:
    """The header at the beginning of a segment, its checksum, and the offset behind it.

    Raises NewerVersion, and ProtocolError with half a sentence for anything that is none.
    """
    if len(data) < _start.size:
        raise ProtocolError("its header is not whole")
    magic, version, size = _start.unpack_from(data, 0)
    if magic != MAGIC:
        raise ProtocolError("it does not begin as a segment of a journal does")
    end = _start.size + size
    if end + _checksum.size > min(len(data), limits.JOURNAL_HEADER_BYTES):
        raise ProtocolError("its header is not whole")
    checksum = crc32c(data[:end])
    if _checksum.unpack_from(data, end) != (checksum,):
        raise ProtocolError("its header does not match its checksum")
    if version != VERSION:
        raise NewerVersion(
            f"it has version {version} of the format, and this meshd reads {VERSION}"
        )
    fields = unpack(data[_start.size : end], max_bytes=limits.JOURNAL_HEADER_BYTES)
    return _to_header(fields), checksum, end + _checksum.size


def _to_header(fields: Any) -> Header:
    try:
        (term, voted_for), (base_term, base_index) = fields["ballot"], fields["base"]
        numbers = (term, base_term, base_index, *(fields[k] for k in ("first", "last", "previous")))
        ids = (fields["mesh"], fields["node"], *([] if voted_for is None else [voted_for]))
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
            raise ValueError
        if not all(isinstance(i, str) and is_key_id(i) for i in ids):
            raise ValueError
        if not isinstance(fields["salt"], bytes) or len(fields["salt"]) != SALT_BYTES:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ProtocolError("its header does not have the fields that it must have") from None
    return Header(
        owner=Owner(MeshId(fields["mesh"]), NodeId(fields["node"])),
        first=fields["first"],
        previous=fields["previous"],
        salt=fields["salt"],
        cursor=Cursor(
            ballot=Ballot(term, voted_for),
            base=Point(base_term, base_index),
            last_index=fields["last"],
        ),
    )


def encode_segment(header: Header, bodies: Iterable[bytes]) -> tuple[bytes, int]:
    """A whole segment, and the checksum of its last block."""
    head, checksum = encode_header(header)
    parts, seed = [head], header.seed
    for number, body in enumerate(bodies, header.first):
        block, checksum = encode_block(number, checksum, seed, body)
        parts.append(block)
    return b"".join(parts), checksum


def scan_segment(data: bytes) -> Scan:
    """Read the good blocks from the beginning on.

    Raises what `read_header` raises.  A flaw that is torn may only be in the last segment, where
    the caller cuts it off; one with good blocks behind it is never torn.
    """
    header, checksum, at = read_header(data)
    seed = header.seed
    blocks: list[Block] = []
    flaw: Flaw | None = None
    number = header.first
    while at < len(data):
        found = read_block(data, at, number, checksum, seed)
        if isinstance(found, Flaw):
            flaw = found
            if found.is_torn and find_block_after(data, at, number, seed) is not None:
                flaw = Flaw(at, f"block {number} is bad and those behind it are good", False)
            break
        blocks.append(found)
        checksum, at, number = found.checksum, found.end, number + 1
    return Scan(header, tuple(blocks), checksum, at, flaw)
