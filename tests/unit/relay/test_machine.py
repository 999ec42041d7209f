"""The relay's state machine, event by event."""

from __future__ import annotations

import pytest

from meshd import limits
from meshd.inference import (
    Delta,
    FailureKind,
    Usage,
)
from meshd.relay.directives import Avoid, Fail, Finish, Pick, Poison, Say
from meshd.relay.machine import Relay, State
from tests.unit.relay.relays import A, B, C, asked, failure, relay, target


def test_a_whole_answer_finishes_once() -> None:
    machine = relay()
    assert machine.start(0.0) == [Pick(frozenset())]
    assert asked(machine, A).number == 1
    machine.accept([Delta(text="hel"), Delta(text="lo")], 1.0)
    machine.accept([Delta(finish_reason="stop"), Usage(3, 2)], 1.1)
    assert machine.ended(1.2) == [Finish()]
    assert machine.state is State.DONE
    assert machine.ended(1.3) == []


def test_an_end_without_finish_reason_is_a_cut() -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    machine.accept([Delta(text="half")], 1.0)
    avoid, fail = machine.ended(1.1)
    assert isinstance(avoid, Avoid)
    assert isinstance(fail, Fail)
    assert fail.in_stream
    assert fail.failure.kind == FailureKind.BROKEN


@pytest.mark.parametrize(
    "kind",
    [
        FailureKind.HOLDER_LOST,
        FailureKind.BROKEN,
        FailureKind.SILENT,
        FailureKind.BACKEND,
    ],
)
def test_a_failure_before_any_content_goes_to_the_next_holder(kind: FailureKind) -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    avoid, pick = machine.failed(failure(kind), 1.0)
    assert avoid == Avoid(A, failure(kind))
    assert pick == Pick(frozenset({A.key}))
    assert asked(machine, B).number == 2


def test_the_role_chunk_is_no_content() -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    machine.accept([Delta()], 1.0)
    directives = machine.failed(failure(FailureKind.BROKEN), 1.1)
    assert isinstance(directives[-1], Pick)


def test_a_whole_answer_that_breaks_off_is_asked_for_again() -> None:
    machine = Relay(deadline_at=100.0, may_retry=lambda now: True, streaming=False)
    machine.start(0.0)
    asked(machine, A)
    machine.accept([Delta(text="a")], 1.0)
    assert machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)[-1] == Pick(frozenset({A.key}))
    asked(machine, B)
    assert not machine.delivered, "what the first holder said is void"


def test_a_failure_after_content_ends_in_the_stream() -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    machine.accept([Delta(text="a")], 1.0)
    directives = machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)
    assert directives[-1] == Fail(failure(FailureKind.HOLDER_LOST), in_stream=True)


@pytest.mark.parametrize("kind", [FailureKind.BAD_REQUEST, FailureKind.DEADLINE])
def test_what_another_holder_would_say_too_is_not_retried(kind: FailureKind) -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    assert machine.failed(failure(kind, 400), 1.0) == [Fail(failure(kind, 400), in_stream=False)]


def test_a_holder_that_cancels_what_nobody_cancelled_is_one_that_was_lost() -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    avoid, pick = machine.failed(failure(FailureKind.CANCELLED, 499), 1.0)
    assert isinstance(avoid, Avoid)
    assert avoid.failure.kind == FailureKind.HOLDER_LOST
    assert pick == Pick(frozenset({A.key}))


@pytest.mark.parametrize(
    "kind", [FailureKind.NOT_FOUND, FailureKind.CONTEXT_OVERFLOW, FailureKind.UNSUPPORTED]
)
def test_a_holder_that_cannot_is_passed_over_without_blame(kind: FailureKind) -> None:
    machine = relay(may_retry=lambda now: False)
    machine.start(0.0)
    asked(machine, A)
    assert machine.failed(failure(kind, 404), 1.0) == [Pick(frozenset({A.key}))]


def test_three_attempts_and_no_more() -> None:
    machine = relay()
    machine.start(0.0)
    for holder in (A, B):
        asked(machine, holder)
        assert isinstance(machine.failed(failure(FailureKind.BACKEND), 1.0)[-1], Pick)
    assert asked(machine, C, others=5).number == limits.ATTEMPTS
    last = machine.failed(failure(FailureKind.BACKEND), 2.0)[-1]
    assert isinstance(last, Fail)


@pytest.mark.parametrize("kind", [FailureKind.UNREACHABLE, FailureKind.ENGINE_AWAY])
def test_a_holder_that_cannot_be_reached_ran_nothing_and_is_no_attempt_up_to_a_number(
    kind: FailureKind,
) -> None:
    machine = relay(may_retry=lambda now: False)
    machine.start(0.0)
    for n in range(limits.UNREACHED + limits.ATTEMPTS - 1):
        holder = target(chr(ord("a") + n))
        assert asked(machine, holder).number <= limits.ATTEMPTS
        avoid, pick = machine.failed(failure(kind), 1.0)
        assert avoid == Avoid(holder, failure(kind)), "it is asked last for a while"
        assert isinstance(pick, Pick)
    asked(machine, target("z"))
    assert isinstance(machine.failed(failure(kind), 1.0)[-1], Fail)


def test_two_dead_engines_make_a_request_poison() -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    assert isinstance(machine.failed(failure(FailureKind.BROKEN), 1.0)[-1], Pick)
    asked(machine, B)
    avoid, poison, fail = machine.failed(failure(FailureKind.BROKEN), 2.0)
    assert isinstance(avoid, Avoid)
    assert poison == Poison()
    assert isinstance(fail, Fail)


def test_a_spent_retry_budget_ends_it() -> None:
    machine = relay(may_retry=lambda now: False)
    machine.start(0.0)
    asked(machine, A)
    assert isinstance(machine.failed(failure(FailureKind.BACKEND), 1.0)[-1], Pick)
    assert machine.picked(B, 0, True, 1.0) == [Fail(failure(FailureKind.BACKEND), in_stream=False)]


def test_the_budget_is_charged_for_attempts_that_are_made_and_for_each_once() -> None:
    charged: list[float] = []

    def may_retry(now: float) -> bool:
        charged.append(now)
        return True

    machine = relay(may_retry=may_retry)
    machine.start(0.0)
    asked(machine, A)
    machine.failed(failure(FailureKind.BACKEND), 1.0)
    asked(machine, B)
    machine.failed(failure(FailureKind.BUSY, 503, 5.0), 1.1)
    asked(machine, C, others=0)
    assert len(charged) == 1, "one retry, wherever it found room"
    machine.failed(failure(FailureKind.BACKEND), 2.0)
    (fail,) = machine.picked(None, 0, False, 2.0)
    assert isinstance(fail, Fail)
    assert len(charged) == 1, "nobody was left to retry at"


def test_nobody_to_ask_is_503_with_retry_after() -> None:
    machine = relay()
    machine.start(0.0)
    (fail,) = machine.picked(None, 0, False, 0.0)
    assert isinstance(fail, Fail)
    assert (fail.failure.status, fail.failure.retry_after_s) == (503, 2.0)


def test_a_silent_remote_holder_is_lost_and_the_next_one_asked() -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    machine.holder_watch.heard(1.0)
    assert machine.tick(1.0 + limits.HOLDER_SILENT_S - 0.01) is None
    reason = machine.tick(1.0 + limits.HOLDER_SILENT_S)
    assert reason is not None
    avoid, _pick = machine.failed(failure(FailureKind.CANCELLED), 2.6)
    assert isinstance(avoid, Avoid)
    assert avoid.failure.kind == FailureKind.HOLDER_LOST


def test_the_silence_of_the_next_holder_is_one_of_its_own() -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    machine.holder_watch.heard(1.0)
    assert machine.holder_watch.doubts(2.4)
    machine.failed(failure(FailureKind.HOLDER_LOST), 2.5)
    assert machine.wake_at == machine.deadline_at, "nobody is asked"
    asked(machine, B)
    machine.holder_watch.sent(100, 3.0)
    assert machine.holder_watch.doubts(4.4), "time to see who else is there, again"


def test_a_link_that_breaks_after_the_last_word_takes_nothing_from_the_answer() -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    machine.accept([Delta(text="all"), Delta(finish_reason="stop")], 1.0)
    counted = Say((Usage(completion_tokens=1),))  # nobody told
    assert machine.failed(failure(FailureKind.HOLDER_LOST), 1.1) == [counted, Finish()]


def test_every_question_has_a_name_of_its_own() -> None:
    machine = relay()
    machine.start(0.0)
    first = asked(machine, A)
    machine.failed(failure(FailureKind.BUSY, 503, 1.0), 0.1)
    second = asked(machine, B, others=0)
    assert (first.number, second.number) == (1, 1)
    assert first.ask != second.ask


def test_a_peer_that_says_what_only_an_entry_can_say_ends_the_request_and_no_more() -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    diverged = failure(FailureKind.DIVERGED)
    assert machine.failed(diverged, 1.0) == [Fail(diverged, in_stream=False)]


def test_a_local_holder_is_never_silent() -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A, remote=False)
    assert machine.wake_at == machine.deadline_at
    assert machine.tick(99.0) is None


def test_the_deadline_aborts_and_is_told() -> None:
    machine = relay(deadline_at=5.0)
    machine.start(0.0)
    asked(machine, A, remote=False)
    assert machine.tick(5.0) is not None
    assert machine.tick(5.1) is None, "aborted once"
    (fail,) = machine.failed(failure(FailureKind.BROKEN), 5.2)
    assert isinstance(fail, Fail)
    assert fail.failure.kind == FailureKind.DEADLINE


def test_a_client_that_left_ends_everything() -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    assert machine.client_gone() is not None
    (fail,) = machine.failed(failure(FailureKind.HOLDER_LOST), 1.0)
    assert isinstance(fail, Fail)
    assert fail.failure.kind == FailureKind.CANCELLED


@pytest.mark.parametrize("kind", [FailureKind.UNREACHABLE, FailureKind.ENGINE_AWAY])
def test_holders_that_cannot_be_reached_are_503_with_retry_after_and_say_why(
    kind: FailureKind,
) -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    machine.failed(failure(kind), 0.1)
    (fail,) = machine.picked(None, 0, False, 0.2)
    assert isinstance(fail, Fail)
    assert (fail.failure.status, fail.failure.retry_after_s) == (503, 2.0)
    assert f"(it was {kind})" in fail.failure.message
    assert "try again" in fail.failure.message


def test_a_run_that_failed_beside_another_one_is_blamed_and_left_out() -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    assert machine.hedged() == (2, 2)
    assert machine.lost_one(A, failure(FailureKind.HOLDER_LOST)) == [
        Avoid(A, failure(FailureKind.HOLDER_LOST))
    ]
    machine.moved(B, True, 1.0)
    assert machine.asked == B.node
    assert machine.holder_watch.gone_at == 1.0 + limits.HOLDER_SILENT_S
    assert machine.failed(failure(FailureKind.HOLDER_LOST), 2.0)[-1] == Pick(
        frozenset({A.key, B.key})
    )
    assert asked(machine, C).number == limits.ATTEMPTS, "both were attempts"


def test_two_engines_that_die_side_by_side_make_a_request_poison() -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    machine.hedged()
    machine.lost_one(A, failure(FailureKind.BROKEN))
    machine.moved(B, False, 1.0)
    assert Poison() in machine.failed(failure(FailureKind.BROKEN), 2.0)


@pytest.mark.parametrize("kind", [FailureKind.BUSY, FailureKind.UNREACHABLE])
def test_a_second_run_that_nobody_could_begin_was_none(kind: FailureKind) -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    machine.hedged()
    machine.lost_one(B, failure(kind, 503, 1.0))
    machine.moved(A, True, 1.0)
    assert machine.tries.attempts == 1
    left_out = {A.key} if kind is FailureKind.BUSY else {A.key, B.key}
    assert machine.failed(failure(FailureKind.BACKEND), 2.0)[-1] == Pick(frozenset(left_out))
