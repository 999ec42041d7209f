"""Histories of a record that is right, and of one that is wrong in a known way."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from meshd.testing.checker import (
    Answer,
    Asked,
    Calm,
    Claim,
    End,
    Granted,
    History,
    How,
    JobAction,
    JobHistory,
    JobModel,
    JobOperation,
    JobResult,
    Kind,
    Mode,
    Ok,
    Phase,
    Piece,
    Read,
    Report,
    Seen,
    Submit,
    Tally,
    Verdict,
    check_fences,
    check_jobs,
    check_liveness,
    check_record,
    check_requests,
    judge_answers,
    search,
    shrink,
)
from meshd.testing.checker.history import by_subject
from tests.unit.checker.toy import Bug, Toy


def toy(seed: int, bug: Bug | None = None) -> Toy:
    made = Toy(random.Random(seed), bug)
    made.run(jobs=12, operations=240)
    return made


def judged(made: Toy) -> Report:
    operations = made.history.operations
    return check_jobs(operations) + check_record(operations, {"a": made.view(), "b": made.view()})


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_found_where_nothing_is_wrong(seed: int) -> None:
    report = judged(toy(seed))
    assert report.ok, str(report)
    assert report.counts["operations ordered"] == 240
    assert report.counts["fences granted"] > 10


@pytest.mark.parametrize("bug", Bug)
def test_each_planted_bug_is_found(bug: Bug) -> None:
    """In most of the runs in which it had an occasion: not every occasion is seen by a client."""
    runs = [toy(seed, bug) for seed in range(30)]
    planted = [made for made in runs if made.planted]
    reports = [judged(made) for made in planted]
    assert not any(report.undecided for report in reports)
    found = sum(not report.ok for report in reports)
    assert len(planted) >= 10
    assert found >= len(planted) / 2, f"{found} of {len(planted)}"


ASKED = Asked(request="r", accepted=True, end=End.WHOLE)
ANSWER = Answer(
    request="r",
    mode=Mode.STREAMED,
    dialect="openai",
    model="m",
    entry="a",
    sent_at_s=60.0,
    ended_at_s=61.0,
    how=How.WHOLE,
    accepted=True,
    expected="one two ",
    pieces=[Piece(60.5, "one "), Piece(60.6, "two ")],
)
CALM = Calm(healed_s=40.0, within_s=10.0, until_s=100.0)


def altered(**changed: Any) -> Answer:
    return msgspec.structs.replace(ANSWER, **changed)


def told(*answers: tuple[JobAction, JobResult]) -> list[JobOperation]:
    """One client, one job, one thing after the other."""
    history: JobHistory = History()
    for action, result in answers:
        with history.operation("c", "j", action) as tell:
            tell(result)
    return history.operations


PLANTED: dict[Kind, Callable[[], Report | Tally]] = {
    Kind.NOT_LINEARIZABLE: lambda: check_jobs(
        told((Submit("q"), Ok()), (Read(), Seen(Phase.DONE)))
    ),
    Kind.FENCE: lambda: check_fences(told((Claim("a"), Granted(5)), (Claim("b"), Granted(4)))),
    Kind.LOST: lambda: judge_answers([altered(how=How.CUT, pieces=[])]),
    Kind.DOUBLED: lambda: judge_answers([ANSWER, ANSWER]),
    Kind.UNEXPECTED: lambda: check_requests([ASKED], sent=[]),
    Kind.WRONG: lambda: judge_answers([altered(expected="one too ")]),
    Kind.DIVERGED: lambda: check_record(
        told((Submit("q"), Ok())),
        {"a": {"j": Seen(Phase.QUEUED)}, "b": {"j": Seen(Phase.DEAD)}},
    ),
    Kind.UNFINISHED: lambda: check_liveness(
        [ANSWER, altered(request="early", sent_at_s=1.0, ended_at_s=90.0)], CALM
    ),
    Kind.UNAVAILABLE: lambda: check_liveness([altered(how=How.REFUSED)], CALM),
    Kind.FAILED: lambda: judge_answers([altered(how=How.REFUSED, pieces=[])]),
}


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_of_violation_is_found_for_what_it_is(kind: Kind) -> None:
    found = [str(violation) for violation in PLANTED[kind]().violations]
    assert found
    assert all(line.startswith(f"{kind}: ") for line in found)


def test_what_other_checks_found_is_told_with_a_run_of_requests() -> None:
    early = altered(request="early", sent_at_s=1.0, ended_at_s=90.0)
    assert judge_answers([ANSWER], check_liveness([ANSWER], CALM)).ok
    told_with = judge_answers([ANSWER, early], check_liveness([ANSWER, early], CALM))
    assert [line.split(":")[0] for line in told_with.violations] == ["unfinished"]
    unwatched = judge_answers([early], check_liveness([early], CALM))
    assert unwatched.violations[-1] == "undecided: liveness: nothing was sent once all was well"


def test_what_is_shown_is_small_and_a_proof_by_itself() -> None:
    """And nobody in it can be told less without its ceasing to be one."""
    model = JobModel()
    seen = 0
    for bug in (Bug.TWO_HOLDERS, Bug.OLD_READS, Bug.SAME_FENCE_AGAIN):
        for own in by_subject(toy(5, bug).history.operations).values():
            if search(own, model).verdict is not Verdict.VIOLATED:
                continue
            seen += 1
            small = shrink(own, model)
            told = [operation for operation in small if not operation.is_open]
            assert search(small, model).verdict is Verdict.VIOLATED
            assert 1 <= len(told) <= 6 < len(own)
            for operation in told:
                less = [o.opened() if o is operation else o for o in small]
                assert search(less, model).verdict is Verdict.HOLDS
    assert seen > 10


def test_ten_thousand_operations_over_five_hundred_jobs_are_checked_within_seconds() -> None:
    made = Toy(random.Random(1))
    made.run(jobs=500, operations=10_000, clients=12)
    began = time.process_time()
    report = check_jobs(made.history.operations)
    assert report.ok, str(report)
    assert report.counts["operations ordered"] == 10_000
    assert time.process_time() - began < 5  # 0.2 s of work; this only notices an explosion
