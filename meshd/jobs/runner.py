"""Runs queued inference requests on this node when it has room (trio shell).

Any node that holds a model, warm or not, and has a free slot claims the next job for it.  The claim
has a lease, which is renewed while the job runs; whoever cannot renew it stops early, before the
leader gives the job to another (`holding.keep_lease`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from meshd import limits, logs
from meshd.errors import MeshdError
from meshd.jobs.contents import body_of, store
from meshd.jobs.finished import Attempt, runs_told
from meshd.jobs.holding import LEASE_MS, Bodies, keep_lease
from meshd.ledger.ledger import Ledger
from meshd.record import commands_jobs as commands
from meshd.record.commands_registry import Command
from meshd.record.events import Event, JobFinished, JobReturned
from meshd.record.job_rows import JobRow, job_name

log = logs.get("jobs")

LOOK_S = 1.0
"""How often free slots are looked at while jobs wait for them."""
_AGAIN = frozenset({408, 425, 429, 499, 500, 502, 503, 504})
"""Statuses of an answer for which another attempt may do better."""

Run = Callable[[str, bytes], Awaitable[tuple[int, bytes, tuple[Attempt, ...]]]]
"""(path, body) -> (status, body) of the answer, and the runs on engines that it took.

Cancelled when nobody wants it any more."""


@dataclass(slots=True)
class _Attempt:
    """A job that runs here."""

    job: int
    fence: int
    asked_at: float
    """When the claim was asked for."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    lost: str = ""
    """Why it stopped, if it was not the job's own end."""


class Runner:
    """One node's runs."""

    def __init__(
        self,
        ledger: Ledger,
        run: Run,
        free: Callable[[], Sequence[str]],
        random: Callable[[], float],
        bodies: Bodies,
    ) -> None:
        """`free` names the models (normalised) for which this node has a free slot now."""
        self._ledger = ledger
        self._run = run
        self._free = free
        self._random = random
        self._bodies = bodies
        self._attempts: dict[tuple[int, int], _Attempt] = {}
        self._changed = trio.Event()

    @property
    def running(self) -> int:
        """How many jobs run here."""
        return len(self._attempts)

    def happened(self, events: Sequence[Event]) -> None:
        """Events that were just applied here, in order."""
        for event in events:
            if isinstance(event, JobReturned):
                self._stop(event.job, event.fence, "its lease ended, or it was given back")
            elif isinstance(event, JobFinished):
                self._stop(event.row.id, event.fence, "it is over")
        self._changed.set()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Claim and run, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                changed = self._changed
                for attempt in await self._claim():
                    nursery.start_soon(self._attempt, attempt)
                with trio.move_on_after(LOOK_S if self._somebody_waits() else 60.0):
                    await changed.wait()

    def _somebody_waits(self) -> bool:
        return self._ledger.state.jobs.live.queued > 0

    async def _claim(self) -> list[_Attempt]:
        """Take one job, if there is one for which there is room."""
        if not self._somebody_waits():
            return []
        models = sorted(self._free())[: limits.CLAIM_MODELS]
        me = self._ledger.me
        lanes = [("", model, node) for model in models for node in ("", me)]
        if self._ledger.state.jobs.live.best(lanes) is None:
            return []
        asked_at = trio.current_time()
        try:
            claimed = await self._ledger.execute(
                commands.ClaimNext(models=tuple(models), lease_ms=LEASE_MS, most=1)
            )
        except MeshdError as error:
            log.info("no job claimed", why=str(error))
            return []
        fence = claimed["fence"]
        attempts = [_Attempt(job, fence, asked_at) for job in claimed["jobs"]]
        for attempt in attempts:
            self._attempts[attempt.job, attempt.fence] = attempt
        return attempts

    async def _attempt(self, attempt: _Attempt) -> None:
        """One job's own task: what goes wrong in here ends neither the node nor other jobs."""
        row = self._ledger.state.jobs.live.get(attempt.job)
        end: Command | None = None
        try:
            with attempt.scope:
                if row is not None:
                    end = await self._carry_out(attempt, row)
        except Exception:  # its task: the node and other jobs go on
            log.exception("a job could not be run", job=job_name(attempt.job))
            end = self._failed(attempt, row, "internal error; that node's log says more")
        finally:
            self._attempts.pop((attempt.job, attempt.fence), None)
            if end is None and not attempt.lost:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                    await self._say(attempt, commands.Release(job=attempt.job, fence=attempt.fence))
        if end is not None:
            await self._say(attempt, end)

    async def _carry_out(self, attempt: _Attempt, row: JobRow) -> Command:
        """Work on it with its lease kept; the last word on this attempt, to be said."""
        log.info("a job runs", job=job_name(row.id), model=row.request.model, tries=row.tries + 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(
                    keep_lease,
                    self._ledger,
                    attempt.job,
                    attempt.fence,
                    asked_at=attempt.asked_at,
                    lost=partial(self._stop, attempt.job, attempt.fence),
                )
            )
            end = await self._answer(attempt, row)
            nursery.cancel_scope.cancel()
        return end

    async def _answer(self, attempt: _Attempt, row: JobRow) -> Command:
        """Run it and store what came of it; what to say of that."""
        asked = await body_of(row.request, self._bodies)
        if asked is None:
            return self._failed(attempt, row, "the nodes that keep its request are away")
        began = trio.current_time()
        status, body, attempts = 504, b"", tuple[Attempt, ...]()
        with trio.move_on_after(limits.JOB_RUN_S):
            status, body, attempts = await self._run(row.request.path, asked)
        run_ms = int((trio.current_time() - began) * 1000)
        if status in _AGAIN:
            return self._failed(attempt, row, f"status {status}")
        try:
            content = await store(body, self._bodies)
        except MeshdError as error:
            return self._failed(attempt, row, str(error))
        if status >= 400:
            return commands.Fail(
                job=attempt.job,
                fence=attempt.fence,
                reason=f"status {status}",
                final=True,
                status=status,
                digest=content.digest,
                size_bytes=content.size_bytes,
                inline=content.inline,
                run_ms=run_ms,
            )
        return commands.Complete(
            job=attempt.job,
            fence=attempt.fence,
            digest=content.digest,
            size_bytes=content.size_bytes,
            inline=content.inline,
            status=status,
            run_ms=run_ms,
            runs=runs_told(attempts),
        )

    def _failed(self, attempt: _Attempt, row: JobRow | None, reason: str) -> Command:
        """To be tried again, later each time; the record knows when it is enough."""
        tries = row.tries if row is not None else 0
        pause_s = limits.JOB_RETRY_S[min(tries, len(limits.JOB_RETRY_S) - 1)]
        pause_ms = int(pause_s * (0.5 + self._random()) * 1000)
        return commands.Fail(
            job=attempt.job,
            fence=attempt.fence,
            reason=reason[: limits.NAME_CHARS],
            pause_ms=pause_ms,
        )

    def _stop(self, job: int, fence: int, why: str) -> None:
        attempt = self._attempts.get((job, fence))
        if attempt is not None:
            log.info("a job stops here", job=job_name(job), why=why)
            attempt.lost = why
            attempt.scope.cancel()

    async def _say(self, attempt: _Attempt, command: Command) -> None:
        try:
            await self._ledger.execute(command, timeout_s=limits.JOB_LEASE_S)
        except MeshdError as error:
            log.info("what became of a job was not written", job=attempt.job, why=str(error))
