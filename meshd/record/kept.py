"""Results of finished jobs that are too large for the log, named for a while longer.  Pure.

The job itself has left the state and is a row of every node's history.  Its result is a blob on the
disks of the voters, and they keep, and copy to a new voter, what the record names.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshd import limits
from meshd.record.job_rows import KeptRow
from meshd.record.schedule import Heap
from meshd.record.table import Table

KEPT_MS = limits.BLOB_KEPT_S * 1000


class KeptResults:
    """At most `limits.RESULTS_KEPT`; the oldest goes first."""

    def __init__(self, table: Table[int, KeptRow]) -> None:
        self._table = table
        self._oldest: Heap[tuple[int, int]] = Heap(self._is_there, table.__len__)
        """(until, job)"""

    def indexing(self) -> Iterator[None]:
        """Make the index of a table that was restored; one row an item."""
        for row in self._table.each():
            self._oldest.push((row.until_unix_ms, row.job))
            yield

    def __len__(self) -> int:
        return len(self._table)

    def keep(self, job: int, digest: bytes, now_unix_ms: int) -> None:
        """Name it from now on; the oldest makes room."""
        row = KeptRow(job=job, digest=digest, until_unix_ms=now_unix_ms + KEPT_MS)
        self._table.put(row)
        self._oldest.push((row.until_unix_ms, row.job))
        while len(self._table) > limits.RESULTS_KEPT:
            entry = self._oldest.first()
            assert entry is not None
            self._table.drop(entry[1])

    def end_next(self, now_unix_ms: int) -> bool:
        """Name the first one no more, if its time is over; whether it was."""
        entry = self._oldest.first()
        if entry is None or entry[0] > now_unix_ms:
            return False
        self._table.drop(entry[1])
        return True

    def next_due_unix_ms(self) -> int | None:
        entry = self._oldest.first()
        return None if entry is None else entry[0]

    def _is_there(self, entry: tuple[int, int]) -> bool:
        row = self._table.get(entry[1])
        return row is not None and row.until_unix_ms == entry[0]

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        rows = self._table.rows()
        assert len(rows) <= limits.RESULTS_KEPT
        assert self._oldest.valid_entries() == {(row.until_unix_ms, row.job) for row in rows}
