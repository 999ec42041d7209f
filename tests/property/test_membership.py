"""What holds whatever arrives, in whatever order, however often."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.ids import NodeId
from meshd.membership import events
from meshd.membership.broadcasts import Broadcasts
from meshd.membership.members import Member, State, supersedes
from meshd.wire.envelope import PAYLOAD_BYTES
from meshd.wire.gossip import (
    Ack,
    Ask,
    Failed,
    Load,
    Message,
    Nack,
    Ping,
    PingReq,
    Profile,
    Suspect,
    Version,
    Word,
    WordKind,
    encode,
    encode_packet,
)
from tests.sim.swim_world import address_of, node_id
from tests.unit.membership.bench import ME, ONE, PEERS, TWO, Bench, word

versions = st.tuples(st.integers(1, 3), st.integers(0, 4))
peers = st.sampled_from(PEERS)


@st.composite
def words(draw: st.DrawFn, nodes: st.SearchStrategy[NodeId] = peers) -> Word:
    generation, incarnation = draw(versions)
    node = draw(nodes)
    name = draw(st.sampled_from(["here", "there"]))  # equivocation: one version, two words
    addresses = tuple(address_of(draw(st.integers(1, 9))) for _ in range(draw(st.integers(0, 3))))
    return word(
        node,
        incarnation,
        generation=generation,
        kind=draw(st.sampled_from(WordKind)),
        of=Profile(name, addresses, load=Load(draw(st.integers(0, 3)))),
    )


def opinions(nodes: st.SearchStrategy[NodeId] = peers) -> st.SearchStrategy[Suspect | Failed]:
    return st.one_of(
        st.builds(Suspect, node=nodes, version=versions, by=peers),
        st.builds(Failed, node=nodes, version=versions, by=peers),
    )


updates: st.SearchStrategy[Word | Suspect | Failed] = st.one_of(words(), opinions())


def view(bench: Bench) -> dict[NodeId, tuple[Word, State]]:
    return {member.node: (member.word, member.state) for member in bench.core.members}


def said(told: list[Word | Suspect | Failed]) -> list[Word | Suspect | Failed]:
    """Only opinions about words that somebody said: nobody can have another."""
    spoken = {(m.node, m.version) for m in told if isinstance(m, Word)}
    known = {(peer, (1, 0)) for peer in PEERS}
    return [m for m in told if isinstance(m, Word) or (m.node, m.version) in spoken | known]


@settings(deadline=None)
@given(st.lists(updates, max_size=30), st.randoms(use_true_random=False))
def test_any_order_and_repetition_of_the_same_news_leads_to_the_same_view(
    told: list[Word | Suspect | Failed], dice: random.Random
) -> None:
    told = said(told)
    again = told + [dice.choice(told) for _ in range(len(told))] if told else []
    dice.shuffle(again)
    one, other = Bench.meeting(*PEERS), Bench.meeting(*PEERS, seed=2)
    for message in told:
        one.hear(ONE, message)
    for message in again:
        other.hear(TWO, message)
    assert view(one) == view(other)


@settings(deadline=None)
@given(st.lists(updates, max_size=20))
def test_news_in_one_packet_or_in_many_lead_to_the_same_view(
    told: list[Word | Suspect | Failed],
) -> None:
    one, other = Bench.meeting(*PEERS), Bench.meeting(*PEERS)
    one.hear(ONE, *told)
    for message in told:
        other.hear(ONE, message)
    assert view(one) == view(other)


@settings(deadline=None)
@given(words(st.just(ONE)), words(st.just(ONE)), words(st.just(ONE)))
def test_words_are_in_a_total_order(a: Word, b: Word, c: Word) -> None:
    assert not supersedes(a, a)
    if a.payload != b.payload:
        assert supersedes(a, b) != supersedes(b, a)
    if supersedes(a, b) and supersedes(b, c):
        assert supersedes(a, c)


sequences = st.integers(0, 2**32 - 1)
anything = st.one_of(
    updates,
    words(st.just(ME)),
    opinions(st.just(ME)),
    st.builds(Ping, sequence=sequences, target=st.sampled_from([ME, ONE])),
    st.builds(Ack, sequence=sequences),
    st.builds(Nack, sequence=sequences),
    st.builds(PingReq, sequence=sequences, target=peers, addresses=st.just((address_of(3),))),
    st.builds(Ask, node=st.sampled_from([ME, *PEERS]), version=versions),
)
steps = st.one_of(
    st.floats(0.0, 20.0),
    st.builds(
        lambda sender, messages: events.Received(sender, address_of(1), tuple(messages)),
        st.sampled_from([*PEERS, node_id(99)]),
        st.lists(anything, max_size=6),
    ),
    st.builds(
        lambda sender, messages: events.Merged(sender, tuple(messages)),
        peers,
        st.lists(updates, max_size=8),
    ),
    st.builds(events.Suspected, node=peers, reason=st.just("reset")),
    st.builds(
        events.Admitted, st.frozensets(peers, min_size=3).map(lambda nodes: nodes | {ONE, TWO})
    ),
    st.builds(events.Found, node=peers, addresses=st.just((address_of(4),))),
    st.builds(
        lambda n: events.ProfileChanged(Profile("me", (address_of(0),), load=Load(n))),
        st.integers(0, 3),
    ),
    st.just(events.Froze()),
    st.just(events.Woke(100.0)),
    st.just(events.FallAsleep()),
)

_LEGAL = {
    None: set(State),
    State.ALIVE: set(State),
    State.SUSPECT: set(State),
    State.FAILED: set(State),
    State.ASLEEP: {State.ALIVE, State.LEFT, State.SUSPECT, State.FAILED},
    State.LEFT: {State.ALIVE, State.ASLEEP, State.SUSPECT, State.FAILED},
}


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=40))
def test_whatever_happens_versions_only_grow_and_every_packet_fits(script: list[Any]) -> None:
    bench = Bench.meeting(*PEERS)
    known: dict[NodeId, Word] = {}
    states: dict[NodeId, tuple[Word, State]] = {}
    own = bench.core.word
    for step in script:
        bench.done.clear()
        if isinstance(step, float):
            bench.wait(step)
        else:
            bench.feed(step)
        assert bench.core.word == own or supersedes(bench.core.word, own)
        own = bench.core.word
        for member in bench.core.members:
            check_member(member, known.get(member.node), states.get(member.node))
        known = {member.node: member.word for member in bench.core.members}
        states = {m.node: (m.word, m.state) for m in bench.core.members}
        for send in bench.all(events.Send):
            assert len(encode_packet(send.messages)) <= PAYLOAD_BYTES
            assert send.messages
            assert send.addresses
        for directive in bench.done:
            if isinstance(directive, events.Changed) and directive.before is not directive.after:
                assert directive.after is None or directive.after in _LEGAL[directive.before]
    assert bench.core.members.size == 1 + sum(m.reachable for m in bench.core.members)


def check_member(member: Member, before: Word | None, was: tuple[Word, State] | None) -> None:
    if before is not None and member.word != before:
        assert supersedes(member.word, before)
        if before.kind is WordKind.LEFT and member.word.kind is not WordKind.LEFT:
            assert member.version[0] > before.version[0]
    if was is not None and member.word == was[0] and was[1] in (State.LEFT, State.ASLEEP):
        assert member.state is was[1]  # only the member itself can change that
    if was is not None and member.word == was[0] and was[1] is State.FAILED:
        assert member.state is State.FAILED  # "down never transitions"
    assert (member.suspicion is not None) == (member.state is State.SUSPECT)


@settings(deadline=None)
@given(
    st.lists(st.tuples(peers, st.booleans()), max_size=12),
    st.integers(1, 6),
    st.lists(st.integers(0, 1200), min_size=60, max_size=60),
)
def test_nothing_is_sent_more_often_than_the_limit_nor_over_the_budget(
    added: list[tuple[NodeId, bool]], limit: int, budgets: list[int]
) -> None:
    queue = Broadcasts()
    for incarnation, (node, opinion) in enumerate(added):
        message: Message = (
            Suspect(node, (1, incarnation), ME) if opinion else word(node, incarnation)
        )
        queue.add(node, message)
    sent: dict[bytes, int] = {}
    for budget in budgets:
        taken = queue.take(budget, limit)
        assert sum(len(encode(message)) for message in taken) <= budget
        assert len(taken) == len({encode(message) for message in taken})
        for message in taken:
            sent[encode(message)] = sent.get(encode(message), 0) + 1
    assert all(count <= limit for count in sent.values())
    while queue.take(100_000, limit):
        pass
    assert len(queue) == 0


@settings(deadline=None)
@given(st.lists(versions, min_size=1, max_size=20))
def test_refuting_never_lowers_the_incarnation_and_always_beats_the_doubt(
    doubts: list[Version],
) -> None:
    bench = Bench.meeting(ONE)
    seen = [bench.core.word.version]
    for version in doubts:
        bench.hear(ONE, Suspect(ME, version, ONE))
        if version == seen[-1]:
            assert bench.core.word.version > version
        seen.append(bench.core.word.version)
    assert all(earlier <= later for earlier, later in pairwise(seen))
