"""Ends of jobs that somebody outside is still to be told of, by a webhook.  Pure.

Whoever tells it says so with `Notified`; until then it is here, whichever node is lost.
"""

from __future__ import annotations

from msgspec.structs import replace

from meshd import limits
from meshd.record import commands_jobs as commands
from meshd.record.context import Context
from meshd.record.events import NoticeDue
from meshd.record.expiring import Expiring
from meshd.record.job_rows import JobRow, JobState, NoticeRow
from meshd.record.live import LiveJobs
from meshd.record.results import DONE, Code, Refuse
from meshd.record.table import Table

KEPT_MS = limits.WEBHOOK_KEPT_S * 1000


class Notices(Expiring[NoticeRow]):
    """As many as `limits.WEBHOOKS` together with the jobs that will end with one.

    Those of dead jobs that are tried again may come on top of that.
    """

    def __init__(self, table: Table[int, NoticeRow], live: LiveJobs) -> None:
        super().__init__(table)
        self._live = live

    def check_room(self, count: int) -> None:
        """For so many more jobs with a webhook.  Raises Refuse."""
        if len(self) + self._live.webhooks + count > limits.WEBHOOKS:
            raise Refuse(Code.TOO_MANY, limit=limits.WEBHOOKS)

    def add(self, context: Context, job: JobRow, state: JobState) -> None:
        """That job is over."""
        self.put(
            NoticeRow(
                job=job.id,
                url=job.webhook,
                entry=job.entry,
                end=context.index,
                state=state,
                ended_unix_ms=context.now_unix_ms,
                until_unix_ms=context.now_unix_ms + KEPT_MS,
            )
        )
        context.emit(NoticeDue(context.index, job.id))

    def notified(self, command: commands.Notified) -> bytes:
        """Somebody was told of it, or cannot be.  Raises Refuse."""
        row = self.get(command.job)
        if row is None or row.end != command.end:
            raise Refuse(Code.NOT_THERE)
        if command.given_up:
            self.put(replace(row, given_up=command.given_up))
        else:
            self.drop(command.job)
        return DONE

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        super().check()
        assert len(self) <= limits.WEBHOOKS + limits.JOBS_DEAD
        assert all(row.url for row in self.rows())
