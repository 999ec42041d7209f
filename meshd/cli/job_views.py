"""Jobs as a person reads them.  Pure: structs in, printed on a Paper."""

from __future__ import annotations

from typing import Any

import msgspec

from meshd.cli.tables import Cell, Column, Paper
from meshd.cli.words import ago, count, plain
from meshd.jobs.request_views import RequestsPage, RequestView
from meshd.jobs.views import OVER, JobsPage, JobView

_MOODS = {"claimed": "good", "done": "good", "failed": "bad", "dead": "bad", "cancelled": "dim"}


def show_jobs(paper: Paper, page: JobsPage, state: str, now_unix_s: float) -> None:
    """One line each."""
    if not page.jobs:
        paper.line(f"No job is {state}." if state else "No job waits or runs.")
    else:
        paper.table(
            [
                Column("JOB"),
                Column("STATE"),
                Column("QUEUE", grows=True),
                Column("MODEL", grows=True),
                Column("AT", grows=True),
                Column("TRIES", right=True),
                Column("AGE", right=True),
            ],
            [
                [
                    job.id,
                    Cell(job.state, _MOODS.get(job.state, "")),
                    job.queue,
                    _model(job),
                    _holder(job),
                    f"{job.tries}/{job.max_attempts}" if job.max_attempts else "",
                    ago(now_unix_s - job.accepted_unix_s),
                ]
                for job in page.jobs
            ],
        )
    if page.after:
        paper.line()
        paper.line("There may be more: --limit shows more of them.", "dim")
    elif not state:
        paper.line()
        paper.line("Those that are over: --state done, failed, cancelled or dead.", "dim")


def show_job(paper: Paper, job: JobView, now_unix_s: float) -> None:
    """All of one."""
    paper.line(f"{job.id} is {job.state}{_why(job)}", "strong")
    facts = [
        ("queue", job.queue),
        ("model", _model(job)),
        ("priority", str(job.priority) if job.priority else ""),
        ("accepted", f"{ago(now_unix_s - job.accepted_unix_s)} ago"),
        ("at", _holder(job)),
        ("way", _WAYS.get(job.way, job.way)),
        ("over", f"{ago(now_unix_s - job.finished_unix_s)} ago" if job.finished_unix_s else ""),
        ("webhook", job.webhook),
    ]
    for name, value in facts:
        if value:
            paper.item(f"{name:<9}", value)
    if job.state not in OVER:
        for name, unix_s in (("not before", job.not_before_unix_s), ("until", job.deadline_unix_s)):
            if unix_s > now_unix_s:
                paper.item(f"{name:<9}", f"in {ago(unix_s - now_unix_s)}")
    if job.attempts:
        paper.line()
        paper.line(f"{count(len(job.attempts), 'attempt')} that did not end it:")
        for attempt in job.attempts:
            reason = f": {attempt.reason}" if attempt.reason else ""
            ended = _ENDED.get(attempt.ended, attempt.ended)
            paper.item("-", f"{attempt.node}, {ended}{reason}{_went_on(attempt.way)}")
    if job.result_is_away:
        paper.line()
        paper.line("There is a result; the nodes that keep it are away.", "warn")
    for title, value in (("Asked:", job.request), ("Result:", job.result)):
        if value is not None:
            paper.line()
            paper.line(title, "dim")
            for line in answer_text(value).split("\n"):
                paper.line(line)


def show_requests(paper: Paper, page: RequestsPage, now_unix_s: float) -> None:
    """One line each, the newest first."""
    if not page.requests:
        paper.line("No request has left a trace.")
    else:
        paper.table(
            [
                Column("REQUEST"),
                Column("STATE"),
                Column("STATUS", right=True),
                Column("MODEL", grows=True),
                Column("AT", grows=True),
                Column("FIRST", right=True),
                Column("TOTAL", right=True),
                Column("TOKENS", right=True),
                Column("AGE", right=True),
            ],
            [
                [
                    request.id,
                    Cell(request.state, _MOODS.get(request.state, "")),
                    str(request.status or ""),
                    request.model.removesuffix(":latest"),
                    request.node,
                    _seconds(request.first_token_ms),
                    _seconds(request.total_ms),
                    str(request.completion_tokens or ""),
                    ago(now_unix_s - request.finished_unix_s),
                ]
                for request in page.requests
            ],
        )
    if page.after:
        paper.line()
        paper.line("There are more: --limit shows more of them.", "dim")
    if page.left_out:
        paper.line()
        paper.line(f"{count(page.left_out, 'request')} more came at once and were only counted.")


def show_request(paper: Paper, request: RequestView, now_unix_s: float) -> None:
    """All of one."""
    why = f": {request.reason}" if request.reason else ""
    paper.line(f"{request.id} is {request.state}{why}", "strong")
    tokens = request.prompt_tokens or request.completion_tokens
    facts = [
        ("path", request.path + (", streamed" if request.streamed else "")),
        ("status", str(request.status or "")),
        ("model", request.model.removesuffix(":latest")),
        ("entry", request.entry),
        ("at", request.node),
        ("way", _WAYS.get(request.way, request.way)),
        ("over", f"{ago(now_unix_s - request.finished_unix_s)} ago"),
        ("first", _seconds(request.first_token_ms)),
        ("total", _seconds(request.total_ms)),
        (
            "tokens",
            f"{request.prompt_tokens} in, {request.completion_tokens} out" if tokens else "",
        ),
        ("API key", request.api_key),
    ]
    for name, value in facts:
        if value:
            paper.item(f"{name:<9}", value)
    if request.failed:
        paper.line()
        paper.line(f"{count(len(request.failed), 'attempt')} came to nothing:")
        for attempt in request.failed:
            paper.item("-", f"{attempt.node}: {attempt.reason}{_went_on(attempt.way)}")


def _seconds(ms: int | None) -> str:
    return "" if ms is None else f"{ms / 1000:.2f} s"


def _went_on(way: str) -> str:
    return f" ({_WAYS.get(way, way)})" if way else ""


_WAYS = {
    "continue": "went on where another broke off",
    "regenerate": "ran it again and went on behind what was said",
}
_ENDED = {
    "failed": "failed",
    "expired": "fell silent",
    "released": "given back",
    "node_removed": "the node was removed",
}


def answer_text(value: Any) -> str:
    """The text of an answer or an error in either dialect; anything else as JSON."""
    match value:
        case str():
            text = value
        case {"choices": [{"message": {"content": str() as text}}, *_]}:
            pass
        case {"choices": [{"text": str() as text}, *_]}:
            pass
        case {"message": {"content": str() as text}} | {"response": str() as text}:
            pass
        case {"error": {"message": str() as text}} | {"error": str() as text}:
            pass
        case {"messages": [{"content": str() as text}]}:
            pass  # a question
        case _:
            text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return "\n".join(plain(line) for line in text.strip().split("\n"))


def _model(job: JobView) -> str:
    return job.model.removesuffix(":latest")


def _holder(job: JobView) -> str:
    if job.worker:
        return f"{job.worker} by way of {job.node}"
    return job.node or (f"for {job.to}" if job.to else "")


def _why(job: JobView) -> str:
    return f": {job.reason}" if job.reason else ""
