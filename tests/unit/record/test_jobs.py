"""Jobs: who may say what of them, how they fail, and how many there may be."""

from __future__ import annotations

import pytest

from meshd import limits
from meshd.record.commands import Entry, Malformed, encode
from meshd.record.commands_jobs import (
    Cancel,
    Expire,
    Fail,
    Release,
    Renew,
    Retry,
)
from meshd.record.events import (
    JobFinished,
    JobForgotten,
    LeaseRenewed,
)
from meshd.record.job_rows import JobState
from meshd.record.results import Code
from meshd.wire.codec import pack
from tests.unit.record.logs import HOUR_MS, START_MS, Log, code_of, id_of
from tests.unit.record.made import (
    LEASE_MS,
    RESULT,
    accept,
    complete,
    key,
    refused,
    submit,
    take,
)


@pytest.fixture
def log() -> Log:
    return Log("mini", "studio")


# --- fences and leases


def test_nothing_is_taken_under_an_old_fence(log: Log) -> None:
    job = log.by("mini", submit())["job"]
    old = log.by("mini", take())["fence"]
    log.do(Expire(job=job, fence=old))
    new = log.by("studio", take())["fence"]
    log.events.clear()
    for command in (
        complete(job, old),
        Renew(job=job, fence=old, lease_ms=LEASE_MS),
        Fail(job=job, fence=old, reason="no"),
        Release(job=job, fence=old),
        Expire(job=job, fence=old),
        complete(job, new + 1),
    ):
        assert refused(log, command) is Code.OLD_FENCE
    log.by("studio", complete(job, new))
    log.events.clear()
    assert refused(log, complete(job, new)) is Code.NO_SUCH_JOB


def test_who_has_the_fence_may_complete_whoever_it_is(log: Log) -> None:
    """The entry that claimed it is gone, the holder has the result."""
    first = log.by("mini", accept())
    log.by("studio", complete(first["job"], first["fence"]))
    assert log.happened(JobFinished)[0].state is JobState.DONE


def test_a_lease_does_not_end_by_time(log: Log) -> None:
    first = log.by("mini", accept())
    for _ in range(5):
        log.tick(HOUR_MS)
    row = log.state.jobs.live.get(first["job"])
    assert row is not None
    assert row.state is JobState.CLAIMED


def test_a_renewal_is_told_to_whoever_keeps_the_time(log: Log) -> None:
    first = log.by("mini", accept())
    log.events.clear()
    log.by("mini", Renew(job=first["job"], fence=first["fence"], lease_ms=30_000))
    assert log.events == [LeaseRenewed(log.index, first["job"], first["fence"], 30_000)]
    assert [row.claim.lease_ms for row in log.state.jobs.live.claims() if row.claim] == [30_000]


def test_a_new_leader_finds_all_claims(log: Log) -> None:
    jobs = [log.by(node, accept(key=key(node)))["job"] for node in ("mini", "studio", "attic")]
    log.by("mini", submit())
    assert [row.id for row in log.state.jobs.live.claims()] == jobs


@pytest.mark.parametrize("lease_ms", [-1, 0, 999, 3_600_001, 2**60])
def test_a_lease_of_no_sensible_length_is_no_command(log: Log, lease_ms: int) -> None:
    command = accept(lease_ms=lease_ms)
    with pytest.raises(Malformed, match="lease_ms"):
        encode(Entry(command, id_of("mini"), 1, 9))
    body = {"lease_ms": lease_ms, "queue": "bots"}
    raw = pack([1, id_of("mini"), 1, 9, 0, 35, body])
    before = log.state.digest()
    assert code_of(log.apply(raw)) is Code.MALFORMED
    assert log.state.digest() == before


@pytest.mark.parametrize("queue", ["", "q" * 10_000, "a b", "ä", "a\n", ".hidden", "a/b"])
def test_a_queue_of_no_sensible_name_is_no_command(queue: str) -> None:
    with pytest.raises(Malformed, match="queue"):
        encode(Entry(submit(queue=queue), id_of("mini"), 1, 9))


# --- failures


def test_a_failed_attempt_is_tried_again_after_a_pause(log: Log) -> None:
    job = log.by("mini", submit())["job"]
    fence = log.by("mini", take())["fence"]
    failed = log.by("mini", Fail(job=job, fence=fence, reason="no room", pause_ms=2000))
    assert failed == {"state": JobState.QUEUED}
    assert log.by("mini", take())["jobs"] == []
    log.tick(2000)
    assert log.by("studio", take())["jobs"] == [job]
    row = log.state.jobs.live.get(job)
    assert row is not None
    (attempt,) = row.attempts
    assert (attempt.node, attempt.fence, attempt.reason) == (id_of("mini"), fence, "no room")
    log.state.check()


def test_a_job_that_fails_often_enough_is_dead_and_kept_for_a_retry(log: Log) -> None:
    job = log.by("mini", submit(key=key(), max_attempts=2))["job"]
    for _ in range(2):
        fence = log.by("mini", take())["fence"]
        log.by("mini", Fail(job=job, fence=fence, reason="broken"))
    (finished,) = log.happened(JobFinished)
    assert (finished.state, finished.reason, finished.fence) == (JobState.DEAD, "broken", fence)
    assert [row.id for row in log.state.jobs.dead.rows()] == [job]
    assert log.by("mini", submit(key=key()))["state"] == JobState.DEAD
    log.state.check()
    log.by("mini", Retry(job=job))
    log.state.check()
    assert log.by("mini", submit(key=key()))["state"] == JobState.QUEUED
    assert log.by("mini", take())["jobs"] == [job]
    log.events.clear()
    assert refused(log, Retry(job=job)) is Code.NOT_DEAD


def test_a_failure_that_is_final_is_the_answer(log: Log) -> None:
    first = log.by("mini", accept())
    error = Fail(job=first["job"], fence=first["fence"], reason="bad request", final=True,
                 status=400, digest=RESULT, size_bytes=6)  # fmt: skip
    assert log.by("mini", error) == {"state": JobState.FAILED}
    again = log.by("mini", accept())
    assert (again["state"], again["status"], again["digest"]) == (JobState.FAILED, 400, RESULT)


def test_what_is_released_was_not_tried(log: Log) -> None:
    job = log.by("mini", submit(max_attempts=1))["job"]
    for _ in range(limits.JOB_ATTEMPTS_KEPT + 3):
        fence = log.by("mini", take())["fence"]
        assert log.by("mini", Release(job=job, fence=fence))["state"] == JobState.QUEUED
    row = log.state.jobs.live.get(job)
    assert row is not None
    assert (row.tries, len(row.attempts)) == (0, limits.JOB_ATTEMPTS_KEPT)
    fence = log.by("mini", take())["fence"]
    assert log.do(Expire(job=job, fence=fence))["state"] == JobState.DEAD
    log.state.check()


def test_a_job_can_be_cancelled_whatever_it_is_doing(log: Log) -> None:
    queued = log.by("mini", submit())["job"]
    held = log.by("mini", accept())
    waiting = log.by("mini", accept(key=key("k2")))
    log.do(Expire(job=waiting["job"], fence=waiting["fence"]))
    log.events.clear()
    for job in (queued, held["job"], waiting["job"]):
        log.by("mini", Cancel(job=job))
    finished = log.happened(JobFinished)
    assert [f.state for f in finished] == [JobState.CANCELLED] * 3
    assert [f.fence for f in finished] == [0, held["fence"], 0]
    log.events.clear()
    assert refused(log, complete(held["job"], held["fence"])) is Code.NO_SUCH_JOB
    assert refused(log, Cancel(job=queued)) is Code.NO_SUCH_JOB
    assert log.by("mini", accept())["state"] == JobState.CANCELLED
    log.state.check()


# --- bounds


def test_live_jobs_are_bounded(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOBS_LIVE", 2)
    first = log.by("mini", accept())
    log.by("mini", submit())
    log.events.clear()
    assert refused(log, accept(key=key("k2"))) is Code.TOO_MANY_JOBS
    assert refused(log, submit()) is Code.TOO_MANY_JOBS
    assert log.by("mini", accept())["job"] == first["job"]  # a repeat needs no room
    log.by("mini", complete(first["job"], first["fence"]))
    assert log.by("mini", accept(key=key("k2")))["new"] is True


def test_queued_jobs_are_bounded_but_those_that_come_back_are_let_in(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "JOBS_QUEUED", 2)
    job = log.by("mini", submit())["job"]
    fence = log.by("mini", take())["fence"]
    log.by("mini", submit())
    log.by("mini", submit())
    log.events.clear()
    assert refused(log, submit()) is Code.QUEUE_FULL
    assert log.by("mini", Release(job=job, fence=fence))["state"] == JobState.QUEUED
    log.events.clear()
    assert refused(log, submit(to_all=True)) is Code.QUEUE_FULL
    log.state.check()


def test_keys_are_bounded(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDEMPOTENCY_KEYS", 1)
    log.by("mini", accept())
    log.events.clear()
    assert refused(log, accept(key=key("k2"))) is Code.TOO_MANY_KEYS
    assert refused(log, submit(key=key("k2"))) is Code.TOO_MANY_KEYS
    log.state.check()


def test_queues_are_bounded(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUEUES", 1)
    log.by("mini", submit())
    log.events.clear()
    assert refused(log, submit(queue="other")) is Code.TOO_MANY_QUEUES
    log.by("mini", submit())


def test_the_dead_are_bounded_by_number_and_by_time(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "JOBS_DEAD", 2)
    jobs = [log.by("mini", submit(deadline_unix_ms=START_MS + 1))["job"] for _ in range(3)]
    log.tick(1)
    assert [event.job for event in log.happened(JobForgotten)] == jobs[:1]
    for _ in range(7 * 24):
        log.tick(HOUR_MS)
    assert [event.job for event in log.happened(JobForgotten)] == jobs[1:]
    log.state.check()


def test_a_dead_job_comes_back_only_where_there_is_room(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = log.by("mini", submit(deadline_unix_ms=START_MS + 1, dedupe="d"))["job"]
    log.tick(1)
    other = log.by("mini", submit(dedupe="d", queue="bots"))["job"]
    log.events.clear()
    assert refused(log, Retry(job=dead)) is Code.EXISTS
    monkeypatch.setattr(limits, "JOBS_QUEUED", 1)
    assert refused(log, Retry(job=dead)) is Code.QUEUE_FULL
    log.by("mini", Cancel(job=other))
    log.by("mini", Retry(job=dead))
    row = log.state.jobs.live.get(dead)
    assert row is not None
    assert row.deadline_unix_ms == 0
    log.state.check()


def test_a_retry_does_not_take_a_key_that_means_another_job_by_now(log: Log) -> None:
    dead = log.by("mini", submit(deadline_unix_ms=START_MS + 1, key=key()))["job"]
    for _ in range(25):
        log.tick(HOUR_MS)
    other = log.by("mini", submit(key=key(body="b")))["job"]
    log.by("mini", Retry(job=dead))
    log.state.check()
    log.by("mini", Cancel(job=dead))
    log.state.check()
    told = log.by("mini", submit(key=key(body="b")))
    assert (told["job"], told["state"]) == (other, JobState.QUEUED)
