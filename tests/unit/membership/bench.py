"""One core on the bench: scripted peers, recorded directives, a clock that the test moves."""

from __future__ import annotations

import random
from typing import TypeVar

from meshd.ids import NodeId
from meshd.membership import events
from meshd.membership.core import Core
from meshd.membership.members import Member, State
from meshd.wire.gossip import Message, Profile, Version, Word, WordKind, make_word
from tests.sim.swim_world import address_of, node_id, sign, verify

ME = node_id(0)
ONE, TWO, THREE, FOUR, FIVE = (node_id(index) for index in range(1, 6))
PEERS = (ONE, TWO, THREE, FOUR, FIVE)

D = TypeVar("D")


def index_of(node: NodeId) -> int:
    return next(index for index in range(200) if node_id(index) == node)


def profile(node: NodeId) -> Profile:
    index = index_of(node)
    return Profile(f"node-{index}", (address_of(index),))


def word(
    node: NodeId,
    incarnation: int = 0,
    *,
    generation: int = 1,
    kind: WordKind = WordKind.ALIVE,
    of: Profile | None = None,
) -> Word:
    return make_word(node, (generation, incarnation), kind, of or profile(node), sign)


class Bench:
    """A core, the time, and all that it wanted done."""

    def __init__(self, *, generation: int = 1, seed: int = 1) -> None:
        self.now = 100.0
        self.done: list[events.Directive] = []
        self.core = Core(
            ME,
            generation,
            profile(ME),
            sign=sign,
            verify=verify,
            chance=random.Random(seed),
            now=self.now,
        )

    @classmethod
    def meeting(cls, *peers: NodeId, seed: int = 1) -> Bench:
        """One that knows these peers, and has nothing to say about it."""
        bench = cls(seed=seed)
        bench.feed(events.Admitted(frozenset((*PEERS, *peers))))
        if peers:
            bench.feed(events.Merged(peers[0], tuple(word(peer) for peer in peers)))
        bench.done.clear()
        return bench

    def feed(self, event: events.Event) -> list[events.Directive]:
        directives = self.core.handle(event, self.now)
        self.done += directives
        return directives

    def hear(self, sender: NodeId, *messages: Message) -> list[events.Directive]:
        return self.feed(events.Received(sender, address_of(index_of(sender)), messages))

    def merge(self, sender: NodeId, *messages: Message) -> list[events.Directive]:
        return self.feed(events.Merged(sender, messages))

    def wait(self, duration_s: float) -> None:
        """Let that much time pass, with a tick whenever the core wants one."""
        until = self.now + duration_s
        ticks_now = 0
        while self.core.wake_at <= until:
            ticks_now = ticks_now + 1 if self.core.wake_at <= self.now else 0
            assert ticks_now < 10, "the core wants to be called again and again"
            self.now = max(self.now, self.core.wake_at)
            self.feed(events.Tick())
        self.now = until

    def member(self, node: NodeId) -> Member:
        found = self.core.members.get(node)
        assert found is not None
        return found

    def state(self, node: NodeId) -> State:
        return self.member(node).state

    def version(self, node: NodeId) -> Version:
        return self.member(node).version

    def all(self, kind: type[D]) -> list[D]:
        """The directives of that kind so far."""
        return [directive for directive in self.done if isinstance(directive, kind)]

    def sent(self, kind: type[D], to: NodeId | None = None) -> list[D]:
        """The messages of that kind sent so far."""
        return [
            message
            for send in self.all(events.Send)
            if to in (None, send.to)
            for message in send.messages
            if isinstance(message, kind)
        ]

    def until_sent(self, kind: type[D], limit_s: float = 10.0) -> tuple[NodeId, D]:
        """Wait for the next message of that kind: to whom, and it."""
        until = self.now + limit_s
        self.done.clear()
        while self.now < until:
            self.now = max(self.now, self.core.wake_at)
            self.feed(events.Tick())
            for send in self.all(events.Send):
                for message in send.messages:
                    if isinstance(message, kind):
                        return send.to, message
        raise AssertionError(f"no {kind.__name__} within {limit_s} s")
