"""What people and programs outside are told of requests that were answered without a job.  Pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from meshd.ids import NodeId
from meshd.jobs.finished import FinishedJob


class Failed(msgspec.Struct, frozen=True, omit_defaults=True):
    """An attempt that came to nothing."""

    node: str
    reason: str
    """busy | unreachable | holder_lost | broken | silent | backend | ..."""
    way: str = ""
    """How it went on with what an earlier one had said: continue | regenerate; else anew."""


class RequestView(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A request, as the API tells of it.  Times are of the mesh's clocks, in seconds."""

    id: str
    """The `x-request-id` of the answer."""
    state: str
    """done | failed | cancelled (the client went away)"""
    path: str
    finished_unix_s: float
    total_ms: int
    entry: str
    """The node that was asked."""
    status: int = 0
    """The HTTP status of the answer; an answer that broke off in the middle began with 200."""
    model: str = ""
    node: str = ""
    """The node that answered, or was asked last."""
    reason: str = ""
    """Why there was no answer, or no whole one: as of an attempt."""
    streamed: bool = False
    first_token_ms: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    api_key: str = ""
    """The id of the API key that the client showed."""
    failed: list[Failed] = []
    way: str = ""
    """How the last attempt went on with what an earlier one had said, as of a failed one."""


class RequestsPage(msgspec.Struct, frozen=True):
    """Some requests, the newest first."""

    requests: list[RequestView]
    after: str
    """From where the next page goes on; empty: this is the last one."""
    left_out: int = 0
    """Requests that were only counted since this node started: there were too many at once."""


def request_view_of(row: FinishedJob, name_of: Callable[[NodeId], str]) -> RequestView:
    """A row of the history of requests."""

    def name(node: str) -> str:
        return name_of(NodeId(node)) if node else ""

    return RequestView(
        id=row.id,
        state=row.state,
        path=row.path,
        finished_unix_s=row.finished_ms / 1000,
        total_ms=row.run_ms,
        entry=name(row.entry),
        status=row.status,
        model=row.model,
        node=name(row.node),
        reason=row.error,
        streamed=row.streamed,
        first_token_ms=row.first_token_ms,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        api_key=row.api_key,
        failed=[
            Failed(name(tried.node), tried.reason, tried.way)
            for tried in row.attempts
            if tried.reason
        ],
        way=next((tried.way for tried in row.attempts if not tried.reason), ""),
    )
