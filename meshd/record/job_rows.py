"""What the record holds about jobs and idempotency keys.  Pure."""

from __future__ import annotations

import re
import zlib
from enum import IntEnum
from typing import Annotated, Final

from msgspec import Meta

from meshd import limits
from meshd.record.commands_jobs import RequestFields
from meshd.record.fields import (
    Attempts,
    Count,
    DedupeKey,
    Digest,
    DigestOrNone,
    IdempotencyKey,
    Index,
    JobId,
    KeyId,
    LeaseMs,
    NodeOrNone,
    QueueOrNone,
    Scope,
    ShortLine,
    Small,
    Status,
    UnixMs,
    WebHook,
)
from meshd.record.table import Row, Table

JOBS_PER_COMMAND: Final = 1024
_PARTS: Final = 256
_NAME = re.compile(r"j([1-9][0-9]{0,12})(?:\.([1-9][0-9]{0,3}))?\Z")


class JobState(IntEnum):
    """ONLY APPEND."""

    ACCEPTED = 1
    """Known; nobody has it, and it is in no queue: a keyed request whose lease ended.  It goes on
    when its key comes again."""
    QUEUED = 2
    CLAIMED = 3
    DONE = 4
    FAILED = 5
    """It cannot work: the error is the answer."""
    CANCELLED = 6
    DEAD = 7
    """It could have worked: tried often enough, or too late."""


class AttemptEnd(IntEnum):
    """How an attempt ended that did not end the job.  ONLY APPEND."""

    FAILED = 1
    EXPIRED = 2
    RELEASED = 3
    NODE_REMOVED = 4
    MOVED = 5
    """Another node went on with it: the same run, under a claim of its own."""


class ClaimRow(Row, frozen=True):
    """Who has a job, and until it is said otherwise."""

    node: KeyId
    fence: Index
    """The index of the claim; nothing is taken from anybody who names another one."""
    lease_ms: LeaseMs
    claimed_unix_ms: UnixMs
    worker: ShortLine = ""


class AttemptRow(Row, frozen=True):
    node: KeyId
    fence: Index
    claimed_unix_ms: UnixMs
    ended_unix_ms: UnixMs
    end: AttemptEnd
    reason: ShortLine = ""


class JobRow(Row, frozen=True):
    """A job that lives, or (in the table of the dead) did.

    That a job is both queued and claimed cannot even be written down: which it is follows from
    whether there is a claim, and a queue.
    """

    id: JobId
    request: RequestFields
    entry: NodeOrNone
    """The node that took it from its client."""
    accepted_unix_ms: UnixMs
    max_attempts: Attempts
    queue: QueueOrNone = ""
    """Empty: a keyed request, claimed as it was accepted."""
    priority: Small = 0
    not_before_unix_ms: UnixMs = 0
    deadline_unix_ms: UnixMs = 0
    dedupe: DedupeKey = ""
    to_node: NodeOrNone = ""
    webhook: WebHook = ""
    keys: Annotated[tuple[tuple[Scope, IdempotencyKey], ...], Meta(max_length=limits.JOB_KEYS)] = ()
    claim: ClaimRow | None = None
    tries: Count = 0
    """Attempts that count; `attempts` has the newest of all of them."""
    attempts: Annotated[tuple[AttemptRow, ...], Meta(max_length=limits.JOB_ATTEMPTS_KEPT)] = ()
    died_unix_ms: UnixMs = 0

    @property
    def state(self) -> JobState:
        """Of a job that lives."""
        if self.claim is not None:
            return JobState.CLAIMED
        return JobState.QUEUED if self.queue else JobState.ACCEPTED


class KeyRow(Row, frozen=True):
    """An idempotency key, and what became of what it came with."""

    scope: Scope
    key: IdempotencyKey
    fingerprint: Digest
    job: JobId
    expires_unix_ms: UnixMs
    jobs: Annotated[int, Meta(ge=1, le=JOBS_PER_COMMAND)] = 1
    state: Annotated[int, Meta(ge=0, le=127)] = 0
    """A `JobState`; 0: the job lives (or the key stands for several)."""
    status: Status = 0
    digest: DigestOrNone = b""
    size_bytes: Count = 0


class KeptRow(Row, frozen=True):
    """The result of a job that is over, if it is a blob."""

    job: JobId
    digest: Digest
    until_unix_ms: UnixMs


class NoticeRow(Row, frozen=True):
    """A job is over, and its webhook is to be told; or could not be."""

    job: JobId
    url: WebHook
    end: Index
    """Of the command that ended it: it may end again, if it is revived."""
    state: Annotated[int, Meta(ge=int(JobState.DONE), le=127)]
    """A `JobState`: that in which it ended."""
    ended_unix_ms: UnixMs
    until_unix_ms: UnixMs
    entry: NodeOrNone = ""
    """The node that took the job, which tells it if it can."""
    given_up: ShortLine = ""
    """Why nobody tries any more; "": somebody still does."""


def job_table() -> Table[int, JobRow]:
    return Table(
        "jobs",
        JobRow,
        lambda row: row.id,
        parts=_PARTS,
        part_of=lambda job: (job ^ job >> 10) % _PARTS,
    )


def dead_table() -> Table[int, JobRow]:
    return Table("dead", JobRow, lambda row: row.id)


def key_table() -> Table[tuple[str, str], KeyRow]:
    return Table(
        "keys",
        KeyRow,
        lambda row: (row.scope, row.key),
        parts=_PARTS,
        part_of=lambda key: zlib.crc32(key[1].encode()) % _PARTS,
    )


def kept_table() -> Table[int, KeptRow]:
    return Table("kept", KeptRow, lambda row: row.job)


def notice_table() -> Table[int, NoticeRow]:
    return Table("notices", NoticeRow, lambda row: row.job)


def job_id(index: int, number: int = 0) -> int:
    """The id of the job with that number among those that the command at `index` made."""
    return index * JOBS_PER_COMMAND + number


def job_name(job: int) -> str:
    """How people and programs outside call a job: j4711, or j4711.2 of several at once."""
    index, number = divmod(job, JOBS_PER_COMMAND)
    return f"j{index}.{number}" if number else f"j{index}"


def parse_job_name(text: str) -> int | None:
    """The id of the job that is called so; None for what is no name of a job."""
    match = _NAME.match(text)
    if match is None:
        return None
    number = int(match[2] or 0)
    return job_id(int(match[1]), number) if number < JOBS_PER_COMMAND else None
