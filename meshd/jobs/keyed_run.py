"""One run of a keyed request, under a fence of this entry's (trio shell)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import trio

from meshd import limits, logs
from meshd.errors import MeshdError
from meshd.jobs.finished import Attempt, runs_told
from meshd.jobs.holding import Bodies, keep_lease
from meshd.jobs.said import Said
from meshd.ledger.ledger import Ledger
from meshd.ledger.session import MaybeWritten
from meshd.record import commands_jobs as commands
from meshd.record.commands_registry import Command
from meshd.record.job_rows import job_name

log = logs.get("jobs")

HURRY_S = 0.5
"""Less than a node that ends leaves for last words (`node.LAST_WORDS_S`)."""


class KeyedRun:
    """A run, from the claim on; it ends in one of three ways, and `end` is always awaited last.

    `seal` makes the answer that of the key; `give_up` says that it cannot be answered (`final`), or
    not this time; without either `end` gives the key back, for whoever repeats it.
    """

    def __init__(
        self,
        ledger: Ledger,
        bodies: Bodies,
        said: Said,
        job: int,
        fence: int,
        asked_at: float,
        ended: Callable[[KeyedRun], None],
    ) -> None:
        """`asked_at` is when the claim was asked for; `ended` is called as soon as it is over."""
        self.job, self.fence, self.said = job, fence, said
        self.scope = trio.CancelScope()
        """Around the work; cancelled when it is no longer this entry's to do."""
        self.lost = ""
        """Why it is not, once it is not."""
        self.cancelled = False
        """Somebody has cancelled the job: a repeat will not be run either."""
        self._ledger, self._bodies = ledger, bodies
        self._asked_at = asked_at
        self._over = ended
        self._saying = trio.CancelScope()
        """Around what the record is told."""
        self._told = False
        """Something was said of how it ends: only the record's answer to that counts now."""
        self._began_at = trio.current_time()

    async def hold(self) -> None:
        """Keep the lease until cancelled; `stop` when that does not succeed."""
        await keep_lease(
            self._ledger, self.job, self.fence, asked_at=self._asked_at, lost=self.stop
        )

    def stop(self, why: str, *, cancelled: bool = False) -> None:
        """It is not this entry's to run any more.  Nothing happens if it has told its end."""
        if self._told or self.lost:
            return
        self.lost, self.cancelled = why, cancelled
        log.info("a keyed request stops here", job=job_name(self.job), why=why)
        self.scope.cancel()

    async def seal(self, status: int, body: bytes, attempts: Sequence[Attempt] = ()) -> bool:
        """Make this the answer of the key, for good.  False: not known to be, so withhold it.

        `attempts`: on engines, which it took.
        """
        small = len(body) <= limits.INLINE_BYTES
        digest = hashlib.sha256(body).digest()
        try:
            if not small:
                digest = await self._bodies.put(body)
            await self._say(
                commands.Complete(
                    job=self.job,
                    fence=self.fence,
                    digest=digest,
                    size_bytes=len(body),
                    inline=body if small else b"",
                    status=status,
                    run_ms=int((trio.current_time() - self._began_at) * 1000),
                    runs=runs_told(attempts),
                )
            )
        except MeshdError as error:
            log.warning("an answer was withheld", job=job_name(self.job), why=str(error))
            return False
        return True

    async def give_up(self, status: int, reason: str, body: bytes, *, final: bool) -> None:
        """It was not answered: never will be (`final`: `body` is the answer), or not now."""
        keep = final and len(body) <= limits.INLINE_BYTES
        command = commands.Fail(
            job=self.job,
            fence=self.fence,
            reason=reason[: limits.NAME_CHARS],
            final=final,
            status=status,
            digest=hashlib.sha256(body).digest() if keep else b"",
            size_bytes=len(body) if keep else 0,
            inline=body if keep else b"",
        )
        try:
            await self._say(command)
        except MeshdError as error:
            log.info("a failure was not written", job=job_name(self.job), why=str(error))

    async def end(self) -> None:
        """It is over here.  If nothing was said of how, somebody else may have it at once."""
        self._over(self)
        if not self._told and not self.lost:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                try:
                    await self._say(commands.Release(job=self.job, fence=self.fence))
                except MeshdError as error:
                    log.info("a key was not given back", why=str(error))

    def hurry(self) -> None:
        """This node ends: the record has a moment to take what is said of how this run ended."""
        self._saying.deadline = trio.current_time() + HURRY_S

    async def _say(self, command: Command) -> None:
        self._told = True
        with self._saying:
            await self._ledger.execute(command, timeout_s=limits.JOB_LEASE_S)
            return
        raise MaybeWritten("this node was stopped before the record had answered.")
