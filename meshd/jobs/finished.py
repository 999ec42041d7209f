"""What is left of a job, or of a request that was answered without one, when it is over.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from meshd import limits
from meshd.record.commands_jobs import RunFields


class Attempt(msgspec.Struct, frozen=True):
    """One try, and how it ended."""

    node: str
    reason: str
    """"" for the one that worked."""
    way: str = ""
    """How it went on with what an earlier one had said: continue | regenerate; "": it did not."""


class FinishedJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One finished job, or request.  Times are milliseconds of record time.

    Of a request that was no job they are of the mesh's median clock, which that time follows.
    """

    id: str
    state: str
    """done | failed | cancelled | dead."""
    accepted_ms: int
    finished_ms: int
    started_ms: int | None = None
    """None: it never ran."""
    queue: str = ""
    """"" for what was asked for interactively."""
    model: str = ""
    node: str = ""
    """Where it ran last; "" if nowhere."""
    entry: str = ""
    """The node that was asked."""
    key_scope: str | None = None
    """Whose idempotency key it had; None: it had none."""
    attempts: tuple[Attempt, ...] = ()
    request_digest: str = ""
    """SHA-256 in hex, as `result_digest`; "" if it is not known, or there is none."""
    result_digest: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    request_size_bytes: int = 0
    result: bytes = b""
    """What came out, if that is no more than `limits.INLINE_BYTES`; more is a blob."""
    result_size_bytes: int = 0
    status: int = 0
    """The HTTP status of the answer; 0: there was none."""
    run_ms: int = 0
    """How long it ran at last, by the clock of who ran it; of a request, how long it took."""
    path: str = ""
    """What was asked for; of a job for workers ""."""
    streamed: bool = False
    """Of a request, as the rest from here on."""
    first_token_ms: int | None = None
    """From its arrival to the first piece of the answer; None: there was none."""
    api_key: str = ""
    """The id of the API key that the client showed; "": none."""


def runs_told(attempts: Sequence[Attempt]) -> tuple[RunFields, ...]:
    """The runs on engines that one answer took, for the record: none if it was one."""
    if len(attempts) < 2:
        return ()
    return tuple(
        RunFields(node=tried.node, failure=tried.reason, way=tried.way)
        for tried in attempts[-limits.JOB_RUNS_TOLD :]
    )
