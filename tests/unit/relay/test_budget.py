"""The retry budget and the poison list."""

from __future__ import annotations

from meshd import limits
from meshd.relay.budget import PoisonList, RetryBudget


def test_retries_stay_under_a_fifth_of_the_requests() -> None:
    budget = RetryBudget(floor=0)
    for _ in range(100):
        budget.request(1.0)
    assert [budget.may_retry(1.0) for _ in range(25)].count(True) == 20


def test_a_quiet_entry_may_retry_a_few_times() -> None:
    budget = RetryBudget()
    budget.request(0.0)
    granted = [budget.may_retry(0.0) for _ in range(limits.RETRY_BUDGET_FLOOR + 5)]
    assert granted.count(True) == limits.RETRY_BUDGET_FLOOR


def test_as_many_as_are_under_way_may_retry_once_each() -> None:
    budget = RetryBudget()
    for _ in range(50):
        budget.request(0.0)
    now = 60.0  # they take long
    granted = [budget.may_retry(now, under_way=50) for _ in range(70)]
    assert granted.count(True) == 50
    assert not budget.may_retry(now, under_way=3)


def test_second_runs_of_what_is_only_late_take_half_of_it_and_count_as_retries() -> None:
    budget = RetryBudget()
    hedged = [budget.may_hedge(0.0) for _ in range(limits.RETRY_BUDGET_FLOOR)]
    assert hedged.count(True) == limits.RETRY_BUDGET_FLOOR // 2
    retried = [budget.may_retry(0.0) for _ in range(limits.RETRY_BUDGET_FLOOR)]
    assert retried.count(True) == limits.RETRY_BUDGET_FLOOR - limits.RETRY_BUDGET_FLOOR // 2


def test_what_was_long_ago_does_not_count() -> None:
    budget = RetryBudget(floor=1)
    budget.request(0.0)
    assert budget.may_retry(0.0)
    assert not budget.may_retry(5.0)
    assert budget.may_retry(limits.RETRY_BUDGET_WINDOW_S + 1.0)


def test_poison_is_refused_for_a_while_and_then_forgiven() -> None:
    poison = PoisonList()
    poison.add(b"x", 0.0)
    assert poison.refused_for_s(b"x", 1.0) == limits.POISON_S - 1.0
    assert poison.refused_for_s(b"y", 1.0) == 0.0
    assert poison.refused_for_s(b"x", limits.POISON_S) == 0.0
    assert len(poison) == 0


def test_the_poison_list_is_bounded() -> None:
    poison = PoisonList(entries=2)
    for digest in (b"a", b"b", b"c"):
        poison.add(digest, 0.0)
    assert len(poison) == 2
    assert poison.refused_for_s(b"a", 0.0) == 0.0
