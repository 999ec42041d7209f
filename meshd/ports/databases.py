"""SQLite, as a port: it opens, syncs and locks by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


SqlValue = str | int | float | bytes | None


class Transaction(Protocol):
    """SQL (SQLite's) within one transaction."""

    def execute(self, sql: str, values: Sequence[SqlValue] = ()) -> list[tuple[Any, ...]]:
        """All rows that one statement gives."""
        ...

    def execute_many(self, sql: str, rows: Iterable[Sequence[SqlValue]]) -> int:
        """The same statement for each; how many rows it changed in all."""
        ...


class Database(Protocol):
    """One SQLite file, which no other program has open.

    What is handed in runs in another thread (in memory: at once): it must touch nothing but its
    transaction and what it owns.  Errors are DiskFailed, after which everything is as it was and
    may be tried again; and DatabaseDamaged, after which only `aclose` and `set_aside` help.
    """

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Do all of it or nothing; on the medium when this returns.  One at a time."""
        ...

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Look at what was committed; waits for no writer, and delays none.  One at a time."""
        ...

    async def aclose(self) -> None: ...


class Databases(Protocol):
    """Files too large to be read and written whole."""

    async def open(self, path: PurePath) -> Database:
        """Open or make that file, 0600, and its folder.  Raises DiskFailed, DatabaseDamaged."""
        ...

    async def set_aside(self, path: PurePath) -> PurePath:
        """Move a file that is not open out of the way, over what was moved there before."""
        ...
