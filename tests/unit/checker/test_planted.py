"""Histories of a record that is right, and of one that is wrong in a known way."""

from __future__ import annotations

import random
import time

import pytest

from meshd.testing.checker import (
    JobModel,
    Report,
    Verdict,
    check_jobs,
    check_record,
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
