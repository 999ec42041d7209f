"""Requests with an idempotency key: run once at a time, answered the same every time (trio shell).

One command, `Accept`, notes the key and claims the request for this entry; its place in the log is
the fence, and nothing runs before it is applied.  The answer's last words leave only after
`Complete` under that fence is committed.  So whoever repeats the request, at any node, hears the
one run there is from its first byte on, or gets its stored answer, or, once the entry that ran it
has lost its lease, runs it under a new fence; and no two clients ever see two different ends of one
key (DESIGN.md, "A keyed request"; the idea: Helland, Life beyond Distributed Transactions, 2007).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol

import msgspec
import trio

from meshd import limits, logs
from meshd.errors import MeshdError, Refused
from meshd.http import Room, Share
from meshd.ids import NodeId
from meshd.jobs.answers import AnswerAway, AnswerGone, Answers, Ended, Stored
from meshd.jobs.duties import WRITE_S
from meshd.jobs.holding import LEASE_MS, Bodies
from meshd.jobs.keyed_run import KeyedRun
from meshd.jobs.said import Listener, NotHeard, Said
from meshd.jobs.service import JobService
from meshd.ledger.ledger import Ledger
from meshd.record import commands_jobs as commands
from meshd.record.events import Event, JobFinished, JobReturned
from meshd.record.job_rows import JobState, job_name
from meshd.record.results import RecordRefused

log = logs.get("jobs")


class Key(msgspec.Struct, frozen=True):
    """An idempotency key as it came."""

    scope: str
    """Whose it is: an API key's id, or `local`."""
    text: str
    fingerprint: bytes
    """SHA-256 of method, path and body."""

    def fields(self) -> commands.KeyFields:
        """The same, in a command."""
        return commands.KeyFields(scope=self.scope, key=self.text, fingerprint=self.fingerprint)


class Running(msgspec.Struct, frozen=True):
    """The request with this key runs now, asked for by somebody else."""

    job: int
    fence: int
    node: NodeId
    key: tuple[str, str] = ("", "")
    """Whose key it is, and the key."""


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


class RemoteSaid(Protocol):
    """How to hear what runs at other nodes say (`said_links.SaidLinks`)."""

    def listen(
        self, node: NodeId, job: int, fence: int, from_byte: int
    ) -> AbstractAsyncContextManager[Listener]: ...


class KeyedRequests:
    """What becomes of a request that has a key."""

    def __init__(
        self,
        ledger: Ledger,
        jobs: JobService,
        bodies: Bodies,
        remote: RemoteSaid,
        room: Room,
        is_gone: Callable[[NodeId], bool],
    ) -> None:
        """`room` is where answers are kept until they are stored.

        `is_gone`: whether all there is to know says that a node is not there any more.
        """
        self.is_gone = is_gone
        self._ledger = ledger
        self._jobs = jobs
        self._bodies = bodies
        self._remote = remote
        self._room = room
        self.answers = Answers(jobs, bodies, lambda: ledger.state)
        self._runs: dict[tuple[int, int], KeyedRun] = {}
        self._accepting: Counter[tuple[str, str]] = Counter()
        """Keys with which somebody asks the record now: a claim may be theirs."""
        self._moving: Counter[int] = Counter()
        """Jobs with which this node is about to go on."""

    # ---------------------------------------------------------------- asked by clients

    def knows(self, key: Key) -> bool:
        """Whether this node has heard of that key: if so it has an answer, or will have one."""
        return self._ledger.state.jobs.keys.get(key.scope, key.text) is not None

    async def accept(
        self, key: Key, path: str, model: str, size_bytes: int
    ) -> KeyedRun | Running | Stored:
        """The right to run it now, or which run there is, or the answer it has.

        Raises RecordRefused (the key was used for another request; too many keys), NotWritten and
        MaybeWritten (then nothing runs), Ended, AnswerGone, AnswerAway.
        """
        pair = (key.scope, key.text)
        command = commands.Accept(
            key=key.fields(),
            request=commands.RequestFields(
                digest=key.fingerprint, size_bytes=size_bytes, path=path, model=model
            ),
            lease_ms=LEASE_MS,
            max_attempts=limits.JOB_ATTEMPTS,
        )
        # A key's time counts from the record clock, which may have stood still for days.
        await self._jobs.now_unix_ms()
        self._accepting[pair] += 1
        try:
            return await self._accepted(command)
        finally:
            self._accepting[pair] -= 1
            if not self._accepting[pair]:
                del self._accepting[pair]

    async def _accepted(self, command: commands.Accept) -> KeyedRun | Running | Stored:
        while True:
            asked_at = trio.current_time()
            told = await self._ledger.execute(command, timeout_s=WRITE_S)
            state, job = JobState(told["state"]), told["job"]
            if state in (JobState.DONE, JobState.FAILED):
                status, digest, size_bytes = told["status"], told["digest"], told["size_bytes"]
                return await self.answers.by_digest(job, status, digest, size_bytes)
            if state in (JobState.CANCELLED, JobState.DEAD):
                raise Ended(f"The request with this key is {state.name.lower()}; use another key.")
            if state is not JobState.CLAIMED:
                raise Ended(f"The request with this key is a job, {job_name(job)}: ask for that.")
            node, key = told.get("node", self._ledger.me), (command.key.scope, command.key.key)
            running = Running(job, told["fence"], node, key)
            if not self.is_live(running):
                continue  # meanwhile more was applied here
            if "node" not in told:
                return self._begin(running, asked_at)
            if not await self._gave_back(running, askers=1):
                return running

    async def _gave_back(self, running: Running, *, askers: int = 0) -> bool:
        """If that is a claim of this node under which nothing runs here: give it back.

        It is left from an earlier life of this node, or of a proposal that was given up and was
        written after all.  `askers` is how many of those who ask for its key know of it.
        """
        row = self._ledger.state.jobs.live.get(running.job)
        if row is None or not self.is_live(running) or running.node != self._ledger.me:
            return False
        if (running.job, running.fence) in self._runs or running.job in self._moving:
            return False
        if any(self._accepting[pair] > askers for pair in row.keys):
            return False
        log.info("a claim under which nothing runs is given back", job=job_name(running.job))
        release = commands.Release(job=running.job, fence=running.fence)
        with suppress(RecordRefused):  # it is over by now
            await self._ledger.execute(release, timeout_s=WRITE_S)
        return True

    def _begin(self, running: Running, asked_at: float) -> KeyedRun:
        job, fence = running.job, running.fence
        # More than a blob holds could not be stored, so it is not kept either.
        said = Said(Share(self._room), limits.BLOB_BYTES)
        run = KeyedRun(self._ledger, self._bodies, said, job, fence, asked_at, self._over)
        self._runs[job, fence] = run
        return run

    async def move(self, job: int, fence: int) -> KeyedRun:
        """Go on here with a run that another node claimed, under a fence of this node's.

        Raises RecordRefused (it is that node's no more), NotWritten, MaybeWritten.
        """
        asked_at = trio.current_time()
        command = commands.Move(job=job, fence=fence, lease_ms=LEASE_MS)
        self._moving[job] += 1
        try:
            told = await self._ledger.execute(command, timeout_s=limits.JOB_LEASE_S)
            running = Running(job, told["fence"], self._ledger.me)
            run = self._begin(running, asked_at)
        finally:
            self._moving[job] -= 1
            if not self._moving[job]:
                del self._moving[job]
        if not self.is_live(running):  # meanwhile more was applied here
            run.stop("it is over")
        return run

    async def end_for(self, running: Running) -> None:
        """End the claim of a node that is gone, if it has it still: whoever asks may run it."""
        command = commands.Fail(job=running.job, fence=running.fence, reason="its node is gone")
        try:
            await self._ledger.execute(command, timeout_s=WRITE_S)
        except MeshdError as error:
            log.info("a claim was not ended", job=job_name(running.job), why=str(error))

    def _over(self, run: KeyedRun) -> None:
        self._runs.pop((run.job, run.fence), None)

    def hurry(self) -> None:
        """This node ends: no run waits for the record any longer than for a moment."""
        for run in self._runs.values():
            run.hurry()

    # ---------------------------------------------------------------- what others run

    def is_live(self, running: Running) -> bool:
        """Whether, as far as this node has heard, that run goes on."""
        row = self._ledger.state.jobs.live.get(running.job)
        return row is not None and row.claim is not None and row.claim.fence == running.fence

    def holds(self, job: int, fence: int) -> bool:
        """Whether that claim stands, as far as this node has heard."""
        running = self.run_of(job)
        return running is not None and running.fence == fence

    def run_of(self, job: int) -> Running | None:
        """The run that the job has now, as far as this node has heard."""
        row = self._ledger.state.jobs.live.get(job)
        if row is None or row.claim is None:
            return None
        key = row.keys[0] if row.keys else ("", "")
        return Running(job, row.claim.fence, NodeId(row.claim.node), key)

    async def until_over(self, running: Running, wait_s: float = float("inf")) -> None:
        """Until it has ended, one way or the other (it has a lease), or that time has passed."""
        with trio.move_on_after(wait_s):
            while True:
                changed = self._jobs.change()
                if not self.is_live(running):
                    return
                await changed.wait()

    @asynccontextmanager
    async def listen(self, running: Running, from_byte: int) -> AsyncIterator[Listener]:
        """Hear what a run says, wherever it is.  Raises NotHeard, also out of the listener."""
        if running.node != self._ledger.me:
            remote = self._remote.listen(running.node, running.job, running.fence, from_byte)
            async with remote as listener:
                yield listener
            return
        with self.said_of(running.job, running.fence).listen(from_byte) as listener:
            yield listener

    def said_of(self, job: int, fence: int) -> Said:
        """What a run of this node has said.  Raises NotHeard if it is none, or none any more."""
        run = self._runs.get((job, fence))
        if run is None:
            raise NotHeard(f"{job_name(job)} does not run here under the fence {fence}")
        return run.said

    async def said_for_others(self, job: int, fence: int) -> Said:
        """The same for another node, which asks since it takes the run to be here."""
        try:
            return self.said_of(job, fence)
        except NotHeard:
            try:
                await self._gave_back(Running(job, fence, self._claimed_by(job)))
            except MeshdError as error:  # the lease ends it
                log.info("a claim was not given back", job=job_name(job), why=str(error))
            raise

    def _claimed_by(self, job: int) -> NodeId:
        row = self._ledger.state.jobs.live.get(job)
        return NodeId(row.claim.node if row is not None and row.claim is not None else "")

    async def answer_of(self, running: Running) -> Stored | None:
        """The answer that the run's key has, if this node has heard of it and can have it now."""
        row = self._ledger.state.jobs.keys.get(*running.key)
        if row is None or row.job != running.job or row.state != JobState.DONE:
            return None
        try:
            return await self.answers.by_digest(row.job, row.status, row.digest, row.size_bytes)
        except (AnswerGone, AnswerAway):
            return None

    # ---------------------------------------------------------------- told by the record

    def happened(self, events: Sequence[Event]) -> None:
        """Events that were just applied here, in order: a run that lost its fence stops at once."""
        for event in events:
            if isinstance(event, JobReturned):
                self._stop(event.job, event.fence, "its lease ended, or it was given back")
            elif isinstance(event, JobFinished):
                cancelled = event.state is JobState.CANCELLED
                why = "it was cancelled" if cancelled else "it is over"
                self._stop(event.row.id, event.fence, why, cancelled=cancelled)

    def _stop(self, job: int, fence: int, why: str, *, cancelled: bool = False) -> None:
        if (run := self._runs.get((job, fence))) is not None:
            run.stop(why, cancelled=cancelled)
