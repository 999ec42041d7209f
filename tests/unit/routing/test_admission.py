"""The door in front of an engine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshd.routing.admission import Admission, Admitted, Busy, Queued, Ticket

LANE = ("engine", "tiny")


def test_as_many_run_as_there_are_slots() -> None:
    door = Admission()
    verdicts = [door.ask(LANE, 2, 0.0, 0.0)[1] for _ in range(3)]
    assert [type(v) for v in verdicts] == [Admitted, Admitted, Busy]
    assert (door.running, door.queued) == (2, 0)


def test_those_who_wait_go_in_order_of_arrival() -> None:
    door = Admission()
    first, _ = door.ask(LANE, 1, 60.0, 0.0)
    second, verdict = door.ask(LANE, 1, 60.0, 0.1)
    third, _ = door.ask(LANE, 1, 60.0, 0.2)
    assert isinstance(verdict, Queued)
    assert door.done(first, 1.0) == [second]
    assert door.done(second, 2.0) == [third]
    assert door.done(third, 3.0) == []
    assert (door.running, door.queued) == (0, 0)


def test_a_newcomer_does_not_overtake_the_queue() -> None:
    door = Admission()
    first, _ = door.ask(LANE, 1, 60.0, 0.0)
    waiting, _ = door.ask(LANE, 1, 60.0, 0.0)
    admitted = door.done(first, 1.0)
    assert admitted == [waiting]
    assert isinstance(door.ask(LANE, 1, 60.0, 1.0)[1], Queued)


def test_more_slots_let_in_who_waits() -> None:
    door = Admission()
    first, _ = door.ask(LANE, 1, 60.0, 0.0)
    waiting = [door.ask(LANE, 1, 60.0, 0.1)[0] for _ in range(3)]
    assert door.resize(LANE, 3, 1.0) == waiting[:2]
    assert (door.running, door.queued) == (3, 1)
    assert [ticket.admitted_at for ticket in waiting] == [1.0, 1.0, None]
    assert door.resize(LANE, 1, 2.0) == []
    assert door.done(first, 3.0) == [], "two still run, and there is one slot"
    assert door.resize(("engine", "another"), 5, 3.0) == []


def test_a_hopeless_wait_is_refused_at_once() -> None:
    door = Admission()
    door.ask(LANE, 1, 0.0, 0.0)
    assert isinstance(door.ask(LANE, 1, 0.5, 0.0)[1], Busy)


def test_the_queue_of_a_node_is_bounded() -> None:
    door = Admission(queue_limit=1)
    door.ask(LANE, 1, 60.0, 0.0)
    assert isinstance(door.ask(LANE, 1, 60.0, 0.0)[1], Queued)
    assert isinstance(door.ask(("other", "m"), 1, 60.0, 0.0)[1], Admitted)
    assert isinstance(door.ask(("other", "m"), 1, 60.0, 0.0)[1], Busy)


def test_giving_up_in_the_queue_frees_no_slot() -> None:
    door = Admission()
    running, _ = door.ask(LANE, 1, 60.0, 0.0)
    waiting, _ = door.ask(LANE, 1, 60.0, 0.0)
    assert door.done(waiting, 1.0) == []
    assert door.done(waiting, 1.0) == []
    assert door.lane_load(LANE) == (1, 0)
    assert door.done(running, 2.0) == []


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=80), st.integers(1, 4))
def test_never_more_run_than_slots_and_nobody_is_forgotten(
    steps: list[tuple[bool, int]], slots: int
) -> None:
    door = Admission(queue_limit=8)
    inside: set[Ticket] = set()
    waiting: list[Ticket] = []
    for now, (arrive, which) in enumerate(steps):
        if arrive or not (inside or waiting):
            ticket, verdict = door.ask(LANE, slots, 1e9, float(now))
            if isinstance(verdict, Admitted):
                assert not waiting, "nobody overtakes"
                inside.add(ticket)
            elif isinstance(verdict, Queued):
                waiting.append(ticket)
        else:
            everyone = [*inside, *waiting]
            everyone.sort(key=lambda t: (t.arrived_at, t.give_up_at))
            leaver = everyone[which % len(everyone)]
            inside.discard(leaver)
            if leaver in waiting:
                waiting.remove(leaver)
            for ticket in door.done(leaver, float(now)):
                assert ticket is waiting.pop(0)
                inside.add(ticket)
        assert len(inside) <= slots
        assert not waiting or len(inside) == slots
        assert door.lane_load(LANE) == (len(inside), len(waiting))
