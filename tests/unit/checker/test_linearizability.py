"""The search itself, on registers: what has an order, what has none, and what it costs."""

from __future__ import annotations

import pytest

from meshd.testing.checker import (
    RegisterModel,
    RegisterOperation,
    Verdict,
    check,
    search,
    shrink,
)
from meshd.testing.checker.registers import (
    Exchange,
    Held,
    Kept,
    Read,
    RegisterAction,
    RegisterResult,
    Write,
    Wrote,
)

MODEL = RegisterModel()


def op(
    called: int,
    returned: int | None,
    action: RegisterAction,
    result: RegisterResult | None = None,
    *,
    subject: str = "x",
    client: str = "c",
) -> RegisterOperation:
    if result is None and returned is not None:
        result = Wrote()
    return RegisterOperation(
        client=client,
        subject=subject,
        action=action,
        called_ns=called,
        returned_ns=returned,
        result=result,
    )


def verdict(*operations: RegisterOperation) -> Verdict:
    return search(operations, MODEL).verdict


def test_nothing_and_nothing_but_open_operations_hold() -> None:
    assert verdict() is Verdict.HOLDS
    assert verdict(op(0, None, Write(1)), op(1, None, Read())) is Verdict.HOLDS


def test_one_after_the_other_is_checked_in_that_order() -> None:
    write = op(0, 1, Write(1))
    assert verdict(write, op(2, 3, Read(), Held(1))) is Verdict.HOLDS
    assert verdict(write, op(2, 3, Read(), Held(None))) is Verdict.VIOLATED
    assert verdict(op(0, 1, Read(), Held(1)), op(2, 3, Write(1))) is Verdict.VIOLATED


def test_what_overlaps_may_come_in_either_order() -> None:
    write = op(0, 10, Write(1))
    for value in (None, 1):
        assert verdict(write, op(5, 6, Read(), Held(value))) is Verdict.HOLDS
    assert verdict(write, op(5, 6, Read(), Held(2))) is Verdict.VIOLATED


def test_what_touches_in_one_instant_overlaps() -> None:
    assert verdict(op(0, 5, Write(1)), op(5, 6, Read(), Held(None))) is Verdict.HOLDS


def test_a_new_value_that_was_seen_stays() -> None:
    """The classic: both reads are during the write, and one is after the other."""
    write = op(0, 10, Write(1))
    new_then_old = (op(1, 2, Read(), Held(1)), op(3, 4, Read(), Held(None)))
    old_then_new = (op(1, 2, Read(), Held(None)), op(3, 4, Read(), Held(1)))
    assert verdict(write, *new_then_old) is Verdict.VIOLATED
    assert verdict(write, *old_then_new) is Verdict.HOLDS


def test_an_open_operation_may_have_happened_late_or_never() -> None:
    write = op(0, None, Write(1))
    assert verdict(write, op(5, 6, Read(), Held(None))) is Verdict.HOLDS
    assert verdict(write, op(5, 6, Read(), Held(1))) is Verdict.HOLDS
    late = (op(5, 6, Read(), Held(None)), op(7, 8, Read(), Held(1)))
    assert verdict(write, *late) is Verdict.HOLDS
    back = (op(5, 6, Read(), Held(1)), op(7, 8, Read(), Held(None)))
    assert verdict(write, *back) is Verdict.VIOLATED


def test_an_open_operation_happens_after_its_call_and_once() -> None:
    early = (op(0, 1, Read(), Held(1)), op(2, None, Write(1)))
    assert verdict(*early) is Verdict.VIOLATED
    twice = (
        op(0, None, Exchange(0, 1)),
        op(1, 2, Write(0)),
        op(3, 4, Read(), Held(1)),
        op(5, 6, Write(0)),
        op(7, 8, Read(), Held(1)),
    )
    assert verdict(*twice) is Verdict.VIOLATED
    assert verdict(*twice, op(0, None, Exchange(0, 1))) is Verdict.HOLDS


def test_a_refused_exchange_says_something_about_the_value() -> None:
    write = op(0, 1, Write(1))
    assert verdict(write, op(2, 3, Exchange(2, 3), Kept())) is Verdict.HOLDS
    assert verdict(write, op(2, 3, Exchange(1, 3), Kept())) is Verdict.VIOLATED


def test_the_order_that_is_found_explains_everything() -> None:
    operations = [
        op(0, 9, Write(1)),
        op(1, 8, Write(2)),
        op(2, 7, Exchange(1, 3)),
        op(3, 6, Read(), Held(2)),
        op(10, 11, Read(), Held(3)),
    ]
    found = search(operations, MODEL)
    assert found.verdict is Verdict.HOLDS
    assert [str(o.action) for o in found.order] == [
        "write of 2",
        "read",
        "write of 1",
        "exchange of 1 for 3",
        "read",
    ]


def test_subjects_are_judged_each_by_itself() -> None:
    report = check(
        [
            op(0, 1, Write(1), subject="x"),
            op(2, 3, Read(), Held(None), subject="y"),
            op(4, 5, Read(), Held(None), subject="x"),
        ],
        MODEL,
        what="register",
    )
    assert [v.subject for v in report.violations] == ["x"]
    assert report.counts["operations ordered"] == 3


def many_writes(count: int, *, at: int = 0) -> list[RegisterOperation]:
    return [op(at, 1000, Write(i)) for i in range(count)]


def test_too_many_steps_is_undecided_and_no_pass() -> None:
    hopeless = [*many_writes(16), op(0, 1000, Read(), Held("never"))]
    found = search(hopeless, MODEL, max_steps=5000)
    assert found.verdict is Verdict.UNDECIDED
    assert 5000 <= found.steps < 5100
    report = check(hopeless, MODEL, what="register", max_steps=5000)
    assert not report.ok
    assert not report.violations
    assert "register x: no order of its 17 operations was found, or ruled out" in str(report)
    assert "NOT ok" in str(report)


@pytest.mark.parametrize("last", range(10))
def test_ten_writes_at_once_and_their_reads_are_decided(last: int) -> None:
    reads = [op(2000 + 2 * i, 2001 + 2 * i, Read(), Held(last)) for i in range(20)]
    assert verdict(*many_writes(10), *reads) is Verdict.HOLDS
    assert verdict(*many_writes(10), *reads, op(3000, 3001, Read(), Held(10))) is Verdict.VIOLATED


def test_many_equal_open_operations_count_as_one_choice() -> None:
    """A client that asks again and again and never hears: without care that is 2^40 choices."""
    retries = [op(i, None, Exchange(None, 1)) for i in range(40)]
    found = search([*retries, op(100, 101, Read(), Held(2))], MODEL)
    assert found.verdict is Verdict.VIOLATED
    assert found.steps < 1000


def test_a_violation_is_shrunk_to_what_shows_it() -> None:
    noise = [op(10 * i, 10 * i + 3, Write(i)) for i in range(50)]
    noise += [op(10 * i + 4, 10 * i + 5, Read(), Held(i)) for i in range(50)]
    wrong = op(277, 278, Read(), Held(3))
    report = check([*noise, wrong], MODEL, what="register")
    (violation,) = report.violations
    shown = violation.evidence
    assert wrong in shown
    assert len(shown) <= 3
    assert "register x: no order of these operations explains" in violation.sentence


def test_a_shrunk_history_ends_where_the_proof_ends() -> None:
    operations = [op(0, 1, Write(1)), op(2, 3, Read(), Held(5)), op(4, 5, Write(2))]
    small = shrink(operations, MODEL)
    assert [o.called_ns for o in small] == [0, 2]
    assert [o.is_open for o in small] == [True, False]


@pytest.mark.parametrize("initial", [None, 0, "a"])
def test_a_register_begins_as_it_is_told(initial: int | str | None) -> None:
    read = [op(0, 1, Read(), Held("a"))]
    holds = search(read, RegisterModel(initial)).verdict is Verdict.HOLDS
    assert holds == (initial == "a")
