"""What an update does to a member: memberlist's AliveNode_*, SuspectNode_*, DeadNode_*, MergeState,
foca's and swift's refutations, serf's intents, in our terms."""

from __future__ import annotations

import msgspec
import pytest

from meshd.ids import Address
from meshd.membership import events
from meshd.membership.events import Changed
from meshd.membership.members import State
from meshd.wire.gossip import Failed, Load, Profile, Suspect, Word, WordKind
from tests.unit.membership.bench import FOUR, ME, ONE, THREE, TWO, Bench, profile, word

SIX = "z" * 26

# --- alive


def test_a_new_member_is_alive_and_announced() -> None:
    bench = Bench.meeting(ONE)
    bench.hear(ONE, word(TWO))
    assert bench.state(TWO) is State.ALIVE
    assert bench.all(Changed) == [Changed(TWO, None, State.ALIVE)]
    assert set(bench.sent(Word)) == {word(TWO)}


def test_hearing_the_same_again_changes_nothing_and_is_not_passed_on() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, word(TWO), word(TWO))
    assert bench.done == []


def test_an_older_word_changes_nothing() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, word(TWO, 5))
    bench.hear(ONE, word(TWO, 4))
    assert bench.version(TWO) == (1, 5)


def test_a_later_word_ends_a_suspicion() -> None:
    bench = Bench.meeting(ONE, TWO, THREE)
    bench.hear(ONE, Suspect(TWO, (1, 0), ONE))
    bench.hear(ONE, word(TWO, 1))
    assert bench.state(TWO) is State.ALIVE
    bench.wait(60.0)
    # Its own probes go unanswered and raise new suspicions, but the old one had no effect.
    assert all(s.version == (1, 1) for s in bench.sent(Failed) if s.node == TWO)


def test_a_changed_profile_arrives_and_is_reported() -> None:
    bench = Bench.meeting(ONE, TWO)
    busy = msgspec.structs.replace(profile(TWO), inventory=7, load=Load(2, 1, 4, True))
    bench.hear(ONE, word(TWO, 1, of=busy))
    assert bench.member(TWO).word.profile == busy
    assert bench.all(Changed) == [Changed(TWO, State.ALIVE, State.ALIVE)]


def test_another_address_is_an_ordinary_update() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.member(TWO).path = Address("10.0.0.2", 4242)
    moved = Profile("node-2", (Address("192.168.1.9", 11436), Address("fd00::9", 11436)))
    bench.hear(ONE, word(TWO, 1, of=moved))
    assert bench.member(TWO).destinations() == moved.addresses


def test_a_word_that_its_author_did_not_sign_is_counted_and_dropped() -> None:
    bench = Bench.meeting(ONE, TWO)
    forged = msgspec.structs.replace(word(TWO, 9), signature=b"x" * 64)
    bench.hear(ONE, forged)
    assert bench.version(TWO) == (1, 0)
    assert bench.core.counters["words_forged"] == 1


def test_a_word_of_somebody_who_is_not_admitted_is_dropped() -> None:
    bench = Bench.meeting(ONE)
    stranger = Word(SIX, (1, 0), WordKind.ALIVE, profile(ONE), b"p", b"s" * 64)  # type: ignore[arg-type]
    bench.hear(ONE, stranger)
    assert bench.core.members.get(SIX) is None  # type: ignore[arg-type]
    assert bench.core.counters["words_not_admitted"] == 1


def test_a_packet_from_somebody_who_is_not_admitted_is_not_looked_at() -> None:
    bench = Bench.meeting(ONE)
    bench.feed(events.Received(SIX, Address("10.6.6.6", 1), (word(TWO),)))  # type: ignore[arg-type]
    assert bench.done == []
    assert bench.core.members.get(TWO) is None
    assert bench.core.counters["packets_not_admitted"] == 1


def test_of_two_words_with_one_version_everybody_takes_the_same() -> None:
    this = word(TWO, 1)
    that = word(TWO, 1, of=Profile("twin", (Address("10.7.7.7", 1),)))
    held = []
    for order in ((this, that), (that, this)):
        bench = Bench.meeting(ONE, TWO)
        bench.hear(ONE, *order)
        held.append(bench.member(TWO).word)
    assert held[0] == held[1]


# --- suspect


def test_a_suspicion_of_an_unknown_member_is_ignored() -> None:
    bench = Bench.meeting(ONE)
    bench.hear(ONE, Suspect(TWO, (1, 0), ONE))
    assert bench.done == []


def test_a_suspicion_is_taken_over_and_passed_on_in_the_accusers_name() -> None:
    bench = Bench.meeting(ONE, TWO, THREE)
    bench.hear(ONE, Suspect(TWO, (1, 0), THREE))
    assert bench.state(TWO) is State.SUSPECT
    assert bench.sent(Suspect)[0] == Suspect(TWO, (1, 0), THREE)


def test_the_same_suspicion_twice_is_one() -> None:
    bench = Bench.meeting(ONE, TWO, THREE)
    bench.hear(ONE, Suspect(TWO, (1, 0), ONE))
    started = bench.member(TWO).suspicion
    bench.done.clear()
    bench.hear(ONE, Suspect(TWO, (1, 0), ONE))
    assert bench.member(TWO).suspicion is started
    assert bench.done == []


def test_a_suspicion_by_another_accuser_confirms_and_goes_on() -> None:
    bench = Bench.meeting(ONE, TWO, THREE, FOUR)
    bench.hear(ONE, Suspect(TWO, (1, 0), ONE))
    suspicion = bench.member(TWO).suspicion
    assert suspicion is not None
    before = suspicion.deadline
    bench.hear(THREE, Suspect(TWO, (1, 0), THREE))
    assert suspicion.deadline < before
    bench.wait(0.3)
    assert Suspect(TWO, (1, 0), THREE) in bench.sent(Suspect)


def test_an_accuser_who_is_no_member_does_not_count() -> None:
    bench = Bench.meeting(ONE, TWO, THREE)
    bench.hear(ONE, Suspect(TWO, (1, 0), SIX))  # type: ignore[arg-type]
    assert bench.state(TWO) is State.ALIVE


def test_a_suspicion_about_an_older_word_is_ignored() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, word(TWO, 3))
    bench.hear(ONE, Suspect(TWO, (1, 2), ONE))
    assert bench.state(TWO) is State.ALIVE


def test_a_suspicion_that_overtakes_the_word_it_is_about_waits_for_it() -> None:
    bench = Bench.meeting(ONE, TWO, THREE)
    bench.hear(ONE, Suspect(TWO, (1, 3), ONE))
    assert bench.state(TWO) is State.ALIVE
    bench.hear(ONE, word(TWO, 3))
    assert bench.state(TWO) is State.SUSPECT
    bench.hear(ONE, word(TWO, 4))
    assert bench.state(TWO) is State.ALIVE


def test_who_is_failed_is_not_suspected_again() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, Failed(TWO, (1, 0), ONE))
    bench.hear(ONE, Suspect(TWO, (1, 0), ONE))
    assert bench.state(TWO) is State.FAILED


# --- failed and left


def test_a_failure_of_an_unknown_member_is_ignored() -> None:
    bench = Bench.meeting(ONE)
    bench.hear(ONE, Failed(TWO, (1, 0), ONE))
    assert bench.done == []


def test_a_failure_told_by_gossip_counts_at_once_and_once() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, Failed(TWO, (1, 0), ONE))
    assert bench.all(Changed) == [Changed(TWO, State.ALIVE, State.FAILED)]
    bench.done.clear()
    bench.hear(ONE, Failed(TWO, (1, 0), ONE))
    assert bench.all(Changed) == []


def test_an_old_failure_is_ignored() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, word(TWO, 1))
    bench.hear(ONE, Failed(TWO, (1, 0), ONE))
    assert bench.state(TWO) is State.ALIVE


def test_replaying_the_word_of_a_failed_member_does_not_revive_it() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, Failed(TWO, (1, 0), ONE))
    bench.hear(ONE, word(TWO, 0))
    assert bench.state(TWO) is State.FAILED


def test_left_is_the_last_word_of_a_generation() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, word(TWO, 2, kind=WordKind.LEFT))
    bench.hear(ONE, word(TWO, 9), Suspect(TWO, (1, 9), ONE), Failed(TWO, (1, 2), ONE))
    assert bench.state(TWO) is State.LEFT
    bench.hear(ONE, word(TWO, 0, generation=2))
    assert bench.state(TWO) is State.ALIVE


def test_who_left_is_not_probed_nor_gossiped_to() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, word(TWO, 2, kind=WordKind.LEFT))
    bench.done.clear()
    bench.wait(60.0)
    assert not any(send.to == TWO for send in bench.all(events.Send))


def test_silence_of_a_sleeper_means_nothing() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, word(TWO, 2, kind=WordKind.ASLEEP))
    bench.hear(ONE, Suspect(TWO, (1, 2), ONE), Failed(TWO, (1, 2), ONE))
    assert bench.state(TWO) is State.ASLEEP
    bench.done.clear()
    bench.wait(60.0)
    assert not any(send.to == TWO for send in bench.all(events.Send))
    bench.hear(ONE, word(TWO, 3))
    assert bench.state(TWO) is State.ALIVE


@pytest.mark.parametrize("kind", [WordKind.ASLEEP, WordKind.LEFT])
def test_a_goodbye_beats_a_suspicion(kind: WordKind) -> None:
    bench = Bench.meeting(ONE, TWO, THREE)
    bench.hear(ONE, Suspect(TWO, (1, 0), ONE))
    bench.hear(ONE, word(TWO, 1, kind=kind))
    bench.wait(60.0)
    assert bench.state(TWO) is (State.LEFT if kind is WordKind.LEFT else State.ASLEEP)


# --- exchanges


def test_a_failure_told_in_an_exchange_is_a_suspicion_by_the_other_side() -> None:
    bench = Bench.meeting(ONE, TWO, THREE)
    bench.merge(THREE, word(THREE), Failed(TWO, (1, 0), ONE))
    assert bench.state(TWO) is State.SUSPECT
    assert bench.sent(Suspect)[0].by == THREE


def test_an_exchange_brings_words_departures_and_suspicions() -> None:
    bench = Bench.meeting(ONE, TWO, THREE)
    bench.merge(
        ONE,
        word(ONE, 4),
        word(TWO, 1, kind=WordKind.LEFT),
        Suspect(THREE, (1, 0), ONE),
        word(FOUR, 2),
    )
    assert bench.version(ONE) == (1, 4)
    assert bench.state(TWO) is State.LEFT
    assert bench.state(THREE) is State.SUSPECT
    assert bench.state(FOUR) is State.ALIVE


def test_what_a_newcomer_learns_first_is_no_news_to_the_others() -> None:
    bench = Bench()
    bench.feed(events.Admitted(frozenset({ONE, TWO, THREE})))
    bench.merge(ONE, word(ONE), word(TWO), word(THREE))
    assert len(bench.all(Changed)) == 3
    assert bench.sent(Word) == []
    bench.merge(ONE, word(TWO, 1))
    assert bench.sent(Word) != []


def test_a_member_that_comes_with_an_opinion_is_reported_once_with_the_outcome() -> None:
    bench = Bench.meeting(ONE)
    bench.merge(ONE, word(TWO), Failed(TWO, (1, 0), ONE))
    assert bench.all(Changed) == [Changed(TWO, None, State.SUSPECT)]


def test_the_state_that_is_handed_out_holds_words_and_own_opinions() -> None:
    bench = Bench.meeting(ONE, TWO, THREE)
    bench.hear(ONE, Suspect(TWO, (1, 0), ONE), Failed(THREE, (1, 0), ONE))
    state = bench.core.state()
    assert state[0] == bench.core.word
    assert Suspect(TWO, (1, 0), ME) in state
    assert Failed(THREE, (1, 0), ME) in state
    assert word(ONE) in state


# --- the member list


def test_who_is_removed_is_forgotten() -> None:
    bench = Bench.meeting(ONE, TWO)
    bench.hear(ONE, word(TWO, 1))
    bench.done.clear()
    bench.feed(events.Admitted(frozenset({ONE})))
    assert bench.all(Changed) == [Changed(TWO, State.ALIVE, None)]
    bench.hear(ONE, word(TWO, 2))
    bench.wait(10.0)
    assert bench.core.members.get(TWO) is None
    assert all(message.node != TWO for message in bench.sent(Word))
    assert not any(send.to == TWO for send in bench.all(events.Send))
