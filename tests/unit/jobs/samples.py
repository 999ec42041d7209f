"""Finished jobs, and requests that are over, for tests."""

from __future__ import annotations

from typing import Any

from meshd.jobs import FinishedJob
from meshd.jobs.trace_rows import Ended


def finished(number: int, **fields: Any) -> FinishedJob:
    """The `number`-th: its times are a second apart."""
    given = {
        "id": f"job-{number:06}",
        "state": "done",
        "model": "tiny",
        "node": "a",
        "accepted_ms": number * 1000,
        "started_ms": number * 1000 + 10,
        "finished_ms": number * 1000 + 500,
        **fields,
    }
    return FinishedJob(**given)


def ended(number: int, **fields: Any) -> Ended:
    """The `number`-th request: they end a second apart, and take half of one."""
    given = {
        "request_id": f"req_{number}",
        "path": "/v1/chat/completions",
        "model": "tiny",
        "api_key": "",
        "streamed": False,
        "began_at": number - 0.5,
        "ended_at": float(number),
        "status": 200,
        **fields,
    }
    return Ended(**given)
