"""Finished jobs for tests."""

from __future__ import annotations

from typing import Any

from meshd.jobs import FinishedJob


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
