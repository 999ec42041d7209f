"""What can be told of a job to those who asked for it, one operation after the other."""

from __future__ import annotations

import msgspec
import pytest

from meshd.testing.checker import (
    Answer,
    Cancel,
    ClientModel,
    History,
    How,
    JobAction,
    JobHistory,
    JobOperation,
    JobResult,
    Joined,
    Kind,
    Mode,
    Ok,
    Phase,
    Piece,
    Read,
    Refused,
    Seen,
    Submit,
    check_client_jobs,
    check_keys,
)

Step = tuple[JobAction, JobResult | None]

IN: Step = (Submit("q"), Ok())
PERHAPS_IN: Step = (Submit("q"), None)
THERE: Step = (Submit("q"), Joined())


def saw(phase: Phase, result: str | None = None) -> Step:
    return Read(), Seen(phase, result=result)


def told(*steps: Step) -> list[JobOperation]:
    """One after the other; open ones from their place on."""
    history: JobHistory = History()
    for action, result in steps:
        number = history.called("c", "j", action)
        if result is not None:
            history.returned(number, result)
    return history.operations


@pytest.mark.parametrize(
    "steps",
    [
        [IN, saw(Phase.QUEUED), saw(Phase.CLAIMED), saw(Phase.QUEUED), saw(Phase.DONE, "x")],
        [IN, saw(Phase.DONE), saw(Phase.DONE, "x"), saw(Phase.DONE), saw(Phase.DONE, "x")],
        [IN, THERE, saw(Phase.DEAD), THERE],
        [PERHAPS_IN, THERE, saw(Phase.FAILED)],
        [PERHAPS_IN, PERHAPS_IN, IN, saw(Phase.QUEUED)],
        [PERHAPS_IN, saw(Phase.ABSENT), saw(Phase.QUEUED)],
        [IN, (Cancel(), Ok()), (Cancel(), Ok()), saw(Phase.CANCELLED)],
        [IN, (Cancel(), None), saw(Phase.DONE, "x")],
        [IN, (Cancel(), None), saw(Phase.CANCELLED)],
        [IN, (Cancel(), Refused()), saw(Phase.DONE, "x"), (Cancel(), Refused())],
    ],
)
def test_what_may_be(steps: list[Step]) -> None:
    report = check_client_jobs(told(*steps))
    assert report.ok, str(report)
    assert report.counts["operations ordered"] == len(steps)


@pytest.mark.parametrize(
    "steps",
    [
        [IN, saw(Phase.DONE, "x"), saw(Phase.DONE, "y")],
        [IN, saw(Phase.DONE, "x"), saw(Phase.FAILED)],
        [IN, saw(Phase.DONE), saw(Phase.CLAIMED)],
        [IN, saw(Phase.ABSENT)],
        [IN, IN],
        [THERE],
        [saw(Phase.QUEUED)],
        [PERHAPS_IN, saw(Phase.QUEUED), saw(Phase.ABSENT)],
        [IN, (Submit("other"), Joined())],
        [IN, (Cancel(), Ok()), saw(Phase.DONE, "x")],
        [IN, (Cancel(), Refused()), saw(Phase.CLAIMED)],
        [IN, saw(Phase.DONE, "x"), (Cancel(), Ok())],
        [IN, (Submit("q"), Joined(Seen(Phase.DONE, result="x"))), saw(Phase.DONE, "y")],
    ],
)
def test_what_must_not_be(steps: list[Step]) -> None:
    kinds = {violation.kind for violation in check_client_jobs(told(*steps)).violations}
    assert Kind.NOT_LINEARIZABLE in kinds


def test_two_ends_are_told_plainly_and_also_where_the_search_gave_up() -> None:
    steps = told(IN, saw(Phase.DONE, "x"), saw(Phase.DONE), saw(Phase.DONE, "y"))
    report = check_client_jobs(steps, max_steps=0)
    (violation,) = report.violations
    assert (violation.kind, violation.sentence) == (Kind.DOUBLED, "job j: has ended in 2 ways")
    assert violation.evidence == [steps[1], steps[3]]


def test_a_search_that_gives_up_is_no_pass() -> None:
    report = check_client_jobs(told(IN, saw(Phase.DONE, "x")), max_steps=0)
    assert not report.ok
    assert "no order of its 2 operations was found, or ruled out, within 0 steps" in str(report)


def test_what_is_open_is_said_in_plain_words() -> None:
    (job,) = ClientModel().step(ClientModel.initial, *IN)
    assert ClientModel().describe(job) == "open"


# --- keys


def answer(request: str, text: str, how: How = How.WHOLE, *, at_s: float = 1.0) -> Answer:
    return Answer(
        request=request, mode=Mode.KEYED, dialect="openai", model="m", entry="a", key="k",
        sent_at_s=at_s, ended_at_s=at_s + 1.0, how=how, accepted=True, pieces=[Piece(at_s, text)],
    )  # fmt: skip


def test_a_key_may_fail_and_be_asked_again_and_has_one_answer() -> None:
    tries = [
        answer("r1", "on", How.BROKEN),
        answer("r2", "", How.REFUSED, at_s=3.0),
        answer("r3", "one two", at_s=5.0),
        answer("r4", "one two", at_s=5.5),
        answer("r5", "one", How.LEFT, at_s=9.0),
    ]
    assert check_keys(tries).ok
    other = msgspec.structs.replace(answer("r6", "one too", at_s=9.0))
    (violation,) = check_keys([*tries, other]).violations
    assert (violation.kind, violation.subject) == (Kind.NOT_LINEARIZABLE, "k")
    assert check_keys([answer("r1", "one"), msgspec.structs.replace(other, key="l")]).ok
