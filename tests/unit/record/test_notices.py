"""Ends of jobs that somebody outside waits for."""

from __future__ import annotations

import pytest

from meshd import limits
from meshd.record.commands_jobs import Cancel, Notified, Retry
from meshd.record.events import NoticeDue
from meshd.record.results import Code
from tests.unit.record.logs import HOUR_MS, START_MS, Log, code_of, id_of
from tests.unit.record.made import complete, submit, take

URL = "https://bots.example.org/done"


@pytest.fixture
def log() -> Log:
    return Log("mini")


def ended(log: Log) -> tuple[int, int]:
    """A job with a webhook that is done, and the index of its end."""
    job = log.by("mini", submit(webhook=URL))["job"]
    fence = log.by("mini", take())["fence"]
    log.by("mini", complete(job, fence))
    return job, log.index


def test_an_end_is_noted_until_it_was_told(log: Log) -> None:
    job, end = ended(log)
    assert log.happened(NoticeDue) == [NoticeDue(end, job)]
    row = log.state.jobs.notices.get(job)
    assert row is not None
    assert (row.url, row.entry, row.end, row.given_up) == (URL, id_of("mini"), end, "")
    log.by("attic", Notified(job=job, end=end))
    assert len(log.state.jobs.notices) == 0
    assert code_of(log.by_raw("attic", Notified(job=job, end=end))) is Code.NOT_THERE
    log.state.check()


def test_what_nobody_could_be_told_stays_for_a_look_and_a_day(log: Log) -> None:
    job, end = ended(log)
    log.by("mini", Notified(job=job, end=end, given_up="status 500"))
    for _ in range(24):
        row = log.state.jobs.notices.get(job)
        assert row is not None
        assert row.given_up == "status 500"
        log.tick(HOUR_MS)
    assert len(log.state.jobs.notices) == 0
    assert log.state.next_due_unix_ms() is None


def test_each_end_is_noted_also_of_a_job_that_is_revived(log: Log) -> None:
    job = log.by("mini", submit(webhook=URL, deadline_unix_ms=START_MS + 1))["job"]
    log.tick(1)
    first = log.index
    log.by("mini", Retry(job=job))
    log.by("mini", Cancel(job=job))
    row = log.state.jobs.notices.get(job)
    assert row is not None
    assert row.end == log.index
    assert code_of(log.by_raw("mini", Notified(job=job, end=first))) is Code.NOT_THERE
    assert [event.index for event in log.happened(NoticeDue)] == [first, log.index - 1]


def test_no_more_are_taken_than_there_is_room_for(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WEBHOOKS", 3)
    ended(log)
    log.by("mini", submit(webhook=URL))
    assert code_of(log.by_raw("mini", submit(webhook=URL, to_all=True))) is Code.TOO_MANY
    log.by("mini", submit(to_all=True))
    log.by("mini", submit(webhook=URL))
    assert code_of(log.by_raw("mini", submit(webhook=URL))) is Code.TOO_MANY
    log.state.check()
