"""The record clock: it goes forwards, and no single machine moves it far."""

from __future__ import annotations

from meshd.record.commands_registry import ConfirmClock, CreateToken, Tick
from meshd.record.events import ClockHeld, ClockMoved
from meshd.record.results import Code
from tests.unit.record.logs import HOUR_MS, START_MS, Log, code_of
from tests.unit.record.made import submit

YEAR_MS = 365 * 24 * HOUR_MS


def test_the_clock_starts_with_the_mesh_and_follows_the_median() -> None:
    log = Log()
    assert log.state.clock.now_unix_ms == START_MS
    assert log.tick(1000) == {"now": START_MS + 1000, "held": 0, "more": False}
    assert log.happened(ClockMoved) == [ClockMoved(log.index, START_MS + 1000)]


def test_a_clock_set_back_changes_nothing() -> None:
    log = Log()
    before = log.state.digest()
    for ahead in (-1, -HOUR_MS, -YEAR_MS):
        assert log.tick(ahead) == {"now": START_MS, "held": 0, "more": False}
    assert log.state.digest() == before
    assert not log.events


def test_while_the_clocks_are_behind_the_record_goes_on_at_half_the_pace() -> None:
    """A pause of a second must not take the hour by which they were set back."""
    log = Log()
    for minute in (1, 2, 3):
        unix_ms = START_MS - HOUR_MS + 60_000 * minute
        told = log.do(Tick(unix_ms=unix_ms, elapsed_ms=60_000))
        assert told == {"now": START_MS + 30_000 * minute, "held": 0, "more": False}
        log.state.check()
    caught_up = START_MS + 5 * 60_000
    assert log.do(Tick(unix_ms=caught_up, elapsed_ms=60_000))["now"] == caught_up


def test_a_clock_a_year_forward_changes_nothing_by_itself() -> None:
    log = Log()
    assert log.tick(YEAR_MS)["now"] == START_MS
    assert log.happened(ClockHeld) == [ClockHeld(log.index, START_MS, START_MS + YEAR_MS)]
    assert log.tick(1000) == {"now": START_MS + 1000, "held": 0, "more": False}


def test_an_hour_is_a_step_and_more_is_held() -> None:
    log = Log()
    assert log.tick(HOUR_MS)["held"] == 0
    assert log.tick(HOUR_MS + 1)["held"] == log.state.clock.now_unix_ms + HOUR_MS + 1


def test_time_that_the_leader_has_measured_is_no_step() -> None:
    """Nothing was written for a day, and then something is."""
    log = Log()
    day = START_MS + 24 * HOUR_MS
    moved = log.do(Tick(unix_ms=day, elapsed_ms=24 * HOUR_MS - 5000))
    assert moved == {"now": day, "held": 0, "more": False}


def test_the_clock_goes_on_while_a_leap_is_held() -> None:
    log = Log()
    for passed in (1, 2, 3):
        told = log.do(Tick(unix_ms=START_MS + YEAR_MS + passed * 60_000, elapsed_ms=60_000))
        assert told["now"] == START_MS + passed * 60_000
        assert told["held"] == START_MS + YEAR_MS + passed * 60_000
        log.state.check()
    assert len(log.happened(ClockMoved)) == len(log.happened(ClockHeld)) == 3


def test_measured_time_alone_moves_nothing_further_than_the_nodes_clocks_say() -> None:
    log = Log()
    assert log.do(Tick(unix_ms=START_MS + 1000, elapsed_ms=YEAR_MS))["now"] == START_MS + 1000


def test_a_person_confirms_the_step_that_is_held() -> None:
    log = Log()
    night = START_MS + 9 * HOUR_MS
    log.do(Tick(unix_ms=night))
    log.do(Tick(unix_ms=night + 5000))
    assert log.do(ConfirmClock(unix_ms=night)) == {"now": night + 5000, "held": 0, "more": False}
    log.state.check()


def test_another_time_than_the_one_that_is_held_is_not_confirmed() -> None:
    log = Log()
    assert code_of(log.raw(ConfirmClock(unix_ms=START_MS))) is Code.NOTHING_HELD
    log.tick(YEAR_MS)
    before = log.state.digest()
    tomorrow = ConfirmClock(unix_ms=START_MS + 24 * HOUR_MS)
    assert code_of(log.raw(tomorrow)) is Code.OTHER_TIME
    assert log.state.digest() == before


def test_the_clock_is_needed_when_something_is_due() -> None:
    log = Log()
    assert log.state.next_due_unix_ms() is None
    log.by("attic", CreateToken(id="a" * 8, key=bytes(32), ttl_ms=HOUR_MS, uses=1))
    assert log.state.next_due_unix_ms() == START_MS + HOUR_MS
    log.by("attic", submit(not_before_unix_ms=START_MS + 5))
    assert log.state.next_due_unix_ms() == START_MS + 5
    log.tick(5)
    assert log.state.next_due_unix_ms() == START_MS + HOUR_MS
    log.tick(HOUR_MS)
    assert log.state.next_due_unix_ms() is None
