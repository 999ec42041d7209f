"""What is kept outside of the record, and for how long."""

from __future__ import annotations

import pytest

from meshd.record.commands_jobs import Cancel, RequestFields, Retry
from tests.unit.record.logs import HOUR_MS, START_MS, Log
from tests.unit.record.made import RESULT, accept, complete, submit


@pytest.fixture
def log() -> Log:
    return Log("mini")


def test_blobs_are_known_as_long_as_somebody_may_ask_for_them(log: Log) -> None:
    large = RequestFields(digest=b"\1" * 32, size_bytes=9000, model="llama3")
    first = log.by("mini", accept(request=large))
    log.by("mini", submit())  # small: it is in the log
    assert list(log.state.blobs()) == [b"\1" * 32]
    log.by("mini", complete(first["job"], first["fence"], size_bytes=9000))
    assert list(log.state.blobs()) == [RESULT]
    dead = log.by("mini", submit(request=large, deadline_unix_ms=START_MS + 1))["job"]
    log.tick(1)
    assert set(log.state.blobs()) == {RESULT, b"\1" * 32}
    log.by("mini", Retry(job=dead))
    log.by("mini", Cancel(job=dead))
    for _ in range(24):
        log.tick(HOUR_MS)
    assert list(log.state.blobs()) == []


def test_blobs_are_those_of_one_moment(log: Log) -> None:
    for number in range(20):
        request = RequestFields(digest=bytes([number]) * 32, size_bytes=9000)
        log.by("mini", submit(request=request))
    blobs = log.state.blobs()
    found = {next(blobs)}
    for job in [row.id for row in log.state.jobs.live.page(0, 20, lambda row: True)]:
        log.by("mini", Cancel(job=job))
    assert len(found | set(blobs)) == 20
