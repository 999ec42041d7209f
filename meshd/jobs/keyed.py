"""Requests with an idempotency key: run once at a time, answered the same every time (trio shell).

One command, `Accept`, notes the key and claims the request for this entry; its place in the log is
the fence, and nothing runs before it is applied.  The answer's last words leave only after
`Complete` under that fence is committed.  So whoever repeats the request, at any node, either waits
for the one run there is and gets its stored answer, or, once the entry that ran it has lost its
lease, runs it under a new fence; and no two clients ever see two different ends of one key
(DESIGN.md, "One request"; Helland, Life beyond Distributed Transactions, 2007, for the idea).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec
import trio

from meshd import limits, logs
from meshd.errors import MeshdError, Refused
from meshd.jobs.duties import WRITE_S
from meshd.jobs.holding import LEASE_MS, Bodies, keep_lease
from meshd.jobs.service import JobService
from meshd.ledger.ledger import Ledger
from meshd.record import commands_jobs as commands
from meshd.record.commands_registry import Command
from meshd.record.events import JobFinished
from meshd.record.job_rows import JobState, job_name

log = logs.get("jobs")


class Key(msgspec.Struct, frozen=True):
    """An idempotency key as it came."""

    scope: str
    """Whose it is: an API key's id, or `local`."""
    text: str
    fingerprint: bytes
    """SHA-256 of method, path and body."""


class Stored(msgspec.Struct, frozen=True):
    """The answer that this key has, for good."""

    status: int
    body: bytes


class Ended(Refused):
    """The request with this key ended without an answer; the text says how."""


class AnswerGone(Refused):
    """The request was answered, and the answer is no longer kept."""


def key_of(scope: str, text: bytes, method: str, path: str, body: bytes) -> Key:
    """Read the header.  Raises Refused for what cannot be a key."""
    name = text.decode("latin-1").strip()
    if (
        not 0 < len(name) <= limits.IDEMPOTENCY_KEY_CHARS
        or not name.isascii()
        or not name.isprintable()
    ):
        raise Refused(
            "Idempotency-Key must be 1 to "
            f"{limits.IDEMPOTENCY_KEY_CHARS} printable ASCII characters"
        )
    hashed = hashlib.sha256()
    for part in (method.encode(), path.encode(), body):
        hashed.update(len(part).to_bytes(8, "big") + part)
    return Key(scope, name, hashed.digest())


class KeyedRun:
    """A run under a fence of this entry's.  Use as a context; it ends in one of three ways.

    `seal` makes the answer that of the key; `give_up` says that it cannot be answered (`final`), or
    not this time; leaving without either gives the key back, for whoever repeats it.
    """

    def __init__(
        self, ledger: Ledger, bodies: Bodies, job: int, fence: int, asked_at: float
    ) -> None:
        self.job, self.fence = job, fence
        self.lost = ""
        """Why it is no longer this entry's to run, once it is not."""
        self._ledger, self._bodies = ledger, bodies
        self._asked_at = asked_at
        self._ended = False
        self._began_at = trio.current_time()

    async def hold(self, lost: Callable[[], None]) -> None:
        """Keep the lease until cancelled; `lost` is called when that does not succeed."""

        def note(why: str) -> None:
            self.lost = why
            log.info("a keyed request stops here", job=job_name(self.job), why=why)
            lost()

        await keep_lease(self._ledger, self.job, self.fence, asked_at=self._asked_at, lost=note)

    async def seal(self, status: int, body: bytes) -> bool:
        """Make this the answer of the key, for good.  False: not known to be, so withhold it."""
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

    async def release(self) -> None:
        """If nothing was said of it: somebody else may have it at once."""
        if not self._ended and not self.lost:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                try:
                    await self._say(commands.Release(job=self.job, fence=self.fence))
                except MeshdError as error:
                    log.info("a key was not given back", why=str(error))

    async def _say(self, command: Command) -> None:
        self._ended = True
        await self._ledger.execute(command, timeout_s=limits.JOB_LEASE_S)


class KeyedRequests:
    """What becomes of a request that has a key."""

    def __init__(self, ledger: Ledger, jobs: JobService, bodies: Bodies) -> None:
        self._ledger = ledger
        self._jobs = jobs
        self._bodies = bodies

    async def accept(self, key: Key, path: str, model: str, size_bytes: int) -> KeyedRun | Stored:
        """Either the right to run it now, or the answer it has; waits for a run elsewhere.

        Raises RecordRefused (the key was used for another request; too many keys), NotWritten and
        MaybeWritten (then nothing runs), Ended, AnswerGone.
        """
        command = commands.Accept(
            key=commands.KeyFields(scope=key.scope, key=key.text, fingerprint=key.fingerprint),
            request=commands.RequestFields(
                digest=key.fingerprint, size_bytes=size_bytes, path=path, model=model
            ),
            lease_ms=LEASE_MS,
            max_attempts=limits.JOB_ATTEMPTS,
        )
        # A key's time counts from the record clock, which may have stood still for days.
        await self._jobs.now_unix_ms()
        while True:
            changed = self._jobs.change()
            asked_at = trio.current_time()
            told = await self._ledger.execute(command, timeout_s=WRITE_S)
            state, job = JobState(told["state"]), told["job"]
            if state is JobState.CLAIMED and "node" not in told:
                return KeyedRun(self._ledger, self._bodies, job, told["fence"], asked_at)
            if state in (JobState.DONE, JobState.FAILED):
                return await self._stored(job, told)
            if state in (JobState.CANCELLED, JobState.DEAD):
                raise Ended(f"The request with this key is {state.name.lower()}; use another key.")
            await self._until_it_is_over(job, changed)

    async def _until_it_is_over(self, job: int, changed: trio.Event) -> None:
        """Until the run elsewhere has ended, one way or the other (no deadline: it has a lease)."""
        while True:
            row = self._ledger.state.jobs.live.get(job)
            if row is None or row.state is not JobState.CLAIMED:
                return
            await changed.wait()
            changed = self._jobs.change()

    async def _stored(self, job: int, told: dict[str, object]) -> Stored:
        status, digest = told["status"], told["digest"]
        assert isinstance(status, int)
        assert isinstance(digest, bytes)
        if not told["size_bytes"]:
            return Stored(status, b"")
        event = self._jobs.end_of(job)
        body = event.inline if isinstance(event, JobFinished) else b""
        if not body:
            body = await self._jobs.result_of(job_name(job)) or b""
        if not body and digest:
            body = await self._bodies.get(digest) or b""
        if hashlib.sha256(body).digest() != digest:
            raise AnswerGone(
                "This request was answered, but its answer cannot be had now: the nodes that keep "
                "it are away, or its time is over."
            )
        return Stored(status, body)
