"""What this node says of itself: refutations, generations, goodbyes, sleep, gossip and meetings."""

from __future__ import annotations

import msgspec
import pytest

from meshd.ids import Address
from meshd.membership import events
from meshd.membership.constants import LAN
from meshd.membership.events import Departed, Exchange, Renewed, Send, Trouble, Warned
from meshd.membership.members import State
from meshd.wire.gossip import Failed, Load, Ping, Profile, Suspect, Word, WordKind
from tests.sim.swim_world import address_of, node_id
from tests.unit.membership.bench import FIVE, FOUR, ME, ONE, THREE, TWO, Bench, profile, word

# --- refutation


@pytest.mark.parametrize("accusation", [Suspect, Failed])
def test_a_doubt_about_this_node_is_refuted_by_a_later_word(
    accusation: type[Suspect] | type[Failed],
) -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, accusation(ME, (1, 0), ONE))
    assert bench.core.word.version == (1, 1)
    assert bench.sent(Word)[0] == bench.core.word
    assert bench.core.awareness == 1


def test_a_refutation_comes_with_the_ack_to_the_ping_that_told_of_the_doubt() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, Ping(9, ME), Suspect(ME, (1, 0), ONE))
    answer = bench.all(Send)[0]
    assert answer.to == ONE
    assert bench.core.word in answer.messages


def test_a_stale_doubt_raises_no_incarnation() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, Suspect(ME, (1, 0), ONE))
    for _ in range(5):
        bench.hear(TWO, Suspect(ME, (1, 0), ONE))
    assert bench.core.word.version == (1, 1)


def test_an_accuser_whose_doubt_is_stale_gets_the_word_that_it_missed() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, Suspect(ME, (1, 0), ONE))
    bench.wait(10.0)
    bench.done.clear()
    bench.hear(TWO, Suspect(ME, (1, 0), ONE))  # passed on: not the accuser
    assert bench.sent(Word) == []
    bench.hear(TWO, Suspect(ME, (1, 0), TWO))
    assert bench.sent(Word, TWO) == [bench.core.word]


def test_a_doubt_about_a_word_that_was_never_said_is_ignored() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, Suspect(ME, (1, 2**40), ONE), Failed(ME, (9, 0), ONE))
    assert bench.core.word.version == (1, 0)


# --- generations


def test_an_own_word_of_an_earlier_generation_means_nothing() -> None:
    bench = Bench(generation=3)
    bench.feed(events.Admitted(frozenset({ONE})))
    bench.merge(ONE, word(ONE), word(ME, 9, generation=2))
    assert bench.core.word.version == (3, 0)
    assert bench.core.members.get(ME) is None


def test_an_own_word_from_the_future_makes_this_node_take_a_generation_behind_it() -> None:
    bench = Bench(generation=3)
    bench.feed(events.Admitted(frozenset({ONE})))
    bench.merge(ONE, word(ONE), word(ME, 9, generation=7))
    assert bench.core.word.version == (8, 0)
    assert bench.all(Renewed) == [Renewed(8)]
    # The new generation has to be on disk before anything is sealed with it.
    kinds = [type(directive) for directive in bench.done]
    assert kinds.index(Renewed) < kinds.index(Send)


def test_a_forged_own_word_does_not_make_this_node_renew() -> None:
    bench = Bench.meeting(ONE)
    bench.hear(ONE, msgspec.structs.replace(word(ME, 5), signature=b"no"))
    assert bench.core.word.version == (1, 0)


def test_one_identity_on_two_machines_is_reported_instead_of_outbid_for_ever() -> None:
    bench = Bench.meeting(ONE)
    for step in range(LAN.renewals + 1):
        bench.hear(ONE, word(ME, 0, generation=100 * (step + 1)))
    assert len(bench.all(Renewed)) == LAN.renewals
    assert bench.all(Warned) == [Warned(Trouble.CLONED, ME)]


# --- changes of the profile


def test_a_new_address_is_told_at_once_and_somebody_is_met() -> None:
    bench = Bench.meeting(ONE, TWO)
    there = Address("192.168.1.5", 11436)
    bench.feed(events.ProfileChanged(Profile("node-0", (there,))))
    assert bench.core.word.profile.addresses == (there,)
    assert bench.core.word.version == (1, 1)
    bench.done.clear()
    bench.wait(1.01)
    assert len(bench.all(Exchange)) >= 1


def test_load_is_told_at_most_once_a_second_and_the_last_value_wins() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.wait(5.0)
    for running in range(1, 6):
        bench.feed(
            events.ProfileChanged(msgspec.structs.replace(profile(ME), load=Load(running, 0, 8)))
        )
    assert bench.core.word.version == (1, 1)
    assert bench.core.word.profile.load.running == 1
    bench.wait(1.01)
    assert bench.core.word.version == (1, 2)
    assert bench.core.word.profile.load.running == 5


def test_draining_cannot_wait() -> None:
    bench = Bench.meeting(ONE, TWO)
    for draining in (True, False):
        load = Load(draining=draining)
        bench.feed(events.ProfileChanged(msgspec.structs.replace(profile(ME), load=load)))
        assert bench.core.word.profile.load.draining is draining


def test_what_has_not_changed_is_not_told() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.wait(5.0)
    bench.feed(events.ProfileChanged(profile(ME)))
    bench.wait(5.0)
    assert bench.core.word.version == (1, 0)


def test_a_word_over_the_limit_loses_its_last_addresses_and_is_not_said_twice() -> None:
    bench = Bench.meeting(ONE)
    many = tuple(Address(f"fd00:1111:2222:3333:4444:5555:6666:{n:04x}", 11436) for n in range(16))
    wide = Profile("ü" * 64, many * 2)
    bench.feed(events.ProfileChanged(wide))
    said = bench.core.word.profile.addresses
    assert said == wide.addresses[: len(said)]
    version = bench.core.word.version
    bench.feed(events.ProfileChanged(wide))
    bench.wait(3.0)
    assert bench.core.word.version == version


# --- leaving


def test_leaving_is_said_directly_and_by_gossip_and_then_this_node_may_stop() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.feed(events.Leave())
    assert bench.core.word.kind is WordKind.LEFT
    assert {send.to for send in bench.all(Send)} == {ONE, TWO}
    bench.wait(2.0)
    assert bench.all(Departed) == [Departed()]


def test_leaving_alone_is_done_at_once() -> None:
    bench = Bench.meeting()
    bench.feed(events.Leave())
    assert bench.all(Departed) == [Departed()]


def test_who_left_refutes_nothing_probes_nobody_and_still_answers() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.feed(events.Leave())
    left = bench.core.word
    bench.wait(2.0)
    bench.done.clear()
    bench.hear(ONE, Failed(ME, left.version, ONE), Ping(3, ME))
    bench.feed(events.Woke(60.0))
    bench.wait(60.0)
    assert bench.core.word == left
    assert bench.sent(Ping) == []
    assert bench.all(Exchange) == []
    assert len(bench.all(Send)) == 1  # the ack


# --- sleep


def test_falling_asleep_is_said_and_waking_takes_it_back() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.feed(events.FallAsleep())
    assert bench.core.word.kind is WordKind.ASLEEP
    assert {send.to for send in bench.all(Send)} == {ONE, TWO}
    bench.wait(60.0)  # a dark wake: the process runs on for a moment
    assert bench.sent(Ping) == []
    bench.feed(events.Woke(3600.0))
    assert bench.core.word.kind is WordKind.ALIVE
    assert bench.core.word.version == (1, 2)


def test_after_waking_nobody_is_judged_for_a_probe_interval() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, Suspect(TWO, (1, 0), ONE))
    bench.wait(LAN.suspicion_min_s(3) - 0.05)
    bench.hear(ONE, word(ONE, 1))
    assert bench.state(TWO) is State.SUSPECT
    bench.feed(events.Froze())  # its time was nearly up when the machine fell asleep
    bench.done.clear()
    bench.wait(LAN.probe_interval_s - 0.01)
    assert bench.sent(Ping) == []
    bench.feed(events.Suspected(ONE, "every pooled connection is dead after a sleep"))
    assert bench.state(ONE) is State.ALIVE
    bench.wait(1.0)
    assert bench.state(TWO) is State.SUSPECT
    bench.wait(LAN.suspicion_min_s(3))
    assert bench.state(TWO) is State.FAILED


def test_a_probe_that_a_sleep_interrupted_blames_nobody() -> None:
    bench = Bench.meeting(ONE)
    bench.until_sent(Ping)
    bench.feed(events.Froze())
    bench.done.clear()
    bench.wait(0.99)
    assert bench.sent(Suspect) == []
    assert bench.state(ONE) is State.ALIVE


def test_waking_says_a_later_word_and_meets_a_few_at_different_times() -> None:
    bench = Bench.meeting(ONE, TWO, THREE, FOUR, FIVE)
    bench.feed(events.Woke(600.0))
    assert bench.core.word.version == (1, 1)
    times = {}
    for _ in range(100):
        bench.done.clear()
        bench.wait(0.01)
        for exchange in bench.all(Exchange):
            times[exchange.node] = bench.now
    assert len(times) >= LAN.wake_redials
    assert len(set(times.values())) > 1


# --- gossip


def test_gossip_goes_to_three_members_per_interval_until_it_was_told_often_enough() -> None:
    peers = [node_id(index) for index in range(1, 40)]
    bench = Bench.meeting(*peers)
    bench.hear(ONE, word(TWO, 1))
    assert len([s for s in bench.all(Send) if word(TWO, 1) in s.messages]) == LAN.gossip_nodes
    bench.wait(30.0)
    told = [send for send in bench.all(Send) if word(TWO, 1) in send.messages]
    assert len(told) == LAN.retransmits(40)


def test_silence_when_there_is_nothing_new() -> None:
    bench = Bench.meeting(ONE)
    bench.wait(3.0)
    assert all(isinstance(m, Ping | Suspect) for s in bench.all(Send)[:1] for m in s.messages)
    lone = Bench.meeting()
    lone.feed(events.ProfileChanged(Profile("other", ())))
    lone.wait(5.0)
    assert lone.all(Send) == []


def test_the_failed_are_gossiped_to_for_a_while_and_then_no_more() -> None:
    bench = Bench.meeting(ONE)
    bench.hear(ONE, Failed(ONE, (1, 0), TWO))
    assert bench.sent(Failed, ONE) != []
    bench.wait(LAN.gossip_to_dead_s + 1)
    bench.done.clear()
    bench.feed(events.ProfileChanged(Profile("renamed", ())))
    assert bench.all(Send) == []


# --- meetings


def test_somebody_is_met_on_the_clock() -> None:
    bench = Bench.meeting(ONE, TWO)
    met = []
    for _ in range(100):
        bench.done.clear()
        bench.wait(1.0)
        for ping in bench.sent(Ping):
            bench.hear(ping.target, word(ping.target, int(bench.now)))
        met += bench.all(Exchange)
    assert 3 <= len(met) <= 4


def test_a_failed_member_is_redialled_for_ever() -> None:
    bench = Bench.meeting(ONE)
    bench.hear(ONE, Failed(ONE, (1, 0), TWO))
    bench.wait(24 * 3600.0)
    bench.done.clear()
    bench.wait(60.0)
    assert Exchange(ONE, (address_of(1),)) in bench.all(Exchange)


@pytest.mark.parametrize("kind", [WordKind.LEFT, WordKind.ASLEEP])
def test_who_left_or_sleeps_is_not_dialled(kind: WordKind) -> None:
    bench = Bench.meeting(ONE)
    bench.hear(ONE, word(ONE, 1, kind=kind))
    bench.done.clear()
    bench.wait(600.0)
    assert bench.all(Exchange) == []


def test_redials_of_the_whole_mesh_do_not_grow_with_its_size() -> None:
    peers = [node_id(index) for index in range(1, 41)]
    bench = Bench.meeting(*peers)
    bench.hear(ONE, Failed(TWO, (1, 0), ONE))
    dials = 0
    for _ in range(1200):
        bench.done.clear()
        bench.wait(1.0)
        for ping in bench.sent(Ping):
            bench.hear(ping.target, word(ping.target, int(bench.now * 10)))
        dials += sum(exchange.node == TWO for exchange in bench.all(Exchange))
    assert dials <= 6  # 40 rounds, one chance in 40 each


def test_a_contact_is_met_until_it_is_known() -> None:
    bench = Bench.meeting()
    there = (Address("192.168.1.7", 11436),)
    bench.feed(events.Found(ONE, there))
    assert bench.all(Exchange) == [Exchange(ONE, there)]
    bench.wait(30.0)
    assert len(bench.all(Exchange)) >= 4  # alone, it keeps trying
    bench.merge(ONE, word(ONE))
    bench.done.clear()
    bench.feed(events.Found(ONE, there))
    assert bench.all(Exchange) == []


def test_a_sighting_of_somebody_who_is_no_member_is_nothing() -> None:
    bench = Bench.meeting(ONE)
    bench.feed(events.Found(node_id(99), (Address("192.168.1.7", 11436),)))
    assert bench.all(Exchange) == []
