"""Idempotency keys: the same request twice is one job.  Pure.

A key is remembered for `limits.IDEMPOTENCY_KEY_S` of the record clock from when it was accepted,
and for as long as its job lives.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from meshd import limits
from meshd.record.commands_jobs import KeyFields
from meshd.record.job_rows import JobState, KeyRow
from meshd.record.live import LiveJobs
from meshd.record.results import Code, Refuse
from meshd.record.schedule import Heap
from meshd.record.table import Table

LIFE_MS = limits.IDEMPOTENCY_KEY_S * 1000


class Keys:
    """Which job a key means."""

    def __init__(self, table: Table[tuple[str, str], KeyRow], live: LiveJobs) -> None:
        self._table = table
        self._live = live
        self._ends: Heap[tuple[int, int, str, str]] = Heap(self._ends_then, table.__len__)
        """(expires, job, scope, key)"""

    def indexing(self) -> Iterator[None]:
        """Make the index of a table that was restored; one row an item."""
        for row in self._table.each():
            self._ends.push((row.expires_unix_ms, row.job, row.scope, row.key))
            yield

    def __len__(self) -> int:
        return len(self._table)

    def get(self, scope: str, key: str) -> KeyRow | None:
        """What is known of it; one whose time is over may be gone or not."""
        return self._table.get((scope, key))

    def find(self, fields: KeyFields, now_unix_ms: int) -> KeyRow | None:
        """The row of a key that came again.  Raises Refuse if it came with another request."""
        row = self._table.get((fields.scope, fields.key))
        if row is None or not self._holds(row, now_unix_ms):
            return None
        if row.fingerprint != fields.fingerprint:
            raise Refuse(Code.KEY_REUSED, job=row.job)
        return row

    def check_room(self, fields: KeyFields) -> None:
        """Raise Refuse if there is no place for one more."""
        if (
            len(self._table) >= limits.IDEMPOTENCY_KEYS
            and (fields.scope, fields.key) not in self._table
        ):
            raise Refuse(Code.TOO_MANY_KEYS, limit=limits.IDEMPOTENCY_KEYS)

    def add(self, fields: KeyFields, job: int, now_unix_ms: int, *, jobs: int = 1) -> None:
        """From now on it means that job; `find` and `check_room` have passed."""
        self._put(
            KeyRow(
                scope=fields.scope,
                key=fields.key,
                fingerprint=fields.fingerprint,
                job=job,
                jobs=jobs,
                expires_unix_ms=now_unix_ms + LIFE_MS,
            )
        )

    def means(self, pair: tuple[str, str], job: int) -> bool:
        """Whether that key is known and means that job alone."""
        row = self._table.get(pair)
        return row is not None and row.job == job and row.jobs == 1

    def settle(
        self, scope: str, key: str, state: int, status: int, digest: bytes, size_bytes: int
    ) -> None:
        """Its job is over: that is what a repeat is told.  State 0: the job lives again."""
        row = self._table.get((scope, key))
        if row is not None:
            self._table.put(
                replace(row, state=state, status=status, digest=digest, size_bytes=size_bytes)
            )

    def next_over(self, now_unix_ms: int) -> KeyRow | None:
        """One whose time is over, its job being as it may: the first."""
        entry = self._ends.first()
        if entry is None or entry[0] > now_unix_ms:
            return None
        return self._table[entry[2], entry[3]]

    def drop(self, row: KeyRow) -> None:
        self._table.drop((row.scope, row.key))

    def prolong(self, row: KeyRow, now_unix_ms: int) -> None:
        """Its job lives still."""
        self._put(replace(row, expires_unix_ms=now_unix_ms + LIFE_MS))

    def next_due_unix_ms(self) -> int | None:
        entry = self._ends.first()
        return None if entry is None else entry[0]

    def _holds(self, row: KeyRow, now_unix_ms: int) -> bool:
        return row.expires_unix_ms > now_unix_ms or self._live.get(row.job) is not None

    def _put(self, row: KeyRow) -> None:
        self._table.put(row)
        self._ends.push((row.expires_unix_ms, row.job, row.scope, row.key))

    def _ends_then(self, entry: tuple[int, int, str, str]) -> bool:
        row = self._table.get((entry[2], entry[3]))
        return row is not None and (row.expires_unix_ms, row.job) == entry[:2]

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        rows = self._table.rows()
        assert len(rows) <= limits.IDEMPOTENCY_KEYS
        assert self._ends.valid_entries() == {
            (row.expires_unix_ms, row.job, row.scope, row.key) for row in rows
        }
        for row in rows:
            job = self._live.get(row.job)
            if row.jobs == 1:
                assert (job is None) == (row.state != 0)
                assert row.state == 0 or JobState(row.state) >= JobState.DONE
                assert job is None or (row.scope, row.key) in job.keys
