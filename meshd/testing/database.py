"""SQLite in memory, on this thread, that fills up, breaks and is damaged on demand."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from pathlib import PurePath
from typing import TypeVar

import trio

from meshd.errors import DatabaseDamaged, DiskFailed
from meshd.machine.databases import explained, transact
from meshd.ports import Database, Transaction

T = TypeVar("T")


class MemoryDatabases:
    """`meshd.ports.Databases` of one machine; it outlives the daemons on it, and power failures.

    It is SQLite itself, without files and without threads: under `MockClock` time would go on while
    a thread works.
    """

    def __init__(self) -> None:
        self.files: dict[PurePath, sqlite3.Connection] = {}
        self.damaged: set[PurePath] = set()
        """What is in here cannot be used until it was set aside."""
        self.full = False
        """While set, nothing can be written."""
        self.broken = ""
        """While set, every call fails with this sentence."""

    async def open(self, path: PurePath) -> Database:
        await trio.lowlevel.checkpoint()
        self.check(path)
        if path not in self.files:
            self.files[path] = sqlite3.connect(":memory:", isolation_level=None)
        return _Memory(self, path)

    async def set_aside(self, path: PurePath) -> PurePath:
        await trio.lowlevel.checkpoint()
        aside = path.with_name(path.name + ".damaged")
        if path in self.files:
            self.files[aside] = self.files.pop(path)
        self.damaged.discard(path)
        return aside

    def check(self, path: PurePath) -> None:
        """Raise what is wrong at present."""
        if self.broken:
            raise DiskFailed(errno.EIO, f"cannot use the database {path}: {self.broken}")
        if path in self.damaged:
            raise DatabaseDamaged(f"{path} is damaged (on demand).")


class _Memory:
    def __init__(self, databases: MemoryDatabases, path: PurePath) -> None:
        self._databases = databases
        self._path = path
        self._closed = False

    async def write(self, work: Callable[[Transaction], T]) -> T:
        def until_full(sql: Transaction) -> T:
            result = work(sql)
            if self._databases.full:
                raise DiskFailed(
                    errno.ENOSPC, f"cannot use the database {self._path}: the disk is full"
                )
            return result

        return await self._do("BEGIN IMMEDIATE", until_full)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return await self._do("BEGIN", work)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self._closed = True

    async def _do(self, begin: str, work: Callable[[Transaction], T]) -> T:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise DiskFailed(errno.EBADF, f"cannot use the database {self._path}: it was closed")
        self._databases.check(self._path)
        with explained(self._path):
            return transact(self._databases.files[self._path], begin, work)
