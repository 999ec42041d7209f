"""A disk in memory that can fill up, break, and lose what was not yet durable."""

from __future__ import annotations

import errno
from pathlib import PurePath

from meshd.errors import DiskFailed


class MemoryDisk:
    """`meshd.ports.Disk` in memory.  One machine's disk; it outlives the daemons on it.

    `write` and `delete` are durable when they return, `append` is not.  A daemon that ends calls
    `release` (a real process does by ending), one that loses power `lose_power`.
    """

    def __init__(self, *, capacity_bytes: int | None = None) -> None:
        self.files: dict[PurePath, bytes] = {}
        self.private: set[PurePath] = set()
        """Those that would be 0600."""
        self.folders: set[PurePath] = set()
        self.capacity_bytes = capacity_bytes
        """None: it never fills up."""
        self.broken: str | None = None
        """While set, every call fails with this sentence."""
        self._durable: dict[PurePath, bytes] = {}
        self._locks: dict[PurePath, int] = {}
        self._pid = 1000

    def read(self, path: PurePath) -> bytes | None:
        self._check("read", path)
        return self.files.get(path)

    def write(self, path: PurePath, data: bytes, *, private: bool) -> None:
        self._check("write", path)
        self._room(path, len(data))
        self.files[path] = self._durable[path] = bytes(data)
        (self.private.add if private else self.private.discard)(path)

    def append(self, path: PurePath, data: bytes) -> None:
        self._check("add to", path)
        self._room(path, len(self.files.get(path, b"")) + len(data))
        self.files[path] = self.files.get(path, b"") + bytes(data)
        self.private.add(path)

    def delete(self, path: PurePath) -> None:
        self._check("delete", path)
        self.files.pop(path, None)
        self._durable.pop(path, None)
        self.private.discard(path)

    def folder(self, path: PurePath) -> None:
        self._check("make the folder", path)
        self.folders.add(path)

    def lock(self, path: PurePath) -> int | None:
        self._check("lock", path)
        if path in self._locks:
            return self._locks[path]
        self._pid += 1
        self._locks[path] = self._pid
        return None

    def unlock(self, path: PurePath) -> None:
        self._locks.pop(path, None)

    def release(self) -> None:
        """The process that held locks has ended, however it ended."""
        self._locks.clear()

    def lose_power(self, *, kept_of_appends: float = 0.0) -> None:
        """The machine has lost power: of what was appended since, this fraction is left."""
        for path, data in self.files.items():
            safe = len(self._durable.get(path, b""))
            left = safe + int((len(data) - safe) * kept_of_appends)
            if left or path in self._durable:
                self._durable[path] = data[:left]
        self.files = dict(self._durable)
        self.release()

    def _check(self, what: str, path: PurePath) -> None:
        if self.broken is not None:
            raise DiskFailed(errno.EIO, f"cannot {what} {path}: {self.broken}")
        if not path.is_absolute():
            raise AssertionError(f"not an absolute path: {path}")

    def _room(self, path: PurePath, size_bytes: int) -> None:
        others = sum(len(data) for name, data in self.files.items() if name != path)
        if self.capacity_bytes is not None and others + size_bytes > self.capacity_bytes:
            raise DiskFailed(
                errno.ENOSPC,
                f"cannot write {path}: the disk is full; free some space "
                "(what was in it is unchanged)",
            )
