"""The parts of the core, each alone: awareness, suspicion, broadcasts, ring, constants."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from meshd.membership.awareness import Awareness
from meshd.membership.broadcasts import Broadcasts
from meshd.membership.constants import LAN
from meshd.membership.members import Members, Opinion, State
from meshd.membership.probe import Ring
from meshd.membership.suspicion import Suspicion, timeout_s
from meshd.wire.gossip import Failed, Suspect, encode
from tests.sim.swim_world import node_id
from tests.unit.membership.bench import FOUR, ME, ONE, THREE, TWO, word

# --- awareness


def test_awareness_stays_between_zero_and_one_below_its_maximum() -> None:
    awareness = Awareness(8)
    awareness.change(-1)
    assert awareness.score == 0
    awareness.change(100)
    assert awareness.score == 7


def test_awareness_stretches_timeouts_up_to_eightfold() -> None:
    awareness = Awareness(8)
    assert awareness.scale(0.5) == 0.5
    awareness.change(7)
    assert awareness.scale(0.5) == 4.0


# --- suspicion: the table of memberlist's Suspicion_remainingSuspicionTime, min 2 s, max 30 s


@pytest.mark.parametrize(
    ("confirmations", "expected_s"), [(0, 30.0), (1, 16.0), (2, 7.81), (3, 2.0)]
)
def test_each_confirmation_shortens_a_suspicion(confirmations: int, expected_s: float) -> None:
    assert timeout_s(confirmations, 3, 2.0, 30.0) == pytest.approx(expected_s, abs=0.01)


def test_a_suspicion_that_nobody_could_confirm_has_the_shortest_time() -> None:
    assert Suspicion(10.0, ONE, 0, 2.0, 30.0).deadline == 12.0


def test_only_others_confirm_and_each_once_and_no_more_than_wanted() -> None:
    suspicion = Suspicion(10.0, ONE, 2, 2.0, 30.0)
    assert not suspicion.confirm(ONE)
    assert suspicion.confirm(TWO)
    assert not suspicion.confirm(TWO)
    assert suspicion.confirm(THREE)
    assert not suspicion.confirm(FOUR)
    assert suspicion.deadline == 12.0


def test_a_confirmation_cannot_end_a_suspicion_before_its_last_call_is_answered() -> None:
    suspicion = Suspicion(10.0, ONE, 2, 2.0, 30.0)
    suspicion.call(until=25.0)
    suspicion.confirm(TWO)
    suspicion.confirm(THREE)
    assert suspicion.deadline == 25.0


def test_the_times_are_those_of_the_research_table() -> None:
    assert LAN.suspicion_min_s(2) == 4.0
    assert LAN.suspicion_max_s(5) == 24.0
    assert LAN.suspicion_min_s(32) == pytest.approx(6.02, abs=0.01)
    assert [LAN.confirmations(n) for n in (2, 3, 4, 5)] == [0, 0, 2, 2]
    assert [LAN.retransmits(n) for n in (1, 5, 9, 10, 99, 100, 1000)] == [4, 4, 4, 8, 8, 12, 16]


def test_exchanges_get_rarer_with_each_doubling_above_thirty_two() -> None:
    assert [LAN.push_pull_s(n) for n in (1, 32, 33, 65, 128)] == [30.0, 30.0, 60.0, 90.0, 90.0]


# --- broadcasts


def test_a_broadcast_is_sent_as_often_as_the_limit_says_and_then_never_again() -> None:
    queue = Broadcasts()
    queue.add(ONE, word(ONE))
    sent = [queue.take(1000, 3) for _ in range(5)]
    assert [len(messages) for messages in sent] == [1, 1, 1, 0, 0]
    assert len(queue) == 0


def test_what_was_sent_least_goes_first() -> None:
    queue = Broadcasts()
    older, newer = Suspect(ONE, (1, 0), ME), Suspect(TWO, (1, 0), ME)
    queue.add(ONE, older)
    size = len(encode(older))
    assert queue.take(size, 4) == [older]
    queue.add(TWO, newer)
    assert queue.take(size, 4) == [newer]
    assert queue.take(2 * size, 4) == [older, newer]


def test_what_does_not_fit_waits_and_what_is_smaller_goes() -> None:
    queue = Broadcasts()
    queue.add(ONE, word(ONE))
    queue.add(TWO, Suspect(TWO, (1, 0), ME))
    assert queue.take(100, 4) == [Suspect(TWO, (1, 0), ME)]
    assert queue.take(10, 4) == []
    assert len(queue) == 2


def test_news_about_a_member_replace_older_ones_of_their_kind() -> None:
    queue = Broadcasts()
    queue.add(ONE, word(ONE, 1))
    queue.add(ONE, Suspect(ONE, (1, 1), TWO))
    queue.add(ONE, Failed(ONE, (1, 1), TWO))
    assert queue.take(1000, 4) == [word(ONE, 1), Failed(ONE, (1, 1), TWO)]
    queue.add(ONE, word(ONE, 2))
    assert queue.take(1000, 4) == [word(ONE, 2)]


def test_what_is_in_the_packet_already_is_not_put_in_twice() -> None:
    queue = Broadcasts()
    opinion = Suspect(ONE, (1, 0), ME)
    queue.add(ONE, opinion)
    assert queue.take(1000, 4, (opinion,)) == []
    assert len(queue) == 1


# --- ring


def test_each_is_probed_once_per_round_and_the_order_changes() -> None:
    ring = Ring(random.Random(5))
    nodes = [node_id(index) for index in range(20)]
    for node in nodes:
        ring.add(node)
    first = [ring.next(lambda node: True) for _ in nodes]
    second = [ring.next(lambda node: True) for _ in nodes]
    assert sorted(first) == sorted(second) == nodes  # type: ignore[type-var]
    assert first != second


def test_the_ring_skips_whom_it_should_not_probe_and_ends_when_there_is_nobody() -> None:
    ring = Ring(random.Random(5))
    assert ring.next(lambda node: True) is None
    for node in (ONE, TWO, THREE):
        ring.add(node)
    assert {ring.next(lambda node: node == TWO) for _ in range(7)} == {TWO}
    assert ring.next(lambda node: False) is None


def test_who_leaves_the_ring_costs_nobody_a_turn() -> None:
    ring = Ring(random.Random(5))
    for index in range(10):
        ring.add(node_id(index))
    gone = ring.next(lambda node: True)
    assert gone is not None
    ring.remove(gone)
    rest = {ring.next(lambda node: True) for _ in range(9)}
    assert len(rest) == 9


def test_newcomers_are_put_in_at_random_places() -> None:
    places = set()
    for seed in range(40):
        ring = Ring(random.Random(seed))
        for index in range(10):
            ring.add(node_id(index))
        order = [ring.next(lambda node: True) for _ in range(10)]
        places.add(order.index(node_id(9)))
    assert len(places) > 5


# --- picks


def test_a_pick_finds_all_there_are_and_never_one_twice() -> None:
    members = Members(random.Random(3))
    for index in range(1, 60):
        members.add(word(node_id(index)), 0.0)
    wanted = {node_id(7), node_id(33)}
    for _ in range(50):
        found = members.pick(3, lambda member: member.node in wanted)
        assert {member.node for member in found} == wanted
        assert len(members.pick(3, lambda member: True)) == 3


def test_picks_are_spread_over_all() -> None:
    members = Members(random.Random(3))
    for index in range(1, 40):
        members.add(word(node_id(index)), 0.0)
    picked = {member.node for _ in range(200) for member in members.pick(3, lambda _: True)}
    assert len(picked) == 39


def test_the_size_of_the_mesh_counts_who_can_be_reached() -> None:
    members = Members(random.Random(3))
    one = members.add(word(ONE), 0.0)
    members.add(word(TWO), 0.0)
    assert members.size == 3
    one.hear_opinion((1, 0), Opinion.FAILED)
    assert members.settle(one, 1.0) is State.ALIVE
    assert members.size == 2
    members.remove(ONE)
    assert members.size == 2
    members.remove(TWO)
    assert members.size == 1


def test_deadlines_only_come_nearer_with_confirmations() -> None:
    suspicion = Suspicion(0.0, ONE, 5, 4.0, 24.0)
    deadlines = [suspicion.deadline]
    for index in range(10, 15):
        suspicion.confirm(node_id(index))
        deadlines.append(suspicion.deadline)
    assert all(later < earlier for earlier, later in pairwise(deadlines))
