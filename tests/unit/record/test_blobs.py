"""What is kept outside of the record, and for how long."""

from __future__ import annotations

import pytest

from meshd import limits
from meshd.record.commands_jobs import Cancel, RequestFields, Retry
from tests.unit.record.logs import HOUR_MS, START_MS, Log
from tests.unit.record.made import RESULT, accept, complete, submit, take


def blobs(log: Log) -> list[bytes]:
    return [digest for some in log.state.blobs() for digest in some]


@pytest.fixture
def log() -> Log:
    return Log("mini")


LARGE = RequestFields(digest=b"\1" * 32, size_bytes=9000, model="llama3")


def test_blobs_are_known_as_long_as_somebody_may_ask_for_them(log: Log) -> None:
    first = log.by("mini", accept(request=LARGE))
    log.by("mini", submit())  # small: it is in the log
    assert blobs(log) == []  # whoever repeats a keyed request has its body
    log.by("mini", complete(first["job"], first["fence"], size_bytes=9000))
    assert blobs(log) == [RESULT]
    dead = log.by("mini", submit(request=LARGE, deadline_unix_ms=START_MS + 1))["job"]
    log.tick(1)
    assert set(blobs(log)) == {RESULT, b"\1" * 32}
    log.by("mini", Retry(job=dead))
    log.by("mini", Cancel(job=dead))
    for _ in range(24):
        log.tick(HOUR_MS)
    assert blobs(log) == []


def test_the_large_result_of_a_job_that_is_over_is_named_for_a_day(log: Log) -> None:
    log.by("mini", submit())
    fence = log.by("mini", take())
    log.by("mini", complete(fence["jobs"][0], fence["fence"], size_bytes=9000))
    for _ in range(24):
        assert blobs(log) == [RESULT]
        assert log.replayed().next_due_unix_ms() == START_MS + 24 * HOUR_MS
        log.tick(HOUR_MS)
    assert blobs(log) == []
    assert log.state.next_due_unix_ms() is None
    log.state.check()


def test_of_too_many_kept_results_the_oldest_is_named_no_more(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RESULTS_KEPT", 3)
    for number in range(5):
        log.by("mini", submit())
        fence = log.by("mini", take())
        digest = bytes([number]) * 32
        log.by(
            "mini",
            complete(fence["jobs"][0], fence["fence"], digest=digest, size_bytes=9000),
        )
        log.tick(1)
    assert blobs(log) == [bytes([number]) * 32 for number in (2, 3, 4)]
    log.state.check()


def test_blobs_are_those_of_one_moment(log: Log) -> None:
    for number in range(20):
        request = RequestFields(digest=bytes([number]) * 32, size_bytes=9000)
        log.by("mini", submit(request=request))
    items = log.state.blobs()
    found = set(next(items))
    for job in [row.id for row in log.state.jobs.live.page(0, 20, lambda row: True)]:
        log.by("mini", Cancel(job=job))
    assert len(found.union(*items)) == 20


def test_what_is_in_the_log_itself_is_no_blob(log: Log) -> None:
    """A key knows the size of a small result and not that it was in the log."""
    job = log.by("mini", accept())
    log.by("mini", complete(job["job"], job["fence"], size_bytes=limits.INLINE_BYTES))
    assert blobs(log) == []
