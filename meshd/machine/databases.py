"""SQLite files, each with a thread that writes and one that reads.

The write-ahead log lets a reader look while the writer writes.  `synchronous=FULL` syncs it at
every commit, so what was committed survives a power cut.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, TypeVar

import trio

from meshd.errors import DatabaseDamaged, DiskFailed
from meshd.machine.disk import PRIVATE, FileDisk
from meshd.ports import Database, SqlValue, Transaction

T = TypeVar("T")

_BESIDE = ("", "-wal", "-shm")
_ASIDE = ".damaged"
_BUSY_S = 1.0
"""To wait for somebody else who writes into it; nobody should."""
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    f"fullfsync={'ON' if sys.platform == 'darwin' else 'OFF'}",  # as `machine.disk` does
    f"checkpoint_fullfsync={'ON' if sys.platform == 'darwin' else 'OFF'}",
    "journal_size_limit=8388608",
    "cache_size=-4096",  # KiB
    "cell_size_check=ON",
    "trusted_schema=OFF",
)
_WHY = {
    sqlite3.SQLITE_FULL: (errno.ENOSPC, "the disk is full; free some space"),
    sqlite3.SQLITE_IOERR: (errno.EIO, "the disk reports an error"),
    sqlite3.SQLITE_READONLY: (errno.EROFS, "it cannot be written, or was moved while in use"),
    sqlite3.SQLITE_CANTOPEN: (errno.EACCES, "it cannot be opened; see who owns it"),
    sqlite3.SQLITE_PERM: (errno.EACCES, "this user may not; see who owns it"),
    sqlite3.SQLITE_BUSY: (errno.EBUSY, "another program has it open; close that"),
    sqlite3.SQLITE_NOMEM: (errno.ENOMEM, "this machine is out of memory"),
}
"""By SQLite's primary code.  Whatever is not in here nor damage is a mistake of ours."""


class RealDatabases:
    """`meshd.ports.Databases`, real."""

    async def open(self, path: PurePath) -> Database:
        return await trio.to_thread.run_sync(_File, Path(path))

    async def set_aside(self, path: PurePath) -> PurePath:
        return await trio.to_thread.run_sync(_set_aside, Path(path))


class _File:
    """`meshd.ports.Database`, real.  A connection is used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = trio.CapacityLimiter(1)
        self._reading = trio.CapacityLimiter(1)
        _make(path)
        self._connections: list[sqlite3.Connection] = []
        try:
            with explained(path):
                self._writer = self._connect()
                self._reader = self._connect()
                self._reader.execute("PRAGMA query_only=ON")
        except BaseException:  # whatever it is: what is open is closed; raised again
            self._close()
            raise

    async def write(self, work: Callable[[Transaction], T]) -> T:
        return await trio.to_thread.run_sync(self._write, work, limiter=self._writing)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return await trio.to_thread.run_sync(self._read, work, limiter=self._reading)

    async def aclose(self) -> None:
        async with self._writing, self._reading:
            # In a thread: the last one out moves the log into the file.
            await trio.to_thread.run_sync(self._close)

    def _connect(self) -> sqlite3.Connection:
        # No transactions but our own; threads take turns, see `_writing` and `_reading`.
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=_BUSY_S
        )
        self._connections.append(connection)
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # is it a database?
        return connection

    def _write(self, work: Callable[[Transaction], T]) -> T:
        self._check_open()
        with explained(self._path):
            return transact(self._writer, "BEGIN IMMEDIATE", work)

    def _read(self, work: Callable[[Transaction], T]) -> T:
        self._check_open()
        with explained(self._path):
            return transact(self._reader, "BEGIN", work)

    def _check_open(self) -> None:
        if not self._connections:  # closed while this call waited for its turn
            raise DiskFailed(errno.EBADF, f"cannot use the database {self._path}: it was closed")

    def _close(self) -> None:
        connections, self._connections = self._connections, []
        for connection in connections:
            with suppress(sqlite3.Error):
                connection.close()


class Sql:
    """`meshd.ports.Transaction` on a connection in which one was begun."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[SqlValue] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, values).fetchall()

    def execute_many(self, sql: str, rows: Iterable[Sequence[SqlValue]]) -> int:
        return max(0, self._connection.executemany(sql, rows).rowcount)


def transact(connection: sqlite3.Connection, begin: str, work: Callable[[Transaction], T]) -> T:
    """Do all of it or nothing."""
    connection.execute(begin)
    try:
        result = work(Sql(connection))
        connection.execute("COMMIT")
    except BaseException:  # also a bug in `work`: nothing of it stays; raised again
        with suppress(sqlite3.Error):  # after some errors SQLite has done that already
            connection.execute("ROLLBACK")
        raise
    return result


@contextmanager
def explained(path: PurePath) -> Iterator[None]:
    """Turn SQLite's errors into sentences."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        primary = None if code is None else code & 0xFF
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise DatabaseDamaged(f"{path} is damaged ({error}).") from error
        if primary not in _WHY:
            raise
        number, why = _WHY[primary]
        raise DiskFailed(number, f"cannot use the database {path}: {why} ({error})") from error


def _make(path: Path) -> None:
    """Make the file if it is missing, 0600 in any case; SQLite's others take that over.

    It is open for no longer than that: closing a descriptor of a file lets go of all locks that
    this process has on it, so this must be over before SQLite takes its own.
    """
    FileDisk().folder_of(path)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, PRIVATE)
        try:
            os.fchmod(descriptor, PRIVATE)
        finally:
            os.close(descriptor)
    except OSError as error:
        sentence = f"cannot use the database {path}: {error.strerror}"
        raise DiskFailed(error.errno or errno.EIO, sentence) from error


def _set_aside(path: Path) -> Path:
    aside = path.with_name(path.name + _ASIDE)
    try:
        for suffix in _BESIDE:
            old, new = Path(f"{path}{suffix}"), Path(f"{aside}{suffix}")
            new.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                old.rename(new)
    except OSError as error:
        sentence = f"cannot move {path} out of the way: {error.strerror}"
        raise DiskFailed(error.errno or errno.EIO, sentence) from error
    return aside
