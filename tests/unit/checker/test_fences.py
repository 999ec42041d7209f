"""Fences, each planted violation by itself and what only looks like one."""

from __future__ import annotations

import pytest

from meshd.testing.checker import (
    Accept,
    Claim,
    Complete,
    Expire,
    Fail,
    Granted,
    History,
    JobAction,
    JobHistory,
    JobResult,
    Kind,
    Move,
    Ok,
    Refused,
    Release,
    Renew,
    Report,
    check_fences,
)

Step = tuple[JobAction, JobResult | None]


def judged(*steps: Step) -> Report:
    history: JobHistory = History()
    for action, result in steps:
        number = history.called("c", "j", action)
        if result is not None:
            history.returned(number, result)
    return check_fences(history.operations)


def one(report: Report) -> tuple[Kind, str, int]:
    (violation,) = report.violations
    return violation.kind, violation.sentence, len(violation.evidence)


def test_fences_that_rise_are_fine() -> None:
    report = judged(
        (Accept("q", "a"), Granted(3)),
        (Renew(3), Ok()),
        (Expire(3), Ok()),
        (Complete(3, "x"), Refused()),
        (Claim("b"), Granted(8)),
        (Complete(8, "x"), Ok()),
        (Complete(8, "x"), Ok()),
    )
    assert report.ok
    assert report.counts["fences granted"] == 2


def test_a_fence_that_falls_is_found() -> None:
    found = one(judged((Claim("a"), Granted(5)), (Claim("b"), Granted(4))))
    assert found == (Kind.FENCE, "job j: fence 4 was given after 5 had been", 2)


def test_a_fence_that_is_given_twice_is_found() -> None:
    found = one(judged((Claim("a"), Granted(5)), (Claim("b"), Granted(5))))
    assert found == (Kind.FENCE, "job j: fence 5 was given twice", 2)


def test_claims_at_the_same_time_may_be_told_in_either_order() -> None:
    history: JobHistory = History()
    first, second = (history.called(name, "j", Claim(name)) for name in "ab")
    history.returned(first, Granted(6))
    history.returned(second, Granted(5))
    assert check_fences(history.operations).ok


@pytest.mark.parametrize("action", [Renew(5), Complete(5, "x"), Fail(5), Release(5), Expire(5)])
def test_what_is_obeyed_under_a_stale_fence_is_found(action: JobAction) -> None:
    report = judged((Claim("a"), Granted(5)), (Claim("b"), Granted(7)), (action, Ok()))
    sentence = f"job j: {action} worked after fence 7 had been given"
    assert one(report) == (Kind.FENCE, sentence, 2)


def test_a_move_gives_a_fence_and_takes_the_one_before() -> None:
    moved = (Move(5, "b"), Granted(7))
    assert judged((Claim("a"), Granted(5)), moved, (Complete(7, "x"), Ok())).ok
    late = judged((Claim("a"), Granted(5)), moved, (Complete(5, "x"), Ok()))
    sentence = "job j: completion under fence 5 with x worked after fence 7 had been given"
    assert one(late) == (Kind.FENCE, sentence, 2)
    stale = judged((Claim("a"), Granted(5)), (Claim("b"), Granted(7)), (Move(5, "c"), Granted(9)))
    assert one(stale)[0] is Kind.FENCE


def test_a_completion_while_the_next_claim_is_under_way_is_no_violation() -> None:
    history: JobHistory = History()
    history.returned(history.called("a", "j", Claim("a")), Granted(5))
    claim = history.called("b", "j", Claim("b"))
    history.returned(history.called("a", "j", Release(5)), Ok())
    history.returned(claim, Granted(7))
    assert check_fences(history.operations).ok


def test_a_fence_from_nowhere_is_found_unless_somebody_was_never_answered() -> None:
    found = one(judged((Claim("a"), Granted(5)), (Complete(9, "x"), Ok())))
    sentence = "job j: completion under fence 9 with x worked, and nobody was ever given that fence"
    assert found == (Kind.FENCE, sentence, 1)
    unanswered: Step = (Claim("b"), None)
    assert judged((Claim("a"), Granted(5)), unanswered, (Complete(9, "x"), Ok())).ok


def test_two_results_are_found() -> None:
    report = judged((Claim("a"), Granted(5)), (Complete(5, "x"), Ok()), (Complete(5, "y"), Ok()))
    assert one(report) == (Kind.DOUBLED, "job j: was completed twice, in different ways", 2)


def test_jobs_have_fences_of_their_own() -> None:
    history: JobHistory = History()
    for job, fence in (("j", 9), ("k", 3), ("k", 4), ("j", 10)):
        history.returned(history.called("c", job, Claim("a")), Granted(fence))
    assert check_fences(history.operations).ok
