"""When a holder that says nothing counts as gone."""

from __future__ import annotations

import math

from meshd import limits
from meshd.relay.holder_watch import HolderWatch


def test_any_sign_of_life_begins_the_silence_anew() -> None:
    watch = HolderWatch(remote=True)
    watch.asked(0.0)
    watch.heard(1.0)
    watch.heard(2.0)
    assert not watch.is_gone(2.0 + limits.HOLDER_SILENT_S - 0.01)
    assert watch.is_gone(2.0 + limits.HOLDER_SILENT_S)


def test_it_is_doubted_once_a_silence_before_it_counts_as_gone() -> None:
    watch = HolderWatch(remote=True)
    watch.asked(0.0)
    watch.heard(1.0)
    doubted_at = 1.0 + limits.HOLDER_SILENT_S - limits.ROLL_CALL_S
    assert watch.wake_at == doubted_at
    assert not watch.doubts(doubted_at - 0.01)
    assert watch.doubts(doubted_at)
    assert not watch.doubts(doubted_at + 0.1)
    assert watch.wake_at == 1.0 + limits.HOLDER_SILENT_S
    watch.heard(2.4)
    assert watch.doubts(2.4 + limits.HOLDER_SILENT_S)


def test_a_large_request_gets_its_time_to_be_sent() -> None:
    watch = HolderWatch(remote=True)
    watch.asked(0.0)
    assert not watch.is_gone(10.0), "20 MB over Wi-Fi"
    watch.sent(limits.MIB, 10.0)
    assert not watch.is_gone(10.0 + limits.HOLDER_SILENT_S)
    assert watch.is_gone(10.0 + limits.HOLDER_SILENT_S + 2.1)


def test_what_came_while_this_process_stood_still_is_still_to_be_read() -> None:
    watch = HolderWatch(remote=True)
    watch.heard(1.0)
    watch.was_deaf(60.0)
    assert not watch.is_gone(61.0 + limits.HOLDER_SILENT_S - 0.01)
    assert watch.is_gone(61.0 + limits.HOLDER_SILENT_S)


def test_one_that_is_not_watched_any_more_is_never_gone() -> None:
    watch = HolderWatch(remote=True)
    watch.heard(1.0)
    watch.stop()
    watch.was_deaf(5.0)
    assert watch.wake_at == math.inf


def test_a_holder_in_this_process_is_never_silent() -> None:
    watch = HolderWatch(remote=False)
    watch.asked(0.0)
    watch.sent(100, 0.1)
    watch.heard(1.0)
    assert watch.wake_at == math.inf
