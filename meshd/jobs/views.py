"""What programs outside are told of a job, and how what they send is written down.  Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from meshd.errors import Refused
from meshd.ids import NodeId
from meshd.jobs.blob_plan import is_blob
from meshd.record.job_rows import JobRow, JobState, job_name


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One try that did not end the job."""

    node: str
    ended: str
    """failed | expired | released | node_removed | moved"""
    reason: str = ""
    way: str = ""
    """How it went on with what an earlier one had said: continue | regenerate; "": it did not."""
    claimed_unix_s: float = 0.0
    ended_unix_s: float = 0.0


class JobView(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A job, as the API tells of it.  Times are of the record's clock, in seconds."""

    id: str
    state: str
    """accepted | queued | claimed | done | failed | cancelled | dead"""
    accepted_unix_s: float
    queue: str = ""
    model: str = ""
    node: str = ""
    """Who has it, or had it last."""
    to: str = ""
    """The only node that may take it: of a job that was put in for several."""
    worker: str = ""
    fence: int = 0
    lease_s: float = 0.0
    priority: int = 0
    tries: int = 0
    max_attempts: int = 0
    not_before_unix_s: float = 0.0
    deadline_unix_s: float = 0.0
    finished_unix_s: float = 0.0
    attempts: list[Attempt] = []
    way: str = ""
    """How the last one went on with what an earlier one had said, as of an attempt."""
    status: int = 0
    reason: str = ""
    webhook: str = ""
    """Of a job that is over: "to be told", or "given up: " and why; else it was told, or there is
    none."""
    request: Any = None
    """Of a job that lives: the body, or the payload.  If it is large, only where one job is asked
    for, and for who claims it."""
    request_size_bytes: int = 0
    """Of a large one."""
    result: Any = None
    result_is_away: bool = False
    """There is one, and the nodes that keep it cannot be asked now."""


class JobsPage(msgspec.Struct, frozen=True):
    """Some jobs."""

    jobs: list[JobView]
    after: str
    """From where the next page goes on; empty: this is the last one."""


OVER = frozenset({"done", "failed", "cancelled", "dead"})
"""States of a job to which nothing happens any more, unless a dead one is tried again."""


def pack(value: Any) -> bytes:
    """A request, a payload or a result as it is kept."""
    return msgspec.json.encode(value)


def as_json(data: bytes) -> Any:
    """JSON as it is; other text as a string; nothing for nothing."""
    if not data:
        return None
    try:
        return msgspec.json.decode(data)
    except msgspec.MsgspecError:
        return data.decode("utf-8", "replace")


def holder_of(row: JobRow) -> NodeId | None:
    """Who has a job, or had it last."""
    if row.claim is not None:
        return NodeId(row.claim.node)
    return NodeId(row.attempts[-1].node) if row.attempts else None


def view_of(row: JobRow, name_of: Any, *, state: JobState | None = None) -> JobView:
    """A job that lives, or is kept as dead (`state`)."""
    claim, holder = row.claim, holder_of(row)
    last = row.attempts[-1] if row.attempts else None
    return JobView(
        id=job_name(row.id),
        state=(state or row.state).name.lower(),
        accepted_unix_s=row.accepted_unix_ms / 1000,
        queue=row.queue,
        model=row.request.model,
        node=name_of(holder) if holder else "",
        to=name_of(row.to_node) if row.to_node else "",
        worker=claim.worker if claim is not None else "",
        fence=claim.fence if claim is not None else 0,
        lease_s=claim.lease_ms / 1000 if claim is not None else 0.0,
        priority=row.priority,
        tries=row.tries,
        max_attempts=row.max_attempts,
        not_before_unix_s=row.not_before_unix_ms / 1000,
        deadline_unix_s=row.deadline_unix_ms / 1000,
        finished_unix_s=row.died_unix_ms / 1000,
        attempts=[
            Attempt(
                node=name_of(a.node),
                ended=a.end.name.lower(),
                reason=a.reason,
                claimed_unix_s=a.claimed_unix_ms / 1000,
                ended_unix_s=a.ended_unix_ms / 1000,
            )
            for a in row.attempts
        ],
        reason=last.reason if last is not None and state is not None else "",
        request=as_json(row.request.inline),
        request_size_bytes=row.request.size_bytes if is_blob(row.request.size_bytes) else 0,
    )


def state_named(text: str) -> JobState:
    """Raises Refused for what is no state."""
    try:
        return JobState[text.upper()]
    except KeyError:
        names = ", ".join(state.name.lower() for state in JobState)
        raise Refused(f"{text!r} is no state of a job; there are {names}") from None
