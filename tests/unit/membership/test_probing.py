"""How a probe goes: memberlist's ProbeNode_*, HandlePing_*, HandleIndirectPing, foca's probes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from meshd import limits
from meshd.ids import Address
from meshd.membership import events
from meshd.membership.constants import LAN
from meshd.membership.events import Send, TcpPing, Trouble, Warned
from meshd.membership.members import State
from meshd.wire.gossip import Ack, Ask, Failed, Nack, Ping, PingReq, Suspect, Word
from tests.sim.swim_world import address_of, node_id
from tests.unit.membership.bench import FIVE, FOUR, ME, ONE, THREE, TWO, Bench, profile, word

# --- this node's probe


def test_an_ack_ends_a_probe_well() -> None:
    bench = Bench.meeting(ONE)
    _, ping = bench.until_sent(Ping)
    bench.hear(ONE, Ack(ping.sequence))
    bench.done.clear()
    bench.wait(0.9)
    assert bench.all(Send) == []
    assert bench.state(ONE) is State.ALIVE


def test_an_ack_with_another_number_or_from_somebody_else_proves_nothing() -> None:
    bench = Bench.meeting(ONE, TWO, THREE, FOUR, FIVE)
    target, ping = bench.until_sent(Ping)
    bench.hear(target, Ack(ping.sequence + 1))
    stranger_to_the_probe = next(n for n in (ONE, TWO) if n != target)
    bench.hear(stranger_to_the_probe, Ack(ping.sequence))
    bench.wait(1.0)
    assert bench.state(target) is State.SUSPECT


def test_without_an_ack_others_are_asked_and_tcp_is_tried_then_the_member_is_suspected() -> None:
    bench = Bench.meeting(ONE, TWO, THREE, FOUR, FIVE)
    target, ping = bench.until_sent(Ping)
    started = bench.now
    bench.done.clear()
    bench.wait(LAN.probe_timeout_s)
    requests = [(send.to, m) for send in bench.all(Send) for m in send.messages]
    assert len(requests) == LAN.indirect_probes
    for relay, message in requests:
        assert relay != target
        assert message == PingReq(ping.sequence, target, profile(target).addresses)
    assert len({relay for relay, _ in requests}) == LAN.indirect_probes
    assert bench.all(TcpPing) == [
        TcpPing(target, profile(target).addresses, ping.sequence, started + LAN.probe_interval_s)
    ]
    assert bench.state(target) is State.ALIVE
    bench.wait(LAN.probe_interval_s - LAN.probe_timeout_s)
    assert bench.state(target) is State.SUSPECT
    assert Suspect(target, (1, 0), ME) in bench.sent(Suspect)


def test_an_ack_through_a_relay_ends_a_probe_well() -> None:
    bench = Bench.meeting(ONE, TWO, THREE, FOUR, FIVE)
    target, ping = bench.until_sent(Ping)
    relay, _ = bench.until_sent(PingReq)
    bench.hear(relay, Ack(ping.sequence))
    bench.wait(0.6)
    assert bench.state(target) is State.ALIVE


def test_an_answer_over_tcp_alone_saves_the_member_and_is_reported_once() -> None:
    bench = Bench.meeting(ONE)
    warned = []
    for _ in range(3):
        _, ping = bench.until_sent(Ping)
        warned += bench.all(Warned)
        bench.wait(0.6)
        bench.feed(events.TcpPinged(ONE, ping.sequence, True))
    bench.done.clear()
    bench.wait(0.41)
    assert bench.state(ONE) is State.ALIVE
    assert [*warned, *bench.all(Warned)] == [Warned(Trouble.UDP_BLOCKED, ONE)]


def test_a_failed_ping_over_tcp_saves_nobody() -> None:
    bench = Bench.meeting(ONE)
    _, ping = bench.until_sent(Ping)
    bench.feed(events.TcpPinged(ONE, ping.sequence, False))
    bench.feed(events.TcpPinged(ONE, ping.sequence + 1, True))
    bench.wait(1.0)
    assert bench.state(ONE) is State.SUSPECT


def test_an_ack_that_comes_too_late_does_not_count() -> None:
    bench = Bench.meeting(ONE)
    _, ping = bench.until_sent(Ping)
    bench.wait(1.0)
    bench.hear(ONE, Ack(ping.sequence))
    assert bench.state(ONE) is State.SUSPECT


def test_a_word_heard_during_a_probe_makes_its_result_worthless() -> None:
    bench = Bench.meeting(ONE)
    bench.until_sent(Ping)
    bench.hear(ONE, word(ONE, 1))
    bench.wait(1.0)
    assert bench.state(ONE) is State.ALIVE


def test_a_suspect_is_told_so_with_its_ping() -> None:
    bench = Bench.meeting(ONE)
    bench.hear(ONE, Suspect(ONE, (1, 0), TWO))
    target, _ = bench.until_sent(Ping)
    sends = [send for send in bench.all(Send) if any(isinstance(m, Ping) for m in send.messages)]
    assert target == ONE
    assert sends[0].messages[1] == Suspect(ONE, (1, 0), ME)


def test_members_are_probed_once_a_second_in_rounds() -> None:
    bench = Bench.meeting(ONE, TWO, THREE)
    targets = []
    for _ in range(6):
        target, ping = bench.until_sent(Ping)
        bench.hear(target, Ack(ping.sequence))
        targets.append((bench.now, target))
    times = [at for at, _ in targets]
    assert [round(b - a, 6) for a, b in pairwise(times)] == [1.0] * 5
    assert {target for _, target in targets[:3]} == {target for _, target in targets[3:]}


def test_who_failed_is_not_probed_any_more() -> None:
    bench = Bench.meeting(ONE)
    bench.hear(ONE, Failed(ONE, (1, 0), TWO))
    bench.wait(40.0)
    bench.done.clear()
    bench.wait(20.0)
    assert bench.sent(Ping) == []


def test_nobody_to_probe_is_no_trouble() -> None:
    bench = Bench.meeting()
    bench.wait(30.0)
    assert bench.all(Send) == []


def test_pings_go_where_the_last_ack_came_from_and_everywhere_when_that_fails() -> None:
    bench = Bench.meeting()
    here = (address_of(1), Address("fd00::1", 11436))
    both = word(ONE, 1, of=profile(ONE).__class__("one", here))
    bench.feed(events.Merged(ONE, (both,)))
    _, ping = bench.until_sent(Ping)
    assert bench.all(Send)[0].addresses == here
    natted = Address("203.0.113.5", 40000)
    bench.feed(events.Received(ONE, natted, (Ack(ping.sequence),)))
    bench.until_sent(Ping)
    assert bench.all(Send)[0].addresses == (natted,)
    bench.done.clear()
    bench.wait(0.5)  # no answer there: try what it announces
    assert [send.addresses for send in bench.all(Send)] == [here]


# --- awareness


def test_a_failed_probe_without_relays_costs_awareness_and_a_good_one_restores_it() -> None:
    bench = Bench.meeting(ONE)
    bench.until_sent(Ping)
    bench.done.clear()
    bench.wait(1.0)
    assert bench.core.awareness == 1
    # Stretched: the next probe, which began at once, waits twice as long before it asks others.
    ping = bench.sent(Ping)[-1]
    bench.wait(0.9)
    assert bench.all(TcpPing)[1:] == []
    bench.hear(ONE, Ack(ping.sequence))
    assert bench.core.awareness == 0


@pytest.mark.parametrize("nacks", [0, 1, 2, 3])
def test_each_missed_nack_costs_awareness(nacks: int) -> None:
    bench = Bench.meeting(ONE, TWO, THREE, FOUR, FIVE)
    target, ping = bench.until_sent(Ping)
    bench.until_sent(PingReq)
    relays = [send.to for send in bench.all(Send) if isinstance(send.messages[0], PingReq)]
    for relay in relays[:nacks]:
        bench.hear(relay, Nack(ping.sequence))
        bench.hear(relay, Nack(ping.sequence))  # twice is once
    bench.hear(target, Nack(ping.sequence))  # and from elsewhere is nothing
    bench.wait(0.5)
    assert bench.state(target) is State.SUSPECT
    assert bench.core.awareness == LAN.indirect_probes - nacks


# --- pings of others


def test_a_ping_is_answered_where_it_came_from() -> None:
    bench = Bench.meeting(ONE)
    natted = Address("203.0.113.5", 40000)
    bench.feed(events.Received(ONE, natted, (Ping(77, ME),)))
    assert bench.all(Send)[0] == Send(ONE, (natted,), (Ack(77),))


def test_a_ping_that_means_the_former_owner_of_this_address_is_not_answered() -> None:
    bench = Bench.meeting(ONE)
    bench.hear(ONE, Ping(77, TWO))
    assert bench.all(Send) == []


def test_who_is_held_for_failed_is_told_so_when_it_pings() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(TWO, Failed(ONE, (1, 0), TWO))
    bench.done.clear()
    bench.hear(ONE, Ping(5, ME))
    assert Failed(ONE, (1, 0), ME) in bench.sent(Failed, ONE)


def test_a_member_that_is_admitted_but_unknown_is_answered_and_met_but_not_over_and_over() -> None:
    bench = Bench.meeting(ONE)
    for _ in range(3):
        bench.hear(TWO, Ping(5, ME))
    assert len(bench.sent(Ack, TWO)) == 3
    assert bench.all(events.Exchange) == [events.Exchange(TWO, (address_of(2),))]
    bench.wait(6.0)
    bench.hear(TWO, Ping(6, ME))
    assert len(bench.all(events.Exchange)) >= 2


# --- pings on behalf of others


def test_a_ping_request_is_carried_out_and_the_ack_passed_on() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, PingReq(500, TWO, ()))
    (relayed,) = bench.sent(Ping, TWO)
    assert relayed.target == TWO
    bench.hear(TWO, Ack(relayed.sequence))
    assert bench.sent(Ack, ONE) == [Ack(500)]
    bench.wait(5.0)
    assert bench.sent(Nack) == []


def test_without_an_ack_a_nack_is_sent_before_the_requesters_time_is_up() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, PingReq(500, TWO, ()))
    (relayed,) = bench.sent(Ping, TWO)
    bench.wait(LAN.probe_timeout_s * 0.79)
    assert bench.sent(Nack) == []
    bench.wait(LAN.probe_timeout_s * 0.02)
    assert bench.sent(Nack, ONE) == [Nack(500)]
    bench.hear(TWO, Ack(relayed.sequence))  # late is better than never
    assert bench.sent(Ack, ONE) == [Ack(500)]


def test_an_ack_passed_on_must_come_from_the_target() -> None:
    bench = Bench.meeting(ONE, TWO, THREE)
    bench.hear(ONE, PingReq(500, TWO, ()))
    (relayed,) = bench.sent(Ping, TWO)
    bench.hear(THREE, Ack(relayed.sequence))
    assert bench.sent(Ack) == []


def test_a_target_that_the_relay_does_not_know_is_pinged_where_the_request_says() -> None:
    bench = Bench.meeting(ONE)
    there = (Address("10.0.0.2", 11436),)
    bench.hear(ONE, PingReq(500, TWO, there))
    assert [send.addresses for send in bench.all(Send) if send.to == TWO] == [there]


def test_a_request_to_ping_somebody_who_is_no_member_is_ignored() -> None:
    bench = Bench.meeting(ONE)
    bench.hear(ONE, PingReq(500, node_id(99), (Address("10.0.0.99", 11436),)))
    assert bench.all(Send) == []


def test_relayed_pings_are_limited_and_forgotten_in_time() -> None:
    bench = Bench.meeting(ONE, TWO)
    for sequence in range(limits.GOSSIP_RELAYED_PINGS + 10):
        bench.hear(ONE, PingReq(sequence, TWO, ()))
    assert len(bench.sent(Ping, TWO)) == limits.GOSSIP_RELAYED_PINGS
    assert bench.core.counters["relays_refused"] == 10
    bench.wait(1.5)
    bench.done.clear()
    bench.hear(ONE, PingReq(7777, TWO, ()))
    assert len(bench.sent(Ping, TWO)) >= 1


# --- the end of a suspicion


def test_a_suspect_that_nobody_can_reach_is_failed_when_its_time_is_up() -> None:
    bench = Bench.meeting(ONE)
    bench.hear(ONE, Suspect(ONE, (1, 0), TWO))
    bench.wait(LAN.suspicion_min_s(2) - 0.01)
    assert bench.state(ONE) is State.SUSPECT
    bench.wait(0.02)
    assert bench.state(ONE) is State.FAILED
    assert Failed(ONE, (1, 0), ME) in bench.sent(Failed)


def test_a_suspicion_with_many_accusers_ends_sooner_than_one_with_one() -> None:
    ends = []
    for accusers in ((ONE,), (ONE, THREE, FOUR)):
        bench = Bench.meeting(ONE, TWO, THREE, FOUR, FIVE)
        started = bench.now
        for accuser in accusers:
            bench.hear(accuser, Suspect(TWO, (1, 0), accuser))
        while bench.state(TWO) is State.SUSPECT:
            target_acks = bench.sent(Ping)
            bench.done.clear()
            for ping in target_acks:  # everybody else answers
                if ping.target != TWO:
                    bench.hear(ping.target, Ack(ping.sequence))
            bench.wait(0.05)
        ends.append(bench.now - started)
    assert ends[1] == pytest.approx(LAN.suspicion_min_s(6), abs=0.1)
    assert ends[0] > 2 * ends[1]


def test_before_it_is_failed_a_suspect_and_a_few_others_are_asked_once_more() -> None:
    bench = Bench.meeting(ONE, TWO, THREE, FOUR, FIVE)
    bench.hear(ONE, Suspect(TWO, (1, 0), ONE))
    bench.hear(THREE, Suspect(TWO, (1, 0), THREE))
    bench.hear(FOUR, Suspect(TWO, (1, 0), FOUR))
    bench.wait(LAN.suspicion_min_s(6) - LAN.probe_interval_s + 0.01)
    asked = {send.to for send in bench.all(Send) if Ask(TWO, (1, 0)) in send.messages}
    assert len(asked) == LAN.indirect_probes
    assert TWO not in asked
    bench.hear(asked.pop(), word(TWO, 1))
    bench.wait(LAN.probe_interval_s)
    assert bench.version(TWO) == (1, 1)
    assert bench.state(TWO) is not State.FAILED


def test_who_knows_a_later_word_sends_it_to_whoever_asks_and_is_silent_else() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, word(TWO, 3))
    bench.wait(5.0)
    bench.done.clear()
    bench.hear(ONE, Ask(TWO, (1, 3)), Ask(node_id(50), (1, 0)))
    assert bench.sent(Word, ONE) == []
    bench.hear(ONE, Ask(TWO, (1, 2)))
    assert bench.sent(Word, ONE) == [word(TWO, 3)]


# --- hints


def test_a_hint_suspects_at_once_and_tells_the_suspect() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.feed(events.Suspected(TWO, "connection reset"))
    assert bench.state(TWO) is State.SUSPECT
    first = bench.all(Send)[0]
    assert first.to == TWO
    assert isinstance(first.messages[0], Ping)
    assert first.messages[1] == Suspect(TWO, (1, 0), ME)


def test_hints_about_one_member_are_acted_upon_once_in_a_while() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.feed(events.Suspected(TWO, "connection reset"))
    bench.hear(TWO, word(TWO, 1))
    bench.feed(events.Suspected(TWO, "connection reset"))
    assert bench.state(TWO) is State.ALIVE
    bench.feed(events.Suspected(node_id(77), "never heard of"))
    assert bench.core.counters["hints"] == 1
