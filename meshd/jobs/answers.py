"""Answers of jobs that are over: found by the job's id, wherever they are kept (trio shell)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from meshd import limits
from meshd.errors import MeshdError, Refused
from meshd.jobs.finished import FinishedJob
from meshd.jobs.finishing import MOVED
from meshd.jobs.holding import Bodies
from meshd.jobs.service import JobService, NoSuchJob, NotRead, id_named
from meshd.record import RecordState
from meshd.record.job_rows import JOBS_PER_COMMAND, AttemptEnd, JobRow, job_name


class Stored(msgspec.Struct, frozen=True):
    """The answer of a job, for good."""

    job: int
    status: int
    body: bytes
    path: str = ""
    """What was asked for; "" if that is not known here."""


class Ended(Refused):
    """The job ended without an answer; the text says how."""


class AnswerGone(Refused):
    """The job was answered, and the answer is no longer kept; the text says since when."""


class AnswerAway(MeshdError):
    """The job was answered, and the nodes that keep the answer cannot be asked now."""


class Answers:
    """Answers of this mesh's jobs, from this node."""

    def __init__(self, jobs: JobService, bodies: Bodies, record: Callable[[], RecordState]) -> None:
        self._jobs = jobs
        self._bodies = bodies
        self._record = record

    def living(self, name: str) -> JobRow | None:
        """The job of that name, if it is not over.  Raises NoSuchJob for what is no name of one."""
        return self._record().jobs.live.get(id_named(name))

    async def catch_up(self, name: str) -> None:
        """Have heard of that job, if there is such a one.

        Raises NoSuchJob for what is no name of one, and as `Ledger.read_barrier`.
        """
        if id_named(name) // JOBS_PER_COMMAND > self._record().index:
            await self._jobs.barrier()

    async def of(self, name: str) -> Stored:
        """The answer of a job that is over.

        Raises NoSuchJob, NotRead, Ended, AnswerGone, AnswerAway.
        """
        job = id_named(name)
        over = await self._jobs.finished(name)
        if over is None and self._record().jobs.dead.get(job) is not None:
            raise Ended(f"{name} ended without an answer: it is dead.")
        if over is None:
            raise self._unknown(name, job)
        if over.state not in ("done", "failed"):
            reason = f" ({over.error})" if over.error not in ("", over.state) else ""
            raise Ended(f"{name} ended without an answer: it is {over.state}{reason}.")
        digest = bytes.fromhex(over.result_digest)
        body = await self._body(over.result, digest, over.result_size_bytes)
        if body is None:
            raise self._gone(name, over)
        return Stored(job, over.status, body, over.path)

    async def by_digest(self, job: int, status: int, digest: bytes, size_bytes: int) -> Stored:
        """The answer of a job that is over, of which the record says this.

        Raises AnswerGone, AnswerAway.
        """
        known = await self._jobs.finished(job_name(job)) if size_bytes else None
        body = await self._body(known.result if known is not None else b"", digest, size_bytes)
        if body is None:
            raise _away(job_name(job)) if known is None else self._gone(job_name(job), known)
        return Stored(job, status, body)

    async def ran_once(self, job: int) -> bool:
        """Whether whatever was said of that job's answer was said by one run.

        A run that another node went on with is one; not known (any more) is no.
        """
        row = self._record().jobs.live.get(job)
        if row is not None:
            return all(attempt.end is AttemptEnd.MOVED for attempt in row.attempts)
        over = await self._jobs.finished(job_name(job))
        if over is None:
            return False
        return sum(attempt.reason != MOVED for attempt in over.attempts) <= 1

    async def _body(self, inline: bytes, digest: bytes, size_bytes: int) -> bytes | None:
        if not size_bytes:
            return b""
        body = inline or (await self._bodies.get(digest) if digest else None) or b""
        return body if hashlib.sha256(body).digest() == digest else None

    def _unknown(self, name: str, job: int) -> MeshdError:
        state = self._record()
        if not state.nodes.is_founded:
            return NotRead("this node has not heard yet what the record holds; ask again soon")
        if job // JOBS_PER_COMMAND > state.index:
            return NoSuchJob(f"there is no job {name}: nothing was ever given that id")
        return NoSuchJob(
            f"there is no job {name}: nothing was given that id, or it was over so long ago that "
            "it is forgotten"
        )

    def _gone(self, name: str, over: FinishedJob) -> MeshdError:
        """What is to be said of an answer that nobody gives."""
        since_ms = over.finished_ms if over.key_scope is None else over.accepted_ms
        kept_until_ms = since_ms + limits.IDEMPOTENCY_KEY_S * 1000
        if self._record().clock.now_unix_ms < kept_until_ms:
            return _away(name)
        expired = datetime.fromtimestamp(kept_until_ms // 1000, UTC)
        return AnswerGone(
            f"the answer of {name} expired at {expired:%Y-%m-%dT%H:%M:%SZ}: it is not kept any more"
        )


def _away(name: str) -> AnswerAway:
    return AnswerAway(f"the nodes that keep the answer of {name} cannot be asked now")
