"""Dead jobs, kept for a while for a look and a retry.  Pure."""

from __future__ import annotations

from collections.abc import Iterator

from meshd import limits
from meshd.record.job_rows import JobRow
from meshd.record.schedule import Heap
from meshd.record.table import Table

KEPT_MS = limits.JOB_DEAD_S * 1000


class Graveyard:
    """At most `limits.JOBS_DEAD`; who has been here longest goes first."""

    def __init__(self, table: Table[int, JobRow]) -> None:
        self._table = table
        self._oldest: Heap[tuple[int, int]] = Heap(self._is_there, table.__len__)
        """(died, id)"""

    def indexing(self) -> Iterator[None]:
        """Make the index of a table that was restored; one row an item."""
        for row in self._table.each():
            self._oldest.push((row.died_unix_ms, row.id))
            yield

    def __len__(self) -> int:
        return len(self._table)

    def get(self, job: int) -> JobRow | None:
        return self._table.get(job)

    def rows(self) -> list[JobRow]:
        """All of them, in the order of their ids."""
        return self._table.rows()

    def add(self, row: JobRow) -> None:
        self._table.put(row)
        self._oldest.push((row.died_unix_ms, row.id))

    def drop(self, job: int) -> None:
        self._table.drop(job)

    def too_many(self) -> JobRow | None:
        """Who has to make room, if somebody has to."""
        entry = self._oldest.first()
        if entry is None or len(self._table) <= limits.JOBS_DEAD:
            return None
        return self._table[entry[1]]

    def next_over(self, now_unix_ms: int) -> JobRow | None:
        """One that has been kept long enough: the first."""
        entry = self._oldest.first()
        if entry is None or entry[0] + KEPT_MS > now_unix_ms:
            return None
        return self._table[entry[1]]

    def next_due_unix_ms(self) -> int | None:
        entry = self._oldest.first()
        return None if entry is None else entry[0] + KEPT_MS

    def _is_there(self, entry: tuple[int, int]) -> bool:
        row = self._table.get(entry[1])
        return row is not None and row.died_unix_ms == entry[0]

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        rows = self._table.rows()
        assert len(rows) <= limits.JOBS_DEAD
        assert self._oldest.valid_entries() == {(row.died_unix_ms, row.id) for row in rows}
        assert all(row.claim is None and row.queue for row in rows)
