"""Ends of jobs that somebody outside is still to be told of, by a webhook.  Pure.

Whoever tells it says so with `Notified`; until then it is here, whichever node is lost.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from meshd import limits
from meshd.record import commands_jobs as commands
from meshd.record.context import Context
from meshd.record.events import NoticeDue
from meshd.record.job_rows import JobRow, JobState, NoticeRow
from meshd.record.live import LiveJobs
from meshd.record.results import DONE, Code, Refuse
from meshd.record.schedule import Heap
from meshd.record.table import Table

KEPT_MS = limits.WEBHOOK_KEPT_S * 1000


class Notices:
    """As many as `limits.WEBHOOKS` together with the jobs that will end with one.

    Those of dead jobs that are tried again may come on top of that.
    """

    def __init__(self, table: Table[int, NoticeRow], live: LiveJobs) -> None:
        self._table = table
        self._live = live
        self._oldest: Heap[tuple[int, int]] = Heap(self._is_there, table.__len__)
        """(until, job)"""

    def indexing(self) -> Iterator[None]:
        """Make the index of a table that was restored; one row an item."""
        for row in self._table.each():
            self._oldest.push((row.until_unix_ms, row.job))
            yield

    def __len__(self) -> int:
        return len(self._table)

    def get(self, job: int) -> NoticeRow | None:
        return self._table.get(job)

    def rows(self) -> list[NoticeRow]:
        """All of them, in the order of the jobs' ids."""
        return self._table.rows()

    def check_room(self, count: int) -> None:
        """For so many more jobs with a webhook.  Raises Refuse."""
        if len(self._table) + self._live.webhooks + count > limits.WEBHOOKS:
            raise Refuse(Code.TOO_MANY, limit=limits.WEBHOOKS)

    def add(self, context: Context, job: JobRow, state: JobState) -> None:
        """That job is over."""
        row = NoticeRow(
            job=job.id,
            url=job.webhook,
            entry=job.entry,
            end=context.index,
            state=state,
            ended_unix_ms=context.now_unix_ms,
            until_unix_ms=context.now_unix_ms + KEPT_MS,
        )
        self._table.put(row)
        self._oldest.push((row.until_unix_ms, row.job))
        context.emit(NoticeDue(context.index, job.id))

    def notified(self, command: commands.Notified) -> bytes:
        row = self._table.get(command.job)
        if row is None or row.end != command.end:
            raise Refuse(Code.NOT_THERE)
        if command.given_up:
            self._table.put(replace(row, given_up=command.given_up))
        else:
            self._table.drop(command.job)
        return DONE

    def end_next(self, now_unix_ms: int) -> bool:
        """Forget the first one, if its time is over; whether it was."""
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
        assert len(rows) <= limits.WEBHOOKS + limits.JOBS_DEAD
        assert all(row.url for row in rows)
        assert self._oldest.valid_entries() == {(row.until_unix_ms, row.job) for row in rows}
