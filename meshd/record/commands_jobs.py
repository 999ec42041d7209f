"""The bodies of commands about jobs.  Pure.

What each does is with its reducer (jobs.py); here are form and size only.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from meshd import limits
from meshd.record.commands_registry import Command
from meshd.record.fields import (
    Attempts,
    Count,
    DedupeKey,
    Digest,
    DigestOrNone,
    IdempotencyKey,
    Index,
    Inline,
    JobId,
    KeyId,
    LabelOrNone,
    LeaseMs,
    ModelName,
    ModelOrNone,
    NodeOrNone,
    PauseMs,
    QueueName,
    QueueOrNone,
    Scope,
    ShortLine,
    Small,
    Status,
    UnixMs,
    WebHook,
)


class KeyFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """An idempotency key and what it was given with."""

    scope: Scope
    key: IdempotencyKey
    fingerprint: Digest
    """Of method, path and body: the same key with another one is refused."""


class RequestFields(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    gc=False,
):
    """What is to be done: an inference request (it has a model), or a payload for workers."""

    digest: Digest
    size_bytes: Count
    inline: Inline = b""
    path: ShortLine = ""
    model: ModelOrNone = ""


class Accept(Command, frozen=True):
    """A keyed request came in: note it and claim it at once, or say what became of it."""

    key: KeyFields
    request: RequestFields
    lease_ms: LeaseMs
    max_attempts: Attempts = 3


class Submit(Command, frozen=True):
    """Put a job into a queue; with `to_all` or `to_label` one for each such node."""

    queue: QueueName
    request: RequestFields
    priority: Small = 0
    not_before_unix_ms: UnixMs = 0
    deadline_unix_ms: UnixMs = 0
    """0: none."""
    max_attempts: Attempts = 3
    dedupe: DedupeKey = ""
    """While a job with it lives in this queue, that one is meant."""
    to_all: bool = False
    to_label: LabelOrNone = ""
    to_node: NodeOrNone = ""
    webhook: WebHook = ""
    key: KeyFields | None = None


class Claim(Command, frozen=True):
    """Take that job, if it is queued."""

    job: JobId
    lease_ms: LeaseMs
    worker: ShortLine = ""


class ClaimNext(Command, frozen=True):
    """Take the first jobs of a queue for workers, or of inference requests for these models."""

    lease_ms: LeaseMs
    queue: QueueOrNone = ""
    models: Annotated[tuple[ModelName, ...], Meta(max_length=limits.CLAIM_MODELS)] = ()
    most: Annotated[int, Meta(ge=1, le=limits.CLAIMS_PER_COMMAND)] = 1
    worker: ShortLine = ""


class Renew(Command, frozen=True):
    """Whoever has the job is still at it."""

    job: JobId
    fence: Index
    lease_ms: LeaseMs


class RunFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A run on an engine, of several that one answer took."""

    node: KeyId
    failure: ShortLine = ""
    """Why it came to nothing, or broke off; "": it brought the end of the answer."""
    way: ShortLine = ""
    """How it went on with what another had said: continue | regenerate; "": from the start."""


class Complete(Command, frozen=True):
    """It is done, and this is the result."""

    job: JobId
    fence: Index
    digest: Digest
    size_bytes: Count
    inline: Inline = b""
    status: Status = 200
    run_ms: Count = 0
    """By the holder's own clock."""
    runs: Annotated[tuple[RunFields, ...], Meta(max_length=limits.JOB_RUNS_TOLD)] = ()
    """Where it took several."""


class Fail(Command, frozen=True):
    """It did not work: again after a pause, or, if `final`, never."""

    job: JobId
    fence: Index
    reason: ShortLine
    final: bool = False
    pause_ms: PauseMs = 0
    status: Status = 0
    digest: DigestOrNone = b""
    """Of the error as the client gets it, if `final`."""
    size_bytes: Count = 0
    inline: Inline = b""
    run_ms: Count = 0


class Release(Command, frozen=True):
    """Give it back undone; that is no attempt."""

    job: JobId
    fence: Index
    pause_ms: PauseMs = 0


class Expire(Command, frozen=True):
    """The leader, by its own monotonic clock: the lease under this fence is over."""

    job: JobId
    fence: Index


class Move(Command, frozen=True):
    """The node that runs it goes on with it in place of the one that had claimed it."""

    job: JobId
    fence: Index
    lease_ms: LeaseMs


class Cancel(Command, frozen=True):
    job: JobId


class Retry(Command, frozen=True):
    """Put a dead job into its queue again, as if it had never been tried."""

    job: JobId


class LetGo(Command, frozen=True):
    """A removed node's jobs go on without it; a limited number at once (`more` in the result)."""

    node: KeyId


class Notified(Command, frozen=True):
    """Whoever waits for the end of a job has been told by its webhook, or cannot be."""

    job: JobId
    end: Index
    """Of the command that ended the job."""
    given_up: ShortLine = ""
    """Why nobody is to try any more."""
