"""What is known of each member, and how two pieces of knowledge become one.  Pure.

Two things are kept of a member, and each only ever grows:

- its **word**: the last that it said of itself, signed.  A later generation is later; within one,
  `left` is the last word there is; else the incarnation decides.
- the **opinion** of others about that very word: none < suspect < failed.

What the member is follows from both, so the order in which news arrive, and how often, does not
matter.  The transitions (nothing else can happen):

    (unknown) --word--> alive | asleep | left
    alive  --opinion--> suspect --opinion--> failed
    alive  --opinion--> failed
    alive, suspect, failed, asleep --later word--> alive | asleep | left
    left   --word of a later generation--> alive | asleep | left

So `left` never becomes `failed`, `asleep` is never suspected, and only a member itself can end an
opinion about it, by a later word.  An opinion about a word that has not arrived waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum, StrEnum
from typing import Protocol

from meshd.ids import Address, NodeId
from meshd.membership.suspicion import Suspicion
from meshd.wire.gossip import Version, Word, WordKind


class Chance(Protocol):
    """The part of `ports.Entropy` that choices are made with."""

    def random(self) -> float: ...

    def randrange(self, stop: int) -> int: ...


class State(StrEnum):
    """What a member is, as far as this node knows."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    """Somebody could not reach it; still used, until it is failed."""
    FAILED = "failed"
    """Nobody refuted the suspicion in time.  It is redialled for ever."""
    LEFT = "left"
    """It said so.  It is not redialled."""
    ASLEEP = "asleep"
    """It said that it goes to sleep.  Nobody probes it or makes anything of its silence."""


class Opinion(IntEnum):
    """What others hold of a member's word."""

    NONE = 0
    SUSPECT = 1
    FAILED = 2


_OF_KIND = {WordKind.ASLEEP: State.ASLEEP, WordKind.LEFT: State.LEFT}
_OF_OPINION = {
    Opinion.NONE: State.ALIVE,
    Opinion.SUSPECT: State.SUSPECT,
    Opinion.FAILED: State.FAILED,
}


def supersedes(new: Word, old: Word) -> bool:
    """Whether `new` is the later word.

    Two different words with one version can only come from two holders of one key; which of them
    wins then does not matter, but everybody must take the same.
    """
    if new.version[0] != old.version[0]:
        return new.version[0] > old.version[0]
    if WordKind.LEFT in (new.kind, old.kind) and new.kind != old.kind:
        return new.kind is WordKind.LEFT
    return (new.version, new.kind, new.payload) > (old.version, old.kind, old.payload)


class Member:
    """One member other than this node."""

    __slots__ = (
        "_opinion",
        "_pending",
        "_pending_version",
        "heard",
        "node",
        "path",
        "since",
        "state",
        "suspicion",
        "word",
    )

    def __init__(self, word: Word, now: float) -> None:
        self.node: NodeId = word.node
        self.word = word
        self._opinion = Opinion.NONE
        self._pending = Opinion.NONE
        self._pending_version: Version = word.version
        self.state = _OF_KIND.get(word.kind, State.ALIVE)
        self.since = now
        """When `state` last changed."""
        self.heard = now
        """When a datagram of its own, or an exchange with it, last arrived."""
        self.path: Address | None = None
        """Where its last ack came from: better than what it announces, behind a NAT."""
        self.suspicion: Suspicion | None = None

    @property
    def version(self) -> Version:
        return self.word.version

    @property
    def reachable(self) -> bool:
        """Whether it is worth talking to."""
        return self.state is State.ALIVE or self.state is State.SUSPECT

    def hear_word(self, word: Word) -> bool:
        """Take its word, if it is later than the one known.  Says whether it was."""
        if not supersedes(word, self.word):
            return False
        if word.profile.addresses != self.word.profile.addresses:
            self.path = None
        self.word = word
        self.suspicion = None
        self._opinion = Opinion.NONE
        if self._pending_version == word.version:
            self._opinion, self._pending = self._pending, Opinion.NONE
        return True

    def hear_opinion(self, version: Version, opinion: Opinion) -> bool:
        """Take an opinion about one of its words.  Says whether that changed anything now."""
        if version == self.word.version:
            if opinion <= self._opinion:
                return False
            self._opinion = opinion
            return self.word.kind is WordKind.ALIVE
        if version > self.word.version:
            waiting = (self._pending_version, self._pending)
            self._pending_version, self._pending = max(waiting, (version, opinion))
        return False

    def settle(self, now: float) -> State:
        """Make `state` what word and opinion say; the state before."""
        before = self.state
        self.state = _OF_KIND.get(self.word.kind) or _OF_OPINION[self._opinion]
        if self.state is not before:
            self.since = now
        if self.state is not State.SUSPECT:
            self.suspicion = None
        return before

    def destinations(self) -> tuple[Address, ...]:
        """Where to send a datagram: where it was last heard, else everywhere it announces."""
        return (self.path,) if self.path is not None else self.word.profile.addresses


class Members:
    """All members but this node, by id, with fast random picks."""

    __slots__ = ("_by_node", "_chance", "_order", "_reachable")

    def __init__(self, chance: Chance) -> None:
        self._by_node: dict[NodeId, Member] = {}
        self._order: list[Member] = []
        """The same in a list, for picks; its order is how they came."""
        self._chance = chance
        self._reachable = 0

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._order)

    def get(self, node: NodeId) -> Member | None:
        return self._by_node.get(node)

    @property
    def size(self) -> int:
        """The size of the mesh that timeouts go by: who can be reached, and this node."""
        return self._reachable + 1

    def add(self, word: Word, now: float) -> Member:
        member = Member(word, now)
        self._by_node[word.node] = member
        self._order.append(member)
        self._reachable += member.reachable
        return member

    def remove(self, node: NodeId) -> Member | None:
        member = self._by_node.pop(node, None)
        if member is not None:
            self._order.remove(member)
            self._reachable -= member.reachable
        return member

    def settle(self, member: Member, now: float) -> State:
        """`Member.settle`, keeping count."""
        was = member.reachable
        before = member.settle(now)
        self._reachable += member.reachable - was
        return before

    def pick(self, count: int, accept: Callable[[Member], bool]) -> list[Member]:
        """Up to `count` different random members that are accepted.

        Finds that many whenever there are so many (memberlist's kRandomNodes gave up early in very
        small clusters, #350).
        """
        order, chance = self._order, self._chance
        found: list[Member] = []
        if len(order) > 8 * count:
            for _ in range(4 * count):
                member = order[chance.randrange(len(order))]
                if member not in found and accept(member):
                    found.append(member)
                    if len(found) == count:
                        return found
        rest = [member for member in order if member not in found and accept(member)]
        while rest and len(found) < count:
            index = chance.randrange(len(rest))
            found.append(rest[index])
            rest[index] = rest[-1]
            rest.pop()
        return found
