"""What becomes of a stream that breaks off, event by event."""

from __future__ import annotations

import pytest

from meshd.inference import (
    Delta,
    FailureKind,
    Kind,
    Request,
    Sampling,
    Usage,
)
from meshd.relay.directives import Attempt, Avoid, Fail, Finish, Pick, Say
from meshd.relay.machine import Relay
from meshd.relay.splice import DoesNotFit, Splice, Way
from tests.unit.relay.relays import A, B, C, asked, failure, relay

GREEDY = Request(Kind.CHAT, "tiny", sampling=Sampling(temperature=0, max_tokens=4))


def streaming(request: Request = GREEDY) -> Relay:
    """At A, which has said two words of it."""
    machine = relay()
    machine.splice = Splice(request)
    machine.start(0.0)
    asked(machine, A)
    machine.accept([Delta(text=" one"), Delta(text=" two")], 1.0)
    return machine


def test_a_stream_that_breaks_off_is_continued_by_the_same_model() -> None:
    machine = streaming()
    avoid, pick = machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)
    assert avoid == Avoid(A, failure(FailureKind.HOLDER_LOST))
    assert pick == Pick(frozenset({A.key}), Way.CONTINUE, A)
    attempt = asked(machine, B)
    assert (attempt.number, attempt.way) == (2, Way.CONTINUE)
    assert attempt.request is not None
    assert attempt.request.partial == " one two"
    assert machine.accept([Delta(text=" three")], 2.0) == [Delta(text=" three")]
    machine.accept([Delta(finish_reason="stop")], 2.1)
    assert machine.ended(2.2) == [Finish()]


def test_where_nobody_continues_it_is_run_again_and_compared() -> None:
    machine = streaming()
    machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)
    asked(machine, B)
    (pick,) = machine.failed(failure(FailureKind.UNSUPPORTED, 400), 1.2)
    assert pick == Pick(frozenset({A.key, B.key}), Way.CONTINUE, A)
    (pick,) = machine.picked(None, 0, False, 1.2)
    assert pick == Pick(frozenset({A.key}), Way.REGENERATE, A), "B may well repeat it"
    attempt = asked(machine, B)
    assert (attempt.number, attempt.request) == (2, GREEDY)
    again = [Delta(text=" one"), Delta(text=" two three")]
    assert machine.accept(again, 2.0) == [Delta(text=" three")]


def test_a_repetition_that_differs_ends_the_stream() -> None:
    machine = streaming()
    machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)
    machine.picked(None, 0, False, 1.2)
    asked(machine, B)
    with pytest.raises(DoesNotFit):
        machine.accept([Delta(text=" eins")], 2.0)
    (fail,) = machine.failed(failure(FailureKind.DIVERGED), 2.0)
    assert isinstance(fail, Fail)
    assert fail.in_stream


SEEDED = Request(Kind.CHAT, "tiny", sampling=Sampling(seed=7))


def test_what_was_drawn_with_a_seed_is_drawn_again_and_gone_on_with_if_that_differs() -> None:
    machine = streaming(SEEDED)
    assert machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)[-1] == Pick(
        frozenset({A.key}), Way.REGENERATE, A
    )
    asked(machine, B)
    with pytest.raises(DoesNotFit):
        machine.accept([Delta(text=" eins")], 2.0)
    (pick,) = machine.failed(failure(FailureKind.DIVERGED), 2.0)
    assert isinstance(pick, Pick)
    assert (pick.exclude, pick.way) == (frozenset({A.key}), Way.CONTINUE), "B may well continue"
    assert asked(machine, B).way is Way.CONTINUE
    assert machine.accept([Delta(text=" three")], 3.0) == [Delta(text=" three")]


def test_usage_is_of_the_answer_and_says_what_all_runs_took() -> None:
    machine = streaming()  # said two
    machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)
    asked(machine, B)
    machine.accept([Delta(text=" three")], 2.0)
    machine.failed(failure(FailureKind.HOLDER_LOST), 2.1)
    asked(machine, C)
    machine.accept([Delta(text=" four", finish_reason="stop")], 3.0)
    (usage,) = machine.accept([Usage(prompt_tokens=10 + 3, completion_tokens=1)], 3.1)
    assert usage == Usage(
        prompt_tokens=10,
        completion_tokens=4,
        spent_prompt_tokens=10 + (10 + 2) + (10 + 3),
        spent_completion_tokens=4,
    )


def test_a_repeated_run_is_paid_for_twice() -> None:
    machine = Relay(deadline_at=100.0, may_retry=lambda now: True, streaming=False)
    machine.start(0.0)
    asked(machine, A)
    machine.accept([Delta(text=" one"), Delta(text=" two")], 1.0)
    machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)
    asked(machine, B)
    machine.accept([Delta(text=" one")], 2.0)
    machine.accept([Delta(finish_reason="stop")], 2.0)
    (usage,) = machine.accept([Usage(prompt_tokens=10, completion_tokens=3)], 2.1)
    assert (usage.spent_prompt_tokens, usage.spent_completion_tokens) == (20, 5)


def test_a_busy_holder_is_waited_for_in_mid_stream_too() -> None:
    machine = streaming()
    machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)
    asked(machine, B)
    (pick,) = machine.failed(failure(FailureKind.BUSY, 503, 2.0), 1.2)
    assert pick == Pick(frozenset({A.key, B.key}), Way.CONTINUE, A)
    (attempt,) = machine.picked(None, 0, False, 1.2)
    assert isinstance(attempt, Attempt)
    assert (attempt.target, attempt.number) == (B, 2)
    assert attempt.wait_s > 0
    assert attempt.request is not None
    assert attempt.request.partial == " one two"


def test_a_stream_makes_no_more_attempts_than_any_request() -> None:
    machine = streaming()
    for holder in (B, C):
        assert isinstance(machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)[-1], Pick)
        asked(machine, holder)
    assert machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)[-1] == Fail(
        failure(FailureKind.HOLDER_LOST), in_stream=True
    )


def test_going_on_after_a_run_that_gave_something_needs_no_budget() -> None:
    machine = streaming()
    machine.may_retry = lambda now: False
    machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)
    assert asked(machine, B).number == 2
    machine.accept([Delta(text=" three")], 2.0)
    machine.failed(failure(FailureKind.HOLDER_LOST), 2.1)
    assert asked(machine, C).number == 3


@pytest.mark.parametrize("way", list(Way))
def test_going_on_after_a_run_that_gave_nothing_is_within_the_budget(way: Way) -> None:
    machine = streaming()
    machine.may_retry = lambda now: False
    machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)
    if way is Way.REGENERATE:
        machine.picked(None, 0, False, 1.2)
    asked(machine, B)
    if way is Way.REGENERATE:
        assert machine.accept([Delta(text=" one two")], 1.3) == [], "which the client has"
    lost = failure(FailureKind.HOLDER_LOST)
    assert isinstance(machine.failed(lost, 2.1)[-1], Pick)
    assert machine.picked(C, 0, True, 2.1) == [Fail(lost, in_stream=True)]


def test_an_answer_that_lacks_only_its_end_needs_nobody() -> None:
    machine = streaming()
    machine.accept([Delta(text=" three"), Delta(text=" four")], 1.0)
    directives = machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)
    assert directives[1:] == [
        Say((Delta(finish_reason="length"), Usage(completion_tokens=4))),
        Finish(),
    ]


def test_what_cannot_be_gone_on_with_ends_in_the_stream() -> None:
    machine = streaming(Request(Kind.CHAT, "tiny", json_mode=True))
    directives = machine.failed(failure(FailureKind.BROKEN), 1.1)
    assert directives[-1] == Fail(failure(FailureKind.BROKEN), in_stream=True)


def test_a_holder_that_can_neither_continue_nor_repeat_is_asked_once_for_each() -> None:
    machine = streaming()
    machine.failed(failure(FailureKind.HOLDER_LOST), 1.1)
    asked(machine, B)
    machine.failed(failure(FailureKind.UNSUPPORTED, 400), 1.2)
    machine.picked(None, 0, False, 1.2)
    asked(machine, B)
    (pick,) = machine.failed(failure(FailureKind.UNSUPPORTED, 400), 1.3)
    assert pick == Pick(frozenset({A.key, B.key}), Way.REGENERATE, A)
    (fail,) = machine.picked(None, 0, False, 1.3)
    assert isinstance(fail, Fail)
