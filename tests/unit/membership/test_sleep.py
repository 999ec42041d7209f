"""Telling naps, dark wakes and real sleeps apart."""

from __future__ import annotations

from meshd.membership.events import Froze, Woke
from meshd.membership.sleep import LONG_S, STEADY_S, SleepWatch


def test_a_machine_that_does_not_sleep_has_nothing_to_tell() -> None:
    watch = SleepWatch(1000.0)  # it did, before this process began
    assert [watch.observe(now, 1000.0 + now * 1e-6) for now in range(100)] == [None] * 100


def test_a_long_sleep_is_over_at_once() -> None:
    watch = SleepWatch(0.0)
    assert watch.observe(10.0, LONG_S + 1) == Woke(LONG_S + 1)
    assert watch.observe(12.0, LONG_S + 1) is None


def test_after_a_short_sleep_the_machine_is_back_when_it_has_been_awake_for_a_while() -> None:
    watch = SleepWatch(0.0)
    assert watch.observe(10.0, 60.0) == Froze()
    assert watch.observe(10.0 + STEADY_S - 0.1, 60.0) is None
    assert watch.observe(10.0 + STEADY_S, 60.0) == Woke(60.0)
    assert watch.observe(30.0, 60.0) is None


def test_dark_wakes_never_count_as_being_back_but_the_last_wake_does_with_all_of_the_sleep() -> (
    None
):
    watch = SleepWatch(0.0)
    for minute in range(1, 30):
        assert watch.observe(minute * 3.0, minute * 57.0) == Froze()
        assert watch.observe(minute * 3.0 + 2.0, minute * 57.0) is None
    assert watch.observe(100.0, 29 * 57.0) == Woke(29 * 57.0)
