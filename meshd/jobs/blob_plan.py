"""Blobs, as far as they can be thought out: names, majorities, and how long one is kept.  Pure.

A blob is a request's body or a result that is too large for the log, which names it by its SHA-256.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from typing import Final

from meshd import limits

DIGEST_BYTES: Final = 32
_NAME: Final = re.compile(r"[0-9a-f]{64}")

_MAGIC: Final = b"meshd: blobs that nothing names, 1\n"
_MS_BYTES: Final = 8
_ROW_BYTES: Final = DIGEST_BYTES + _MS_BYTES


def is_blob(size_bytes: int) -> bool:
    """Whether a body or result of that size is a blob; what is smaller is in the log itself."""
    return size_bytes > limits.INLINE_BYTES


def digest_of(data: bytes) -> bytes:
    """What the record calls it."""
    return hashlib.sha256(data).digest()


def file_name(digest: bytes) -> str:
    """Of the file that has it."""
    return digest.hex()


def digest_named(name: str) -> bytes | None:
    """Of the blob in a file that is called so; None for what is no blob."""
    return bytes.fromhex(name) if _NAME.fullmatch(name) else None


def majority(voters: int) -> int:
    """How many of them every later majority has one of."""
    return voters // 2 + 1


def put_s(size_bytes: int) -> float:
    """How long storing one may take, in seconds."""
    return limits.BLOB_PUT_S + size_bytes / limits.SLOW_LINK_BYTES_PER_S


class Unnamed:
    """Since when nothing has named a blob that is here, by the record clock.

    It outlives a restart (`to_bytes`), so that a machine that starts every morning comes to the end
    of `limits.BLOB_KEPT_S` too.
    """

    def __init__(self, data: bytes = b"") -> None:
        """What `to_bytes` wrote; of anything else nothing is taken, and all times begin anew."""
        self._since_ms: dict[bytes, int] = {}
        rows = data.removeprefix(_MAGIC)
        if data.startswith(_MAGIC) and len(rows) % _ROW_BYTES == 0:
            for at in range(0, len(rows), _ROW_BYTES):
                row = rows[at : at + _ROW_BYTES]
                self._since_ms[row[:DIGEST_BYTES]] = int.from_bytes(row[DIGEST_BYTES:], "big")

    def __len__(self) -> int:
        return len(self._since_ms)

    def to_bytes(self) -> bytes:
        rows = sorted(self._since_ms.items())
        return _MAGIC + b"".join(
            digest + since_ms.to_bytes(_MS_BYTES, "big") for digest, since_ms in rows
        )

    def touch(self, digest: bytes) -> bool:
        """Somebody stores it (again): its time has not begun.  Whether it had."""
        return self._since_ms.pop(digest, None) is not None

    def look(self, unnamed: Iterable[bytes], now_ms: int) -> bool:
        """These, and no others, are here and named by nothing now.  Whether that is news."""
        before = self._since_ms
        # A clock that was set back for good must not keep what is here for ever.
        self._since_ms = {digest: min(before.get(digest, now_ms), now_ms) for digest in unnamed}
        return self._since_ms != before

    def over(self, now_ms: int, spared: Collection[bytes] = ()) -> list[bytes]:
        """Those whose time is over, the first first."""
        until_ms = now_ms - limits.BLOB_KEPT_S * 1000
        rows = [(ms, digest) for digest, ms in self._since_ms.items() if ms <= until_ms]
        return [digest for _, digest in sorted(rows) if digest not in spared]
