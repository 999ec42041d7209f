"""Jobs: from the moment they are accepted to the moment they are over.  Pure.

                 Submit                    Claim, ClaimNext
    ------------------------->  QUEUED  ---------------------->  CLAIMED  --Complete-->  DONE
                                  ^  \\                            |  |  \\
                                  |   `--deadline--> DEAD          |  |   `--Fail final--> FAILED
                                  `-- Fail, Release, Expire -------'  |
             Accept (keyed)                                           |
    ------------------------------------------------------------------'
    Accept again  <-------  ACCEPTED  <---- Expire, Fail, Release of a keyed request

CLAIMED by another node that goes on with the run, by `Move`;
and from each of them CANCELLED by `Cancel`, and DEAD when it has been tried often enough.  A dead
job that was queued is kept for a while, for a look and `Retry`.

Whoever has a job names the fence of its claim with whatever it says of it, and nothing is taken
under an old one.  A lease ends by `Expire` alone.  A job that is over leaves the state as an event.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from meshd import limits
from meshd.record import commands_jobs as commands
from meshd.record.context import Context
from meshd.record.events import LeaseRenewed
from meshd.record.graveyard import Graveyard
from meshd.record.idempotency import Keys
from meshd.record.job_rows import (
    AttemptEnd,
    ClaimRow,
    JobRow,
    JobState,
    KeptRow,
    KeyRow,
    NoticeRow,
    job_id,
)
from meshd.record.kept import KeptResults
from meshd.record.lifecycle import Lifecycle, claim_of
from meshd.record.live import Lane, LiveJobs
from meshd.record.nodes import Nodes
from meshd.record.notices import Notices
from meshd.record.results import DONE, Code, Refuse, done
from meshd.record.table import Table


class Jobs:
    """Reduces the commands about jobs."""

    def __init__(
        self,
        jobs: Table[int, JobRow],
        dead: Table[int, JobRow],
        keys: Table[tuple[str, str], KeyRow],
        kept: Table[int, KeptRow],
        notices: Table[int, NoticeRow],
        nodes: Nodes,
        now_unix_ms: int,
    ) -> None:
        """Over tables that are empty, or to be followed by `indexing`."""
        self.live = LiveJobs(jobs, now_unix_ms)
        self.dead = Graveyard(dead)
        self.keys = Keys(keys, self.live)
        self.kept = KeptResults(kept)
        self.notices = Notices(notices, self.live)
        self._ways = Lifecycle(self.live, self.dead, self.keys, self.kept, self.notices)
        self._nodes = nodes

    def indexing(self) -> Iterator[None]:
        """Make the indexes of tables that were restored; one row an item."""
        yield from self.live.indexing()
        yield from self.dead.indexing()
        yield from self.keys.indexing()
        yield from self.kept.indexing()
        yield from self.notices.indexing()

    # --- in

    def accept(self, context: Context, command: commands.Accept) -> bytes:
        """A keyed request: its own job at once, or what became of the one it made before."""
        known = self.keys.find(command.key, context.now_unix_ms)
        if known is not None:
            row = self.live.get(known.job)
            if row is None or row.state is not JobState.ACCEPTED:
                return self._told(known, row)
            claimed = self._ways.claim(context, row, command.lease_ms, "")
            return done(job=row.id, fence=context.index, state=claimed.state, new=False)
        self.keys.check_room(command.key)
        self._check_room(1)
        row = JobRow(
            id=job_id(context.index),
            request=command.request,
            entry=context.client,
            accepted_unix_ms=context.now_unix_ms,
            max_attempts=command.max_attempts,
            keys=((command.key.scope, command.key.key),),
            claim=claim_of(context, command.lease_ms, ""),
        )
        self.keys.add(command.key, row.id, context.now_unix_ms)
        self.live.add(row)
        self._ways.tell_claimed(context, row)
        return done(job=row.id, fence=context.index, state=row.state, new=True)

    def submit(self, context: Context, command: commands.Submit) -> bytes:
        now = context.now_unix_ms
        if command.key is not None:
            known = self.keys.find(command.key, now)
            if known is not None:
                return self._told(known, self.live.get(known.job))
            self.keys.check_room(command.key)
        same = self.live.by_dedupe(command.queue, command.dedupe)
        if same is not None:
            if command.key is not None:
                self._add_key(same, command.key, now)
            return done(job=same.id, jobs=1, state=same.state, new=False)
        if 0 < command.deadline_unix_ms <= now:
            raise Refuse(Code.TOO_LATE, now=now)
        nodes = self._receivers(command)
        if self.live.queued + len(nodes) > limits.JOBS_QUEUED:
            raise Refuse(Code.QUEUE_FULL, limit=limits.JOBS_QUEUED)
        self._check_room(len(nodes))
        if command.webhook:
            self.notices.check_room(len(nodes))
        if not self.live.has_queue(command.queue) and self.live.queue_count() >= limits.QUEUES:
            raise Refuse(Code.TOO_MANY_QUEUES, limit=limits.QUEUES)
        first = job_id(context.index)
        alone = len(nodes) == 1
        key = command.key
        for number, node in enumerate(nodes):
            row = JobRow(
                id=first + number,
                request=command.request,
                entry=context.client,
                accepted_unix_ms=now,
                max_attempts=command.max_attempts,
                queue=command.queue,
                priority=command.priority,
                not_before_unix_ms=command.not_before_unix_ms,
                deadline_unix_ms=command.deadline_unix_ms,
                dedupe=command.dedupe if alone else "",
                to_node=node,
                webhook=command.webhook,
                keys=((key.scope, key.key),) if key is not None and alone else (),
            )
            self.live.add(row)
            self._ways.tell_queued(context, row)
        if key is not None:
            self.keys.add(key, first, now, jobs=len(nodes))
        return done(job=first, jobs=len(nodes), state=JobState.QUEUED, new=True)

    # --- at work

    def claim(self, context: Context, command: commands.Claim) -> bytes:
        row = self._get(command.job)
        if row.state is not JobState.QUEUED or row.not_before_unix_ms > context.now_unix_ms:
            raise Refuse(Code.NOT_QUEUED, state=row.state)
        if row.to_node not in ("", context.client):
            raise Refuse(Code.OTHER_NODE)
        self._ways.claim(context, row, command.lease_ms, command.worker)
        return done(jobs=[row.id], fence=context.index)

    def claim_next(self, context: Context, command: commands.ClaimNext) -> bytes:
        """As many as there are, none being no refusal."""
        lanes: list[Lane] = [("", model, "") for model in command.models]
        lanes += [("", model, context.client) for model in command.models]
        if command.queue:
            lanes += [(command.queue, "", ""), (command.queue, "", context.client)]
        jobs: list[int] = []
        while len(jobs) < command.most and (row := self.live.best(lanes)) is not None:
            self._ways.claim(context, row, command.lease_ms, command.worker)
            jobs.append(row.id)
        return done(jobs=jobs, fence=context.index)

    def renew(self, context: Context, command: commands.Renew) -> bytes:
        row, claim = self._held(command.job, command.fence)
        if claim.lease_ms != command.lease_ms:
            self.live.change(replace(row, claim=replace(claim, lease_ms=command.lease_ms)))
        context.emit(LeaseRenewed(context.index, row.id, claim.fence, command.lease_ms))
        return DONE

    def complete(self, context: Context, command: commands.Complete) -> bytes:
        row, _ = self._held(command.job, command.fence)
        self._ways.finish(
            context,
            row,
            JobState.DONE,
            status=command.status,
            digest=command.digest,
            size_bytes=command.size_bytes,
            inline=command.inline,
            run_ms=command.run_ms,
            runs=command.runs,
        )
        return DONE

    def fail(self, context: Context, command: commands.Fail) -> bytes:
        row, _ = self._held(command.job, command.fence)
        if command.final:
            self._ways.finish(
                context,
                row,
                JobState.FAILED,
                reason=command.reason,
                status=command.status,
                digest=command.digest,
                size_bytes=command.size_bytes,
                inline=command.inline,
                run_ms=command.run_ms,
            )
            return done(state=JobState.FAILED)
        return self._ways.give_back(
            context, row, AttemptEnd.FAILED, command.reason, command.pause_ms
        )

    def release(self, context: Context, command: commands.Release) -> bytes:
        row, _ = self._held(command.job, command.fence)
        return self._ways.give_back(context, row, AttemptEnd.RELEASED, "", command.pause_ms)

    def expire(self, context: Context, command: commands.Expire) -> bytes:
        row, _ = self._held(command.job, command.fence)
        return self._ways.give_back(context, row, AttemptEnd.EXPIRED, "", 0)

    def move(self, context: Context, command: commands.Move) -> bytes:
        row, _ = self._held(command.job, command.fence)
        self._ways.move(context, row, command.lease_ms)
        return done(job=row.id, fence=context.index)

    # --- out, and back

    def cancel(self, context: Context, command: commands.Cancel) -> bytes:
        self._ways.finish(context, self._get(command.job), JobState.CANCELLED, reason="cancelled")
        return DONE

    def retry(self, context: Context, command: commands.Retry) -> bytes:
        row = self.dead.get(command.job)
        if row is None:
            raise Refuse(Code.NOT_DEAD)
        self._check_room(1)
        if self.live.queued >= limits.JOBS_QUEUED:
            raise Refuse(Code.QUEUE_FULL, limit=limits.JOBS_QUEUED)
        if not self.live.has_queue(row.queue) and self.live.queue_count() >= limits.QUEUES:
            raise Refuse(Code.TOO_MANY_QUEUES, limit=limits.QUEUES)
        if row.to_node and self._nodes.get(row.to_node) is None:
            raise Refuse(Code.NO_SUCH_NODE)
        if self.live.by_dedupe(row.queue, row.dedupe) is not None:
            raise Refuse(Code.EXISTS)
        self.dead.drop(row.id)
        keys = tuple(pair for pair in row.keys if self.keys.means(pair, row.id))
        row = replace(
            row, keys=keys, tries=0, not_before_unix_ms=0, deadline_unix_ms=0, died_unix_ms=0
        )
        self.live.add(row)
        for scope, key in keys:
            self.keys.settle(scope, key, 0, 0, b"", 0)
        self._ways.tell_queued(context, row)
        return DONE

    def let_go(self, context: Context, command: commands.LetGo) -> bytes:
        """Of a node that is no member: its claims end, and what was meant for it is cancelled."""
        if self._nodes.get(command.node) is not None:
            raise Refuse(Code.STILL_MEMBER)
        left = limits.SWEEP_ROWS
        for job in sorted(self.live.meant_for(command.node))[:left]:
            self._ways.finish(context, self._get(job), JobState.CANCELLED, reason="node removed")
            left -= 1
        for job in sorted(self.live.claimed_by(command.node))[:left]:
            self._ways.give_back(context, self._get(job), AttemptEnd.NODE_REMOVED, "", 0)
        more = bool(self.live.meant_for(command.node) or self.live.claimed_by(command.node))
        return done(more=more)

    def notified(self, context: Context, command: commands.Notified) -> bytes:
        del context
        return self.notices.notified(command)

    # --- time

    def advance(self, context: Context, now_unix_ms: int) -> bool:
        """The record clock says this now.  Whether more is over than one command may end."""
        return self._ways.advance(replace(context, now_unix_ms=now_unix_ms))

    def next_due_unix_ms(self) -> int | None:
        """When the record clock has to move on, for anything here to change by it."""
        owners = (self.live, self.keys, self.dead, self.kept, self.notices)
        due = [at for owner in owners if (at := owner.next_due_unix_ms()) is not None]
        return min(due, default=None)

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        self.live.check()
        self.dead.check()
        self.keys.check()
        self.kept.check()
        self.notices.check()

    # --- inside

    def _check_room(self, count: int) -> None:
        if len(self.live) + count > limits.JOBS_LIVE:
            raise Refuse(Code.TOO_MANY_JOBS, limit=limits.JOBS_LIVE)

    def _receivers(self, command: commands.Submit) -> list[str]:
        """The node of each job that is to be made; "" for any."""
        if command.to_node:
            return [self._nodes.member(command.to_node).id]
        if not command.to_all and not command.to_label:
            return [""]
        label = command.to_label
        nodes = [row.id for row in self._nodes.rows() if not label or label in row.labels]
        if not nodes:
            raise Refuse(Code.NOBODY_MEANT)
        return nodes

    def _get(self, job: int) -> JobRow:
        row = self.live.get(job)
        if row is None:
            raise Refuse(Code.NO_SUCH_JOB)
        return row

    def _held(self, job: int, fence: int) -> tuple[JobRow, ClaimRow]:
        """The job, if it is held under this fence and no later one."""
        row = self._get(job)
        if row.claim is None or row.claim.fence != fence:
            raise Refuse(Code.OLD_FENCE, fence=row.claim.fence if row.claim else 0)
        return row, row.claim

    def _told(self, key: KeyRow, row: JobRow | None) -> bytes:
        """What the repeat of a keyed request is told."""
        if row is not None:
            claim = row.claim
            return done(
                job=row.id,
                jobs=key.jobs,
                state=row.state,
                new=False,
                **({"fence": claim.fence, "node": claim.node} if claim else {}),
            )
        return done(
            job=key.job,
            jobs=key.jobs,
            state=key.state,
            new=False,
            status=key.status,
            digest=key.digest,
            size_bytes=key.size_bytes,
        )

    def _add_key(self, row: JobRow, key: commands.KeyFields, now_unix_ms: int) -> None:
        if len(row.keys) >= limits.JOB_KEYS:
            raise Refuse(Code.TOO_MANY, limit=limits.JOB_KEYS)
        self.keys.add(key, row.id, now_unix_ms)
        self.live.change(replace(row, keys=(*row.keys, (key.scope, key.key))))
