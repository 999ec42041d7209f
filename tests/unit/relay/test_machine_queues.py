"""When holders are busy: re-picks, and where a request queues."""

from __future__ import annotations

from meshd import limits
from meshd.inference import (
    FailureKind,
)
from meshd.relay.directives import Attempt, Fail, Pick
from tests.unit.relay.relays import A, B, C, asked, failure, relay


def test_busy_is_no_attempt_and_the_others_are_asked_without_waiting() -> None:
    machine = relay()
    machine.start(0.0)
    assert asked(machine, A, others=2).wait_s == 0.0
    assert machine.failed(failure(FailureKind.BUSY, 503, 9.0), 0.1) == [Pick(frozenset({A.key}))]
    second = asked(machine, B, others=1)
    assert (second.wait_s, second.number) == (0.0, 1)


def test_when_all_are_busy_it_queues_at_the_shortest_wait() -> None:
    machine = relay()
    machine.start(0.0)
    for holder, wait_s in ((A, 9.0), (B, 2.0), (C, 5.0)):
        asked(machine, holder)
        directives = machine.failed(failure(FailureKind.BUSY, 503, wait_s), 0.1)
    (queued,) = directives
    assert queued == Attempt(B, 1, limits.QUEUE_WAIT_S, ask=4)
    (fail,) = machine.failed(failure(FailureKind.BUSY, 503, 60.0), 60.0)
    assert isinstance(fail, Fail)
    assert fail.failure.status == 503
    assert fail.failure.retry_after_s is not None


def test_a_holder_that_dies_under_a_queued_request_sends_it_back_to_the_busy_ones() -> None:
    machine = relay()
    machine.start(0.0)
    for holder, wait_s in ((A, 2.0), (B, 9.0)):
        asked(machine, holder)
        machine.failed(failure(FailureKind.BUSY, 503, wait_s), 0.0)
    (queued,) = machine.picked(None, 0, False, 0.0)
    assert queued == Attempt(A, 1, limits.QUEUE_WAIT_S, ask=3)
    directives = machine.failed(failure(FailureKind.HOLDER_LOST), 20.0)
    assert directives[-1] == Pick(frozenset({A.key}))
    (again,) = machine.picked(B, 0, True, 20.0)
    assert again == Attempt(B, 2, limits.QUEUE_WAIT_S - 20.0, ask=4), "what it has waited counts"


def test_who_queued_in_vain_is_not_sent_to_the_back_of_the_queue() -> None:
    machine = relay()
    machine.start(0.0)
    assert asked(machine, A, others=0).wait_s == limits.QUEUE_WAIT_S
    (fail,) = machine.failed(failure(FailureKind.BUSY, 503, 9.0), limits.QUEUE_WAIT_S)
    assert isinstance(fail, Fail)
    assert (fail.failure.status, fail.failure.retry_after_s) == (503, 9.0)


def test_a_lone_holder_may_queue_at_once() -> None:
    machine = relay()
    machine.start(0.0)
    assert asked(machine, A, others=0).wait_s == limits.QUEUE_WAIT_S


def test_a_queue_wait_never_outlives_the_deadline() -> None:
    machine = relay(deadline_at=7.0)
    machine.start(0.0)
    assert asked(machine, A, others=0).wait_s == 7.0


def test_a_draining_holder_is_not_queued_at() -> None:
    machine = relay()
    machine.start(0.0)
    asked(machine, A)
    machine.failed(failure(FailureKind.DRAINING, 503), 0.1)
    (fail,) = machine.picked(None, 0, False, 0.2)
    assert isinstance(fail, Fail)


def test_a_queue_at_a_node_that_begins_to_drain_is_left_for_the_other_busy_one() -> None:
    machine = relay()
    machine.start(0.0)
    for holder, wait_s in ((A, 2.0), (B, 9.0)):
        asked(machine, holder)
        machine.failed(failure(FailureKind.BUSY, 503, wait_s), 0.0)
    (queued,) = machine.picked(None, 0, False, 0.0)
    assert isinstance(queued, Attempt)
    assert queued.target == A
    (again,) = machine.failed(failure(FailureKind.DRAINING, 503), 1.0)
    assert again == Attempt(B, 1, limits.QUEUE_WAIT_S - 1.0, ask=4)
