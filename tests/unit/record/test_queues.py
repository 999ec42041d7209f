"""Queues: who gets which job when, and what becomes of dead ones."""

from __future__ import annotations

import pytest

from meshd import limits
from meshd.record.commands_jobs import (
    Claim,
    LetGo,
    Release,
    Retry,
)
from meshd.record.commands_registry import ConfirmClock, Remove, Tick
from meshd.record.events import (
    JobFinished,
    JobQueued,
    JobReturned,
)
from meshd.record.job_rows import JobState, job_id, job_name, parse_job_name
from meshd.record.results import Code
from meshd.record.state import RecordState
from tests.unit.record.logs import HOUR_MS, START_MS, Log, code_of, id_of
from tests.unit.record.made import (
    CHAT,
    LEASE_MS,
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


# --- queues


def test_a_queued_job_is_claimed_done_and_told(log: Log) -> None:
    submitted = log.by("mini", submit())
    job = submitted["job"]
    assert submitted == {"job": job, "jobs": 1, "state": JobState.QUEUED, "new": True}
    assert log.happened(JobQueued) == [JobQueued(log.index, job, "bots", "", "")]
    claimed = log.by("studio", take(worker="bot 1"))
    assert claimed == {"jobs": [job], "fence": log.index}
    log.tick(2000)
    log.by("studio", complete(job, claimed["fence"], inline=b"result", run_ms=1999))
    (finished,) = log.happened(JobFinished)
    assert (finished.state, finished.inline, finished.run_ms) == (JobState.DONE, b"result", 1999)
    assert finished.finished_unix_ms == START_MS + 2000
    assert finished.row.claim is not None
    assert (finished.row.claim.worker, finished.fence) == ("bot 1", claimed["fence"])
    assert log.state.jobs.live.get(job) is None
    assert log.state.jobs.live.queues() == {}
    log.state.check()


def test_the_higher_priority_goes_first_then_the_older(log: Log) -> None:
    jobs = [log.by("mini", submit(priority=p))["job"] for p in (0, 5, -5, 5)]
    got = log.by("mini", take(most=16))["jobs"]
    assert got == [jobs[1], jobs[3], jobs[0], jobs[2]]
    assert log.by("mini", take())["jobs"] == []


def test_queues_are_apart_and_workers_do_not_get_what_the_mesh_runs(log: Log) -> None:
    work = log.by("mini", submit())["job"]
    chat = log.by("mini", submit(request=CHAT))["job"]
    assert log.by("mini", take(queue="other", most=16))["jobs"] == []
    assert log.by("mini", take(most=16))["jobs"] == [work]
    assert log.by("mini", take(queue="", models=("qwen3",)))["jobs"] == []
    assert log.by("mini", take(queue="", models=("qwen3", "llama3"), most=4))["jobs"] == [chat]
    log.state.check()


def test_a_job_of_a_name_can_be_claimed_once(log: Log) -> None:
    job = log.by("mini", submit())["job"]
    log.by("mini", Claim(job=job, lease_ms=LEASE_MS))
    log.events.clear()
    assert refused(log, Claim(job=job, lease_ms=LEASE_MS), "studio") is Code.NOT_QUEUED
    assert refused(log, Claim(job=job + 1, lease_ms=LEASE_MS)) is Code.NO_SUCH_JOB


def test_a_job_waits_for_its_time(log: Log) -> None:
    later = log.by("mini", submit(not_before_unix_ms=START_MS + 5000, priority=9))["job"]
    now = log.by("mini", submit())["job"]
    log.events.clear()
    assert refused(log, Claim(job=later, lease_ms=LEASE_MS)) is Code.NOT_QUEUED
    assert log.state.jobs.next_due_unix_ms() == START_MS + 5000
    assert log.by("mini", take(most=2))["jobs"] == [now]
    log.tick(5000)
    assert log.by("mini", take(most=2))["jobs"] == [later]
    log.state.check()


def test_a_job_dies_of_its_deadline_in_the_queue(log: Log) -> None:
    job = log.by("mini", submit(deadline_unix_ms=START_MS + 5000))["job"]
    log.events.clear()
    assert refused(log, submit(deadline_unix_ms=START_MS)) is Code.TOO_LATE
    log.tick(4999)
    assert log.state.jobs.live.get(job) is not None
    log.tick(1)
    (finished,) = log.happened(JobFinished)
    assert (finished.state, finished.reason) == (JobState.DEAD, "deadline passed")
    assert log.by("mini", take())["jobs"] == []


def test_a_claimed_job_is_not_taken_away_by_its_deadline_but_does_not_come_back(log: Log) -> None:
    job = log.by("mini", submit(deadline_unix_ms=START_MS + 5000))["job"]
    fence = log.by("mini", take())["fence"]
    log.tick(6000)
    assert log.state.jobs.live.get(job) is not None
    assert log.by("mini", Release(job=job, fence=fence)) == {"state": JobState.DEAD}
    log.state.check()


def test_many_overdue_jobs_end_over_several_commands(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SWEEP_ROWS", 3)
    for _ in range(5):
        log.by("mini", submit(deadline_unix_ms=START_MS + 1))
    assert log.tick(10)["more"] is True
    assert len(log.state.jobs.live) == 2
    assert log.tick(0)["more"] is False
    assert len(log.state.jobs.live) == 0


def test_what_is_over_by_the_clock_of_a_person_s_confirmation_ends_too(log: Log) -> None:
    log.by("mini", submit(deadline_unix_ms=START_MS + HOUR_MS))
    night = START_MS + 9 * HOUR_MS
    log.do(Tick(unix_ms=night))
    assert len(log.state.jobs.live) == 1
    log.do(ConfirmClock(unix_ms=night))
    assert len(log.state.jobs.live) == 0


# --- one job for several, several for one


def test_a_dedupe_key_finds_the_job_that_lives(log: Log) -> None:
    first = log.by("mini", submit(dedupe="message 7"))
    again = log.by("studio", submit(dedupe="message 7", key=key()))
    assert (again["job"], again["new"]) == (first["job"], False)
    assert log.by("mini", submit(dedupe="message 7", queue="other"))["new"] is True
    fence = log.by("mini", take())["fence"]
    log.by("mini", complete(first["job"], fence))
    assert log.by("studio", submit(key=key()))["state"] == JobState.DONE
    assert log.by("mini", submit(dedupe="message 7"))["new"] is True
    log.state.check()


def test_a_job_has_so_many_keys(log: Log) -> None:
    log.by("mini", submit(dedupe="d"))
    for number in range(limits.JOB_KEYS):
        log.by("mini", submit(dedupe="d", key=key(f"k{number}")))
    log.events.clear()
    assert refused(log, submit(dedupe="d", key=key("one more"))) is Code.TOO_MANY
    log.state.check()


def test_a_broadcast_is_one_job_for_each_node(log: Log) -> None:
    log.admit("laptop", labels=("quiet",))
    told = log.by("mini", submit(to_all=True, key=key(), dedupe="d"))
    assert told["jobs"] == 4
    again = log.by("mini", submit(to_all=True, key=key(), dedupe="d"))
    assert (again["job"], again["jobs"], again["new"]) == (told["job"], 4, False)
    mine = list(log.state.jobs.live.page(0, 10, lambda row: True))
    assert {row.to_node for row in mine} == {
        id_of("attic"), id_of("mini"), id_of("studio"), id_of("laptop"),
    }  # fmt: skip
    (own,) = [row.id for row in mine if row.to_node == id_of("studio")]
    (other,) = [row.id for row in mine if row.to_node == id_of("mini")]
    assert log.by("studio", take(most=16))["jobs"] == [own]
    log.events.clear()
    assert refused(log, Claim(job=other, lease_ms=LEASE_MS), "studio") is Code.OTHER_NODE
    quiet = log.by("mini", submit(to_label="quiet"))
    assert quiet["jobs"] == 1
    log.events.clear()
    assert refused(log, submit(to_label="loud")) is Code.NOBODY_MEANT
    assert refused(log, submit(to_node=id_of("stranger"))) is Code.NO_SUCH_NODE
    log.state.check()


def test_a_removed_node_s_jobs_go_on_without_it(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SWEEP_ROWS", 2)
    held = [log.by("mini", accept(key=key(f"k{n}")))["job"] for n in range(3)]
    queued = log.by("attic", submit())["job"]
    log.by("mini", take())
    meant = log.by("attic", submit(to_node=id_of("mini")))["job"]
    log.events.clear()
    assert refused(log, LetGo(node=id_of("mini")), "attic") is Code.STILL_MEMBER
    log.by("attic", Remove(node=id_of("mini"), gossip_key=2))
    log.events.clear()
    assert log.do(LetGo(node=id_of("mini"))) == {"more": True}
    assert log.do(LetGo(node=id_of("mini"))) == {"more": True}
    assert log.do(LetGo(node=id_of("mini"))) == {"more": False}
    assert [event.job for event in log.happened(JobReturned)] == [*held, queued]
    assert [event.row.id for event in log.happened(JobFinished)] == [meant]
    assert log.by("studio", take())["jobs"] == [queued]
    log.state.check()


def test_a_removed_node_claims_nothing(log: Log) -> None:
    log.by("attic", submit())
    log.by("attic", Remove(node=id_of("mini"), gossip_key=2))
    before = log.state.digest()
    assert code_of(log.by_raw("mini", take())) is Code.NO_SESSION
    assert code_of(log.by_raw("mini", accept())) is Code.NO_SESSION
    assert log.state.digest() == before


# --- reading


def test_jobs_are_listed_in_pages(log: Log) -> None:
    jobs = [log.by("mini", submit(queue="ab"[n % 2]))["job"] for n in range(10)]
    live = log.state.jobs.live
    first = [row.id for row in live.page(0, 3, lambda row: True)]
    second = [row.id for row in live.page(first[-1], 3, lambda row: True)]
    assert first + second == jobs[:6]
    assert [row.id for row in live.page(0, 9, lambda row: row.queue == "b")] == jobs[1::2]
    assert live.queues() == {"a": 5, "b": 5}


def test_names_of_jobs() -> None:
    assert job_name(job_id(4711)) == "j4711"
    assert job_name(job_id(4711, 2)) == "j4711.2"
    for job in (job_id(1), job_id(99, 1023)):
        assert parse_job_name(job_name(job)) == job
    for text in ("", "j", "j0", "4711", "j1.0", "j1.1024", "j-1", "j1\n", "j" + "9" * 20):
        assert parse_job_name(text) is None


def test_a_restored_record_goes_on_as_the_one_that_was_frozen(log: Log) -> None:
    log.by("mini", submit(priority=3, deadline_unix_ms=START_MS + HOUR_MS))
    log.by("mini", submit(not_before_unix_ms=START_MS + 10, to_node=id_of("mini"), dedupe="d"))
    log.by("mini", submit(deadline_unix_ms=START_MS + 1))
    held = log.by("mini", accept())
    log.by("mini", accept(key=key("k2")))
    log.tick(5)
    state = RecordState()
    state.restore(log.state.freeze())
    state.check()
    log.events.clear()
    for command in (
        complete(held["job"], held["fence"]), take(most=5), accept(key=key("k2")),
        submit(dedupe="d"), Retry(job=job_id(log.index - 3)),
    ):  # fmt: skip
        result = log.by_raw("mini", command)
        assert state.apply(log.index, log.entries[-1]) == result
        assert state.freeze() == log.state.freeze()
        assert state.take_events() == log.events
        log.events.clear()
    state.check()
