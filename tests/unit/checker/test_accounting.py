"""Both books, each planted violation by itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from meshd.testing.checker import (
    Accept,
    Asked,
    Cancel,
    Claim,
    Complete,
    End,
    Granted,
    History,
    JobAction,
    JobHistory,
    JobResult,
    Joined,
    Kind,
    Ok,
    Phase,
    Refused,
    Report,
    Retry,
    Seen,
    Submit,
    check_record,
    check_requests,
)

Step = tuple[JobAction, JobResult | None]


def asked(name: str, end: End, *, key: str = "", accepted: bool = True, answer: str = "") -> Asked:
    return Asked(request=name, key=key, accepted=accepted, end=end, answer=answer)


def found(report: Report) -> list[tuple[Kind, str]]:
    return [(violation.kind, violation.sentence) for violation in report.violations]


# --- requests


def test_everything_answered_is_fine() -> None:
    report = check_requests(
        [
            asked("1", End.WHOLE, answer="x"),
            asked("2", End.ERROR),
            asked("3", End.LEFT),
            asked("4", End.CUT, accepted=False),
            asked("5", End.SILENT, key="k"),
            asked("6", End.WHOLE, key="k", answer="y"),
            asked("7", End.WHOLE, key="k", answer="y"),
        ],
        sent="1234567",
    )
    assert report.ok, str(report)
    assert report.counts["requests"] == 7
    assert report.counts["requests that ended whole"] == 3


@pytest.mark.parametrize("end", [End.CUT, End.SILENT])
def test_an_accepted_request_without_an_answer_is_lost(end: End) -> None:
    report = check_requests([asked("1", end)])
    assert found(report) == [(Kind.LOST, f"request 1 was accepted and ended {end}")]


def test_a_key_of_which_no_request_was_answered_is_lost() -> None:
    repeats = [asked("1", End.CUT, key="k"), asked("2", End.SILENT, key="k", accepted=False)]
    report = check_requests(repeats)
    assert found(report) == [
        (Kind.LOST, "key k was accepted, and none of its 2 requests was answered")
    ]
    never = [asked("1", End.CUT, key="k", accepted=False)]
    assert check_requests(never).ok


def test_two_answers_to_one_key_are_found() -> None:
    repeats = [asked(name, End.WHOLE, key="k", answer=name) for name in ("1", "2")]
    report = check_requests(repeats)
    assert found(report) == [(Kind.DOUBLED, "key k has 2 different answers")]
    assert "request 2 (key k): accepted, whole 2" in str(report)


def test_a_request_that_ends_twice_is_found() -> None:
    report = check_requests([asked("1", End.WHOLE), asked("1", End.ERROR)])
    assert found(report) == [(Kind.DOUBLED, "request 1 ended 2 times")]


def test_an_answer_that_nobody_asked_for_and_a_request_without_an_end_are_found() -> None:
    report = check_requests([asked("1", End.WHOLE)], sent=["2"])
    assert found(report) == [
        (Kind.UNEXPECTED, "request 1 has an end, and nobody sent it"),
        (Kind.LOST, "request 2 was sent, and nothing is known of its end"),
    ]


# --- jobs


def record(steps: Sequence[Step], *views: Seen | None, all_ended: bool = False) -> Report:
    history: JobHistory = History()
    for action, result in steps:
        number = history.called("c", "j", action)
        if result is not None:
            history.returned(number, result)
    named = {
        name: {} if seen is None else {"j": seen} for name, seen in zip("abc", views, strict=False)
    }
    return check_record(history.operations, named, all_ended=all_ended)


ACCEPT: Step = (Submit("q"), Ok())
CLAIM: Step = (Claim("a"), Granted(5))
COMPLETE: Step = (Complete(5, "x"), Ok())
CANCEL: Step = (Cancel(), Ok())
DONE = Seen(Phase.DONE, 5, "a", "x")


@pytest.mark.parametrize(
    ("steps", "seen"),
    [
        ([ACCEPT, CLAIM, COMPLETE], DONE),
        ([ACCEPT, CLAIM, COMPLETE], Seen(Phase.DONE)),
        ([ACCEPT, CLAIM, (Complete(5, "x"), None)], DONE),
        ([ACCEPT, CLAIM, (Complete(5, "x"), None)], Seen(Phase.QUEUED)),
        ([(Submit("q"), None)], Seen(Phase.QUEUED)),
        ([(Submit("q"), None)], None),
        ([(Submit("q"), Refused())], None),
        ([ACCEPT, CANCEL], Seen(Phase.CANCELLED)),
    ],
)
def test_what_was_acknowledged_and_is_there_is_fine(steps: list[Step], seen: Seen | None) -> None:
    report = record(steps, seen, seen)
    assert report.ok, str(report)
    assert report.counts["jobs accounted for"] == 1


@pytest.mark.parametrize(
    "welcomed",
    [(Submit("q"), Ok()), (Submit("q"), Joined()), (Accept("q", "a"), Granted(4))],
)
def test_an_acknowledged_job_that_is_gone_is_lost(welcomed: Step) -> None:
    report = record([welcomed], None)
    assert found(report) == [(Kind.LOST, "job j: it was acknowledged, and is gone")]
    assert "the record of a: no such job" in str(report)


def test_a_job_that_nobody_submitted_is_unexpected() -> None:
    report = record([], Seen(Phase.QUEUED))
    assert found(report) == [(Kind.UNEXPECTED, "job j: it is there, and nobody submitted it")]


def test_a_job_whose_submission_was_never_answered_is_not_unexpected() -> None:
    history: JobHistory = History()
    history.called("c", "", Submit("q"))
    assert check_record(history.operations, {"a": {"j": Seen(Phase.QUEUED)}}).ok


def test_an_acknowledged_completion_that_is_gone_is_lost() -> None:
    report = record([ACCEPT, CLAIM, COMPLETE], Seen(Phase.QUEUED))
    sentence = "job j: its completion was acknowledged, and is gone"
    assert found(report) == [(Kind.LOST, sentence)]


def test_an_acknowledged_cancellation_that_is_gone_is_lost_unless_it_was_retried() -> None:
    sentence = "job j: its cancellation was acknowledged, and is gone"
    assert found(record([ACCEPT, CANCEL], Seen(Phase.QUEUED))) == [(Kind.LOST, sentence)]
    assert record([ACCEPT, CANCEL, (Retry(), Ok())], Seen(Phase.QUEUED)).ok


def test_a_result_that_nobody_made_is_unexpected() -> None:
    wrong = Seen(Phase.DONE, result="y")
    sentence = "job j: its result is not what it was completed with"
    assert found(record([ACCEPT, CLAIM], wrong)) == [(Kind.UNEXPECTED, sentence)]
    refused: Step = (Complete(5, "y"), Refused())
    assert found(record([ACCEPT, CLAIM, refused], wrong)) == [(Kind.UNEXPECTED, sentence)]


def test_another_result_than_the_acknowledged_one_is_wrong() -> None:
    other: Step = (Complete(6, "y"), None)
    report = record([ACCEPT, CLAIM, COMPLETE, other], Seen(Phase.DONE, result="y"))
    assert [kind for kind, _ in found(report)] == [Kind.WRONG]


def test_nodes_that_differ_are_found() -> None:
    report = record([ACCEPT, CLAIM, (Complete(5, "x"), None)], DONE, Seen(Phase.CLAIMED), DONE)
    assert found(report) == [(Kind.DIVERGED, "job j: the nodes' records differ")]
    assert len(report.violations[0].evidence) == 2


def test_one_node_that_lacks_a_job_is_found_even_if_others_have_it() -> None:
    kinds = [kind for kind, _ in found(record([ACCEPT], Seen(Phase.QUEUED), None))]
    assert kinds == [Kind.DIVERGED, Kind.LOST]


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.CLAIMED])
def test_a_job_that_never_ends_is_unfinished_when_it_should_have(phase: Phase) -> None:
    assert record([ACCEPT], Seen(phase)).ok
    report = record([ACCEPT], Seen(phase), all_ended=True)
    assert found(report) == [(Kind.UNFINISHED, f"job j: it is still {phase}")]
