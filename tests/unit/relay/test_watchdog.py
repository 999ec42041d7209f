"""When a silent engine is suspected, and when it is given up."""

from __future__ import annotations

from meshd import limits
from meshd.inference import FailureKind
from meshd.relay.watchdog import Patience, Watchdog, watchdog


def dog(predicted_first_s: float = 0.1, gap_s: float = 0.0, **patience: float) -> Watchdog:
    return watchdog(predicted_first_s, gap_s, 100.0, Patience(**patience))


ASKED_S = limits.PROBE_TIMEOUT_S
"""How long before its time is over an engine is asked whether it lives."""


def test_a_quick_engine_is_given_the_least_time_before_it_is_suspected() -> None:
    assert dog().due_at == 100.0 + limits.FIRST_TOKEN_MIN_S - ASKED_S
    assert dog().hung_at == 100.0 + limits.FIRST_TOKEN_LIVING_MIN_S


def test_a_slow_prefill_is_given_a_multiple_of_what_is_predicted() -> None:
    assert dog(20.0).due_at == 100.0 + 3 * 20.0 - ASKED_S
    assert dog(20.0).hung_at == 100.0 + 30 * 20.0


def test_a_configured_minimum_is_never_undercut() -> None:
    patient = dog(first_token_min_s=900.0)
    assert patient.hung_at == 1000.0
    assert patient.due_at == 1000.0 - ASKED_S


def test_an_engine_that_was_never_observed_gets_the_most_generous_gap() -> None:
    unknown = dog()
    unknown.event(105.0)
    assert unknown.hung_at == 105.0 + limits.INTER_TOKEN_MAX_S
    assert unknown.due_at == unknown.hung_at - ASKED_S


def test_what_a_run_shows_of_itself_counts_from_its_next_word_on() -> None:
    watched = dog()
    watched.event(105.0)
    watched.expect(0.05)
    watched.passed_on(105.05)
    assert watched.due_at == 105.05 + limits.INTER_TOKEN_MIN_S - ASKED_S
    assert watched.hung_at == 105.05 + limits.INTER_TOKEN_MAX_S


def test_with_little_time_half_of_it_is_left_for_an_answer() -> None:
    hurried = dog(between_tokens_max_s=1.0)
    hurried.event(105.0)
    assert hurried.due_at == 105.5


def test_between_tokens_the_observed_gap_counts_within_its_bounds() -> None:
    for gap_s, suspect_s in ((0.01, limits.INTER_TOKEN_MIN_S), (0.5, 10.0), (30.0, 60.0)):
        watched = dog(gap_s=gap_s)
        watched.event(105.0)
        assert watched.due_at == 105.0 + suspect_s - ASKED_S
        assert watched.hung_at == 105.0 + limits.INTER_TOKEN_MAX_S


def test_one_that_lives_is_asked_again_until_its_silence_is_too_long() -> None:
    watched = dog()
    asked = []
    while watched.due_at < watched.hung_at:
        asked.append(watched.due_at - 100.0)
        watched.lives(watched.due_at)
    assert asked == [8.0 * n for n in range(1, 15)]
    assert watched.due_at == 220.0


def test_time_in_which_the_client_did_not_read_is_no_silence() -> None:
    watched = dog(gap_s=0.1)
    watched.event(101.0)
    watched.passed_on(500.0)
    assert watched.due_at == 500.0 + limits.INTER_TOKEN_MIN_S - ASKED_S
    assert watched.event(501.0) == 1.0, "nor is it a gap of the engine"


def test_the_failure_says_which_silence_it_was() -> None:
    watched = dog()
    assert watched.failure(112.0).message == "the engine did not begin to answer within 12 s"
    watched.event(112.0)
    failure = watched.failure(119.0)
    assert failure.message == "the engine fell silent for 7 s in mid-answer"
    assert (failure.kind, failure.status) == (FailureKind.SILENT, 504)
