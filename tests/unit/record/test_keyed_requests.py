"""Keyed requests: the same key twice is one job."""

from __future__ import annotations

import pytest

from meshd import limits
from meshd.record.commands_jobs import (
    Expire,
    KeyFields,
    Move,
)
from meshd.record.events import (
    JobClaimed,
    JobFinished,
    JobReturned,
)
from meshd.record.job_rows import AttemptEnd, JobState, job_id
from meshd.record.results import Code
from tests.unit.record.logs import HOUR_MS, START_MS, Log, id_of
from tests.unit.record.made import (
    CHAT,
    LEASE_MS,
    RESULT,
    accept,
    complete,
    key,
    refused,
)


@pytest.fixture
def log() -> Log:
    return Log("mini", "studio")


def test_a_keyed_request_is_accepted_and_claimed_at_once(log: Log) -> None:
    result = log.by("mini", accept())
    job = job_id(log.index)
    assert result == {"job": job, "fence": log.index, "state": JobState.CLAIMED, "new": True}
    assert log.events == [JobClaimed(log.index, job, log.index, id_of("mini"), LEASE_MS)]
    row = log.state.jobs.live.get(job)
    assert row is not None
    assert (row.entry, row.accepted_unix_ms, row.request) == (id_of("mini"), START_MS, CHAT)
    log.state.check()


def test_a_repeat_at_another_node_finds_who_has_it(log: Log) -> None:
    first = log.by("mini", accept())
    log.events.clear()
    again = log.by("studio", accept())
    assert (again["job"], again["fence"]) == (first["job"], first["fence"])
    assert (again["node"], again["new"]) == (id_of("mini"), False)
    assert not log.events


def test_a_repeat_of_what_is_done_finds_the_result(log: Log) -> None:
    first = log.by("mini", accept())
    log.by("studio", complete(first["job"], first["fence"], status=200, run_ms=1500))
    again = log.by("studio", accept())
    assert again["state"] == JobState.DONE
    assert (again["job"], again["status"], again["digest"]) == (first["job"], 200, RESULT)
    log.state.check()


def test_the_same_key_with_another_body_is_refused(log: Log) -> None:
    first = log.by("mini", accept())
    log.events.clear()
    assert refused(log, accept(key=key(body="b"))) is Code.KEY_REUSED
    log.by("mini", complete(first["job"], first["fence"]))
    log.events.clear()
    assert refused(log, accept(key=key(body="b"))) is Code.KEY_REUSED
    other_scope = KeyFields(scope="0a1b2c3d", key="k1", fingerprint=bytes(32))
    assert log.by("mini", accept(key=other_scope))["new"] is True


def test_a_keyed_request_whose_lease_ended_goes_on_when_its_key_comes_again(log: Log) -> None:
    first = log.by("mini", accept())
    job, fence = first["job"], first["fence"]
    log.events.clear()
    assert log.do(Expire(job=job, fence=fence)) == {"state": JobState.ACCEPTED}
    assert log.events == [JobReturned(log.index, job, fence)]
    log.state.check()
    again = log.by("studio", accept())
    assert (again["job"], again["fence"], again["new"]) == (job, log.index, False)
    log.events.clear()
    assert refused(log, complete(job, fence)) is Code.OLD_FENCE
    log.by("studio", complete(job, again["fence"]))
    finished = log.happened(JobFinished)[0]
    assert [a.end for a in finished.row.attempts] == [AttemptEnd.EXPIRED]


def test_another_node_goes_on_with_a_run_under_a_fence_of_its_own(log: Log) -> None:
    first = log.by("mini", accept())
    job, old = first["job"], first["fence"]
    log.events.clear()
    moved = log.by("studio", Move(job=job, fence=old, lease_ms=2 * LEASE_MS))
    assert moved == {"job": job, "fence": log.index}
    # Whoever had it hears that it lost it, and before that nobody else has it.
    assert log.events == [
        JobReturned(log.index, job, old),
        JobClaimed(log.index, job, log.index, id_of("studio"), 2 * LEASE_MS),
    ]
    log.events.clear()
    for command in (complete(job, old), Move(job=job, fence=old, lease_ms=LEASE_MS)):
        assert refused(log, command) is Code.OLD_FENCE
    row = log.state.jobs.live.get(job)
    assert row is not None
    assert (row.tries, [attempt.end for attempt in row.attempts]) == (0, [AttemptEnd.MOVED])
    again = log.by("mini", accept())
    assert (again["node"], again["fence"]) == (id_of("studio"), moved["fence"])
    log.by("studio", complete(job, moved["fence"]))
    log.state.check()


def test_a_keyed_request_is_tried_so_often_and_no_more(log: Log) -> None:
    for attempt in range(3):
        told = log.by("mini", accept())
        assert told["state"] == JobState.CLAIMED
        ended = log.do(Expire(job=told["job"], fence=told["fence"]))
        assert ended["state"] == (JobState.DEAD if attempt == 2 else JobState.ACCEPTED)
    assert log.by("mini", accept())["state"] == JobState.DEAD
    assert log.happened(JobFinished)[0].reason == "tried often enough"
    assert len(log.state.jobs.dead) == 0  # there is no queue to put it back into
    log.state.check()


def test_a_key_lives_a_day_of_record_time(log: Log) -> None:
    first = log.by("mini", accept())
    log.by("mini", complete(first["job"], first["fence"]))
    for _ in range(23):
        log.tick(HOUR_MS)
    assert log.by("mini", accept())["new"] is False
    log.tick(HOUR_MS)
    assert len(log.state.jobs.keys) == 0
    assert log.by("mini", accept(key=key(body="b")))["new"] is True
    log.state.check()


def test_a_key_lives_on_as_long_as_its_job_does(log: Log) -> None:
    first = log.by("mini", accept())
    for _ in range(30):
        log.tick(HOUR_MS)
    assert log.by("mini", accept())["job"] == first["job"]
    log.state.check()


def test_a_key_whose_time_is_over_means_its_job_for_as_long_as_that_lives(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while there is more to end than one command may."""
    first = log.by("mini", accept())
    done = log.by("mini", accept(key=key("k2")))
    log.by("mini", complete(done["job"], done["fence"]))
    monkeypatch.setattr(limits, "SWEEP_ROWS", 0)
    for _ in range(24):
        assert log.tick(HOUR_MS)["more"] is True
    assert log.by("mini", accept())["job"] == first["job"]
    assert log.by("mini", accept(key=key("k2")))["new"] is True
    log.state.check()


def test_a_request_that_nobody_asks_for_again_ends_with_its_key(log: Log) -> None:
    first = log.by("mini", accept())
    log.do(Expire(job=first["job"], fence=first["fence"]))
    for _ in range(24):
        log.tick(HOUR_MS)
    finished = log.happened(JobFinished)
    assert [(f.row.id, f.state) for f in finished] == [(first["job"], JobState.DEAD)]
    assert len(log.state.jobs.live) == len(log.state.jobs.keys) == 0
    log.state.check()
