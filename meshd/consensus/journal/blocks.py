"""Blocks: what one sync made durable, so that it can be told from what a crash left.  Pure.

A block is written only after the one before it is durable.  So a bad block with a good one behind
it was durable once and is damaged; only the last one may be torn.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import google_crc32c

from meshd import limits

MAGIC: Final = b"MBLK"
SECTOR_BYTES: Final = 512
"""What a disk writes whole or not at all; larger ones are multiples of it."""

_head = struct.Struct(">4sIQI")  # magic, size of the body, number, checksum of the block before
_checksum = struct.Struct(">I")
HEAD_BYTES: Final = _head.size + _checksum.size
OVERHEAD_BYTES: Final = HEAD_BYTES + _checksum.size


def crc32c(data: bytes, before: int = 0) -> int:
    """CRC-32C (Castagnoli) of what `before` is the checksum of, and these bytes behind it."""
    checksum: int = google_crc32c.extend(before, data)
    return checksum


class Block(NamedTuple):
    """A good one."""

    number: int
    """Counted from 1 through all segments of a journal."""
    body: bytes
    checksum: int
    """Over salt, head and body."""
    end: int
    """The offset behind it."""


class Flaw(NamedTuple):
    """Where the good blocks of a segment end before its bytes do."""

    offset: int
    reason: str
    """Half a sentence."""
    is_torn: bool
    """It is what a crash leaves in the middle of a write; else something was damaged."""


def encode_block(number: int, previous: int, seed: int, body: bytes) -> tuple[bytes, int]:
    """A block, and its checksum for the one after it; `seed` is the checksum of the salt."""
    head = _head.pack(MAGIC, len(body), number, previous)
    head_checksum = crc32c(head, seed)
    checksum = crc32c(body, head_checksum)
    return b"".join((head, _checksum.pack(head_checksum), body, _checksum.pack(checksum))), checksum


def read_block(data: bytes, offset: int, number: int, previous: int, seed: int) -> Block | Flaw:
    """The block of that number that ought to be there."""
    size = _good_head(data, offset, seed)
    if size is None:
        return _flaw(data, offset, len(data), "the head of a block does not match its checksum")
    end = offset + OVERHEAD_BYTES + size
    if end > len(data):
        return Flaw(offset, "the last block is not whole", is_torn=True)
    block = _good_block(data, offset, size)
    if block is None:
        return _flaw(data, offset, end, "a block does not match its checksum")
    _, _, found, chained_to = _head.unpack_from(data, offset)
    if (found, chained_to) != (number, previous):
        return Flaw(
            offset, f"there is block {found} where block {number} ought to be", is_torn=False
        )
    return block


def find_block_after(data: bytes, offset: int, number: int, seed: int) -> int | None:
    """Where the first good block with a higher number begins, behind a bad one; None: nowhere.

    Nobody can plant one in the data of an entry without knowing the segment's salt.
    """
    while (offset := data.find(MAGIC, offset + 1)) >= 0:
        size = _good_head(data, offset, seed)
        if size is None or offset + OVERHEAD_BYTES + size > len(data):
            continue
        block = _good_block(data, offset, size)
        if block is not None and block.number > number:
            return offset
    return None


def _good_head(data: bytes, offset: int, seed: int) -> int | None:
    """The size of the body, None if the head is not whole or not what was written."""
    if offset + HEAD_BYTES > len(data):
        return None
    magic, size, _, _ = _head.unpack_from(data, offset)
    (checksum,) = _checksum.unpack_from(data, offset + _head.size)
    if crc32c(data[offset : offset + _head.size], seed) != checksum or magic != MAGIC:
        return None
    return int(size) if 0 < size <= limits.JOURNAL_BLOCK_BYTES else None


def _good_block(data: bytes, offset: int, size: int) -> Block | None:
    """The block with that good head, None if its body is not what was written."""
    _, _, number, _ = _head.unpack_from(data, offset)
    (head_checksum,) = _checksum.unpack_from(data, offset + _head.size)
    start = offset + HEAD_BYTES
    body = data[start : start + size]
    (checksum,) = _checksum.unpack_from(data, start + size)
    if crc32c(body, head_checksum) != checksum:
        return None
    return Block(number, body, checksum, start + size + _checksum.size)


def _flaw(data: bytes, offset: int, end: int, reason: str) -> Flaw:
    """A bad block in [offset, end): torn if it is cut, or if some sector of it was never written.

    A file that has grown reads as zeros where nothing was written yet.  No head, and no checksum
    at the end, is all zeros.
    """
    if end - offset < HEAD_BYTES:
        return Flaw(offset, "the last block is not whole", is_torn=True)
    first = offset // SECTOR_BYTES
    for sector in range(first, -(-end // SECTOR_BYTES)):
        start = max(offset, sector * SECTOR_BYTES)
        if not any(data[start : min(end, (sector + 1) * SECTOR_BYTES)]):
            return Flaw(offset, "a part of the last block was not written", is_torn=True)
    return Flaw(offset, reason, is_torn=False)
