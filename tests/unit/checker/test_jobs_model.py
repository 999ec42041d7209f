"""What the model of a job says can be answered, one operation after the other."""

from __future__ import annotations

import pytest

from meshd.testing.checker import (
    Accept,
    Cancel,
    Claim,
    Complete,
    Expire,
    Fail,
    Granted,
    History,
    JobAction,
    JobHistory,
    JobModel,
    JobResult,
    Joined,
    Lapse,
    LetGo,
    Ok,
    Phase,
    Read,
    Refused,
    Release,
    Renew,
    Retry,
    Seen,
    Submit,
    Verdict,
    check_jobs,
    search,
)

Step = tuple[JobAction, JobResult | None]

ACCEPTED: Step = (Submit("q"), Ok())
KEYED: Step = (Accept("q", "a"), Granted(5))
CLAIMED: Step = (Claim("a"), Granted(5))
DONE: Step = (Complete(5, "x"), Ok())
OPEN = None


def holds(*steps: Step) -> bool:
    """Whether that can happen, in this order (open operations from their place on)."""
    history: JobHistory = History()
    for action, result in steps:
        number = history.called("c", "j", action)
        if result is not None:
            history.returned(number, result)
    found = search(history.operations, JobModel())
    assert found.verdict is not Verdict.UNDECIDED
    return found.verdict is Verdict.HOLDS


@pytest.mark.parametrize(
    "steps",
    [
        [ACCEPTED, CLAIMED, DONE],
        [(Accept("q", "a"), Granted(1)), (Complete(1, "x"), Ok()), (Read(), Seen(Phase.DONE))],
        [ACCEPTED, (Submit("q"), Joined()), (Submit("other"), Refused())],
        [ACCEPTED, CLAIMED, (Claim("b"), Refused()), (Renew(5), Ok()), DONE],
        [ACCEPTED, CLAIMED, DONE, DONE],
        [ACCEPTED, CLAIMED, DONE, (Complete(5, "x"), Refused())],
        [ACCEPTED, CLAIMED, (Expire(5), Ok()), (*DONE[:1], Refused())],
        [ACCEPTED, CLAIMED, (Expire(5), Ok()), (Claim("b"), Granted(6)), (Renew(6), Ok())],
        [KEYED, (Expire(5), Ok()), (Accept("q", "b"), Granted(6))],
        [KEYED, (Expire(5), Ok()), (Read(), Seen(Phase.ACCEPTED, 5)), (Claim("b"), Refused())],
        [KEYED, (Accept("q", "b"), Joined()), (Accept("p", "b"), Refused()), DONE],
        [KEYED, DONE, (Accept("q", "b"), Joined())],
        [KEYED, (Fail(5), Ok(Phase.DEAD)), (Retry(), Refused())],
        [KEYED, (Expire(5), Ok(Phase.ACCEPTED)), (Cancel(), Ok())],
        [ACCEPTED, CLAIMED, (Expire(4), Refused()), DONE],
        [ACCEPTED, CLAIMED, (Release(5), Ok()), (Read(), Seen(Phase.QUEUED, 5))],
        [ACCEPTED, CLAIMED, (Fail(5), Ok(Phase.DEAD)), (Retry(), Ok()), (Claim("a"), Granted(9))],
        [ACCEPTED, CLAIMED, (Fail(5, True), Ok()), (Cancel(), Refused())],
        [ACCEPTED, (Cancel(), Ok()), (Cancel(), Ok()), (Claim("a"), Refused())],
        [(Read(), Seen(Phase.ABSENT)), (Cancel(), Refused()), ACCEPTED],
        [(Claim("a"), Refused()), (Complete(1, "x"), Refused())],
        [ACCEPTED, CLAIMED, (Read(), Seen(Phase.CLAIMED, 5, "a"))],
        [ACCEPTED, CLAIMED, DONE, (Read(), Seen(Phase.DONE, 5, "a", "x"))],
    ],
)
def test_this_can_happen(steps: list[Step]) -> None:
    assert holds(*steps)


@pytest.mark.parametrize(
    "steps",
    [
        [CLAIMED],
        [ACCEPTED, ACCEPTED],
        [ACCEPTED, (Submit("other"), Joined())],
        [ACCEPTED, (Submit("q"), Refused())],
        [(Submit("q"), Joined())],
        [ACCEPTED, CLAIMED, (Claim("b"), Granted(6))],
        [KEYED, (Accept("q", "b"), Granted(6))],
        [ACCEPTED, (Accept("q", "b"), Granted(6))],
        [KEYED, (Expire(5), Ok()), (Claim("b"), Granted(6))],
        [KEYED, (Expire(5), Ok()), (Accept("q", "b"), Granted(5))],
        [KEYED, (Expire(5), Ok(Phase.QUEUED))],
        [KEYED, (Fail(5), Ok(Phase.DEAD)), (Retry(), Ok())],
        [KEYED, (Accept("q", "b"), Ok())],
        [ACCEPTED, CLAIMED, (Expire(5), Ok()), (Claim("b"), Granted(5))],
        [ACCEPTED, CLAIMED, (Expire(5), Ok()), (Claim("b"), Granted(4))],
        [ACCEPTED, CLAIMED, (Expire(5), Ok()), DONE],
        [ACCEPTED, CLAIMED, (Expire(5), Ok()), (Renew(5), Ok())],
        [ACCEPTED, CLAIMED, (Expire(5), Refused())],
        [ACCEPTED, CLAIMED, (Renew(5), Refused())],
        [ACCEPTED, CLAIMED, (Complete(5, "x"), Refused())],
        [ACCEPTED, CLAIMED, (Complete(4, "x"), Ok())],
        [ACCEPTED, CLAIMED, DONE, (Complete(5, "y"), Ok())],
        [ACCEPTED, CLAIMED, DONE, (Cancel(), Ok())],
        [ACCEPTED, CLAIMED, DONE, (Retry(), Ok())],
        [ACCEPTED, CLAIMED, DONE, (Read(), Seen(Phase.DONE, result="y"))],
        [ACCEPTED, CLAIMED, (Read(), Seen(Phase.CLAIMED, 6))],
        [ACCEPTED, CLAIMED, (Read(), Seen(Phase.CLAIMED, 5, "b"))],
        [ACCEPTED, CLAIMED, (Fail(5), Ok(Phase.DEAD)), (Claim("a"), Granted(9))],
        [ACCEPTED, CLAIMED, (Fail(5), Ok(Phase.CANCELLED))],
        [ACCEPTED, CLAIMED, (Fail(5), Ok(Phase.FAILED))],
        [ACCEPTED, CLAIMED, (Fail(5, True), Ok()), (Retry(), Ok())],
        [ACCEPTED, (Cancel(), Ok()), (Retry(), Ok())],
        [ACCEPTED, (Cancel(), Refused())],
        [ACCEPTED, (Claim("a"), Refused())],
        [ACCEPTED, (Read(), Seen(Phase.ABSENT))],
        [ACCEPTED, (Read(), Ok())],
        [ACCEPTED, (Claim("a"), Ok())],
        [(Submit("q"), Granted(3))],
    ],
)
def test_this_cannot_happen(steps: list[Step]) -> None:
    assert not holds(*steps)


def test_a_claim_that_nobody_heard_of_explains_what_it_can_and_no_more() -> None:
    begun = (ACCEPTED, (Claim("a"), OPEN))
    assert holds(*begun, (Read(), Seen(Phase.QUEUED)))
    assert holds(*begun, (Read(), Seen(Phase.CLAIMED, 7, "a")))
    assert holds(*begun, (Complete(7, "x"), Ok()))
    assert holds(*begun, (Claim("b"), Granted(3)))
    assert not holds(*begun, (Read(), Seen(Phase.CLAIMED, 7, "b")))
    assert not holds(*begun, (Complete(7, "x"), Ok()), (Complete(8, "x"), Ok()))
    assert not holds(*begun, (Claim("b"), Granted(3)), (Claim("c"), Granted(4)))


def test_its_fence_is_settled_by_whoever_sees_it_first() -> None:
    begun = (ACCEPTED, (Claim("a"), OPEN), (Read(), Seen(Phase.CLAIMED, 7)))
    assert holds(*begun, (Renew(7), Ok()))
    assert not holds(*begun, (Renew(7), Refused()))
    assert not holds(*begun, (Renew(8), Ok()))


def test_its_fence_is_above_those_before() -> None:
    begun = (ACCEPTED, CLAIMED, (Release(5), Ok()), (Claim("a"), OPEN))
    assert holds(*begun, (Renew(6), Ok()))
    assert not holds(*begun, (Renew(5), Ok()))


def test_an_accept_that_nobody_heard_of_may_have_started_it() -> None:
    begun = ((Accept("q", "a"), OPEN),)
    assert holds(*begun, (Read(), Seen(Phase.CLAIMED, 3, "a")), (Accept("q", "b"), Joined()))
    assert holds(*begun, (Accept("q", "b"), Granted(1)))
    assert not holds(*begun, (Read(), Seen(Phase.QUEUED)))


@pytest.mark.parametrize("phase", [Phase.CLAIMED, Phase.QUEUED, Phase.DEAD])
def test_a_failure_that_nobody_heard_of_leads_where_failures_lead(phase: Phase) -> None:
    assert holds(ACCEPTED, CLAIMED, (Fail(5), OPEN), (Read(), Seen(phase)))
    for never in (Phase.FAILED, Phase.DONE, Phase.ACCEPTED):
        assert not holds(ACCEPTED, CLAIMED, (Fail(5), OPEN), (Read(), Seen(never)))
    assert holds(ACCEPTED, CLAIMED, (Fail(5, True), OPEN), (Read(), Seen(Phase.FAILED)))


def test_what_a_removed_node_held_goes_on_without_it() -> None:
    for held, idle in ((ACCEPTED, Phase.QUEUED), (KEYED, Phase.ACCEPTED)):
        begun = [held] if held is KEYED else [held, CLAIMED]
        assert holds(*begun, (LetGo("a"), OPEN), (Read(), Seen(idle)))
        assert holds(*begun, (LetGo("a"), OPEN), DONE)
        assert not holds(*begun, (LetGo("b"), OPEN), (Read(), Seen(idle)))


def test_what_was_meant_for_a_removed_node_is_cancelled() -> None:
    for is_meant in (True, False):
        begun = ((Submit("q", is_meant), Ok()), (LetGo("a"), OPEN))
        assert holds(*begun, (Read(), Seen(Phase.CANCELLED))) == is_meant
        assert holds(*begun, (Read(), Seen(Phase.QUEUED)))


def test_a_deadline_kills_what_nobody_runs() -> None:
    assert holds(ACCEPTED, (Lapse(), OPEN), (Read(), Seen(Phase.DEAD)), (Retry(), Ok()))
    assert holds(KEYED, (Expire(5), Ok()), (Lapse(), OPEN), (Read(), Seen(Phase.DEAD)))
    assert not holds(ACCEPTED, CLAIMED, (Lapse(), OPEN), (Read(), Seen(Phase.DEAD)))
    assert not holds(ACCEPTED, (Read(), Seen(Phase.DEAD)))


def test_the_fence_after_one_that_nobody_learned_is_settled_again() -> None:
    begun = (ACCEPTED, (Claim("a"), OPEN), (LetGo("a"), OPEN), (Claim("b"), Granted(7)))
    assert holds(*begun, (Renew(7), Ok()))
    assert not holds(*begun, (Renew(8), Ok()))


def test_a_claim_of_nobody_knows_which_job_may_have_been_of_any() -> None:
    history: JobHistory = History()
    for job in ("j", "k"):
        history.returned(history.called("c", job, Submit("q")), Ok())
    history.called("w", "", Claim("a"))
    for job in ("j", "k"):
        history.returned(history.called("c", job, Read()), Seen(Phase.CLAIMED, node="a"))
    assert check_jobs(history.operations).ok


def test_its_words_are_for_people() -> None:
    model = JobModel()
    (queued,) = model.step(model.initial, Submit("q"), Ok())
    (claimed,) = model.step(queued, Claim("a"), Granted(5))
    (unsure,) = model.step(queued, Claim("a"), None)
    (done,) = model.step(claimed, Complete(5, "x"), Ok())
    assert model.describe(model.initial) == "absent"
    assert model.describe(queued) == "queued"
    assert model.describe(claimed) == "claimed by a under fence 5"
    assert model.describe(unsure) == "claimed by a under a fence above 0"
    assert model.describe(done) == "done (last fence 5) with x"
