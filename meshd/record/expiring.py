"""Rows about jobs that each have an end of their own, and the index of which is first.  Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from meshd.record.job_rows import KeptRow, NoticeRow
from meshd.record.schedule import Heap
from meshd.record.table import Table

R = TypeVar("R", bound=KeptRow | NoticeRow)


class Expiring(Generic[R]):
    """A table by job, whose rows go at `until_unix_ms`."""

    def __init__(self, table: Table[int, R]) -> None:
        """Over a table that is empty, or to be followed by `indexing`."""
        self._table = table
        self._ends: Heap[tuple[int, int]] = Heap(self._is_there, table.__len__)
        """(until, job)"""

    def indexing(self) -> Iterator[None]:
        """Make the index of a table that was restored; one row an item."""
        for row in self._table.each():
            self._ends.push((row.until_unix_ms, row.job))
            yield

    def __len__(self) -> int:
        return len(self._table)

    def get(self, job: int) -> R | None:
        return self._table.get(job)

    def rows(self) -> list[R]:
        """All of them, in the order of the jobs' ids."""
        return self._table.rows()

    def put(self, row: R) -> None:
        """Add it, or put it in place of the one of that job."""
        self._table.put(row)
        self._ends.push((row.until_unix_ms, row.job))

    def drop(self, job: int) -> None:
        self._table.drop(job)

    def drop_first(self) -> None:
        """Of those that there are, the one that would end first."""
        entry = self._ends.first()
        assert entry is not None
        self._table.drop(entry[1])

    def end_next(self, now_unix_ms: int) -> bool:
        """Drop the first, if its time is over; whether it was."""
        due_ms = self.next_due_unix_ms()
        if due_ms is None or due_ms > now_unix_ms:
            return False
        self.drop_first()
        return True

    def next_due_unix_ms(self) -> int | None:
        entry = self._ends.first()
        return None if entry is None else entry[0]

    def _is_there(self, entry: tuple[int, int]) -> bool:
        row = self._table.get(entry[1])
        return row is not None and row.until_unix_ms == entry[0]

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        ends = {(row.until_unix_ms, row.job) for row in self._table.rows()}
        assert self._ends.valid_entries() == ends
