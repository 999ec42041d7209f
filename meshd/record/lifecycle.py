"""The ways of a job between its states, with all that goes along.  Pure.

The commands (jobs.py) decide that something happens; here is what happens then: to the row, to the
idempotency keys, to the dead, and which events tell of it.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from meshd import limits
from meshd.record.commands_jobs import RunFields
from meshd.record.context import Context
from meshd.record.events import JobClaimed, JobFinished, JobForgotten, JobQueued, JobReturned
from meshd.record.graveyard import Graveyard
from meshd.record.idempotency import Keys
from meshd.record.job_rows import AttemptEnd, AttemptRow, ClaimRow, JobRow, JobState, KeyRow
from meshd.record.kept import KeptResults
from meshd.record.live import LiveJobs
from meshd.record.notices import Notices
from meshd.record.results import done

_UNCOUNTED: Final = (AttemptEnd.RELEASED, AttemptEnd.NODE_REMOVED)


class Lifecycle:
    """Moves jobs from state to state; that they may go there was checked."""

    def __init__(
        self, live: LiveJobs, dead: Graveyard, keys: Keys, kept: KeptResults, notices: Notices
    ) -> None:
        self._live = live
        self._dead = dead
        self._keys = keys
        self._kept = kept
        self._notices = notices

    def claim(self, context: Context, row: JobRow, lease_ms: int, worker: str) -> JobRow:
        claimed = replace(row, claim=claim_of(context, lease_ms, worker))
        self._live.change(claimed)
        self.tell_claimed(context, claimed)
        return claimed

    def move(self, context: Context, row: JobRow, lease_ms: int) -> None:
        """The client has it from now on, in place of who had it; that is no attempt."""
        old = row.claim
        assert old is not None
        row = replace(row, attempts=_with(row, _ended(context, old, AttemptEnd.MOVED, "")))
        context.emit(JobReturned(context.index, row.id, old.fence))
        self.claim(context, row, lease_ms, "")

    def tell_claimed(self, context: Context, row: JobRow) -> None:
        assert row.claim is not None
        context.emit(
            JobClaimed(context.index, row.id, row.claim.fence, row.claim.node, row.claim.lease_ms)
        )

    def tell_queued(self, context: Context, row: JobRow) -> None:
        context.emit(JobQueued(context.index, row.id, row.queue, row.request.model, row.to_node))

    def give_back(
        self, context: Context, row: JobRow, end: AttemptEnd, reason: str, pause_ms: int
    ) -> bytes:
        """An attempt is over, the job is not; unless it was the last one, or it is too late."""
        claim = row.claim
        assert claim is not None
        now = context.now_unix_ms
        row = replace(
            row,
            claim=None,
            tries=row.tries + (end not in _UNCOUNTED),
            not_before_unix_ms=now + pause_ms if pause_ms else 0,
            attempts=_with(row, _ended(context, claim, end, reason)),
        )
        too_late = 0 < row.deadline_unix_ms <= now
        if row.tries >= row.max_attempts or too_late:
            reason = "deadline passed" if too_late else reason or "tried often enough"
            self.finish(context, row, JobState.DEAD, reason=reason, fence=claim.fence)
            return done(state=JobState.DEAD)
        self._live.change(row)
        context.emit(JobReturned(context.index, row.id, claim.fence))
        if row.queue:
            self.tell_queued(context, row)
        return done(state=row.state)

    def finish(
        self,
        context: Context,
        row: JobRow,
        state: JobState,
        *,
        reason: str = "",
        status: int = 0,
        digest: bytes = b"",
        size_bytes: int = 0,
        inline: bytes = b"",
        run_ms: int = 0,
        fence: int = 0,
        runs: tuple[RunFields, ...] = (),
    ) -> None:
        """The job is over: out of the state, and told."""
        self._live.drop(row.id)
        for scope, key in row.keys:
            self._keys.settle(scope, key, state, status, digest, size_bytes)
        if size_bytes > limits.INLINE_BYTES and not row.keys:  # else the key names it
            self._kept.keep(row.id, digest, context.now_unix_ms)
        if row.webhook:
            self._notices.add(context, row, state)
        context.emit(
            JobFinished(
                context.index,
                row,
                state,
                context.now_unix_ms,
                reason,
                status,
                digest,
                size_bytes,
                inline,
                run_ms,
                row.claim.fence if row.claim else fence,
                runs,
            )
        )
        if state is JobState.DEAD and row.queue:
            self._dead.add(replace(row, claim=None, died_unix_ms=context.now_unix_ms))
            while (old := self._dead.too_many()) is not None:
                self._forget(context, old)

    def _end_key(self, context: Context, key: KeyRow) -> None:
        """A key's time is over.  With it ends a request that nobody has asked for again."""
        row = self._live.get(key.job)
        if row is None or key.jobs > 1:
            self._keys.drop(key)
        elif row.state is JobState.ACCEPTED:
            self.finish(context, row, JobState.DEAD, reason="not asked for again")
            self._keys.drop(key)
        else:
            self._keys.prolong(key, context.now_unix_ms)

    def _forget(self, context: Context, row: JobRow) -> None:
        self._dead.drop(row.id)
        context.emit(JobForgotten(context.index, row.id))

    def advance(self, context: Context) -> bool:
        """End what is over by now.  Whether there is more of it than one command may end."""
        now = context.now_unix_ms
        self._live.advance(now)
        for _ in range(limits.SWEEP_ROWS):
            if (late := self._live.overdue(now)) is not None:
                self.finish(context, late, JobState.DEAD, reason="deadline passed")
            elif (key := self._keys.next_over(now)) is not None:
                self._end_key(context, key)
            elif (old := self._dead.next_over(now)) is not None:
                self._forget(context, old)
            elif not (self._kept.end_next(now) or self._notices.end_next(now)):
                return False
        return True


def _ended(context: Context, claim: ClaimRow, end: AttemptEnd, reason: str) -> AttemptRow:
    return AttemptRow(
        node=claim.node,
        fence=claim.fence,
        claimed_unix_ms=claim.claimed_unix_ms,
        ended_unix_ms=context.now_unix_ms,
        end=end,
        reason=reason,
    )


def _with(row: JobRow, attempt: AttemptRow) -> tuple[AttemptRow, ...]:
    return (*row.attempts, attempt)[-limits.JOB_ATTEMPTS_KEPT :]


def claim_of(context: Context, lease_ms: int, worker: str) -> ClaimRow:
    return ClaimRow(
        node=context.client,
        fence=context.index,
        lease_ms=lease_ms,
        claimed_unix_ms=context.now_unix_ms,
        worker=worker,
    )
