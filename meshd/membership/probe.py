"""Who is probed when, and how one probe goes.  Pure.

One probe runs at a time: a ping; when that is not answered in time, requests to a few others to
ping for us, and a ping over TCP; at the end of the interval either an ack came by any way, or the
member is suspected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshd.ids import Address, NodeId
from meshd.membership.members import Chance, Member
from meshd.wire.gossip import Version


class Ring:
    """The order in which members are probed: each once per round, shuffled anew for the next.

    So a dead member is found within two rounds at most, and newcomers, which are put in at a random
    place, are not all probed last.
    """

    __slots__ = ("_at", "_chance", "_nodes")

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._nodes: list[NodeId] = []
        self._at = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, node: NodeId) -> None:
        place = self._chance.randrange(len(self._nodes) + 1)
        self._nodes.append(node)
        # A swap, not an insertion: the list may be long.  Whoever moves to the end of the round
        # is still probed in it, unless it was probed already.
        last = len(self._nodes) - 1
        self._nodes[place], self._nodes[last] = self._nodes[last], self._nodes[place]

    def remove(self, node: NodeId) -> None:
        place = self._nodes.index(node)
        del self._nodes[place]
        if place < self._at:
            self._at -= 1

    def next(self, accept: Callable[[NodeId], bool]) -> NodeId | None:
        """The next one that is accepted; None when a whole round has none."""
        for _ in range(2 * len(self._nodes)):
            if self._at >= len(self._nodes):
                self._shuffle()
                self._at = 0
            node = self._nodes[self._at]
            self._at += 1
            if accept(node):
                return node
        return None

    def _shuffle(self) -> None:
        nodes, chance = self._nodes, self._chance
        for index in range(len(nodes) - 1, 0, -1):
            other = chance.randrange(index + 1)
            nodes[index], nodes[other] = nodes[other], nodes[index]


class Probe:
    """One probe in progress."""

    __slots__ = (
        "deadline",
        "indirect",
        "indirect_at",
        "nacks",
        "relays",
        "sequence",
        "started",
        "target",
        "tcp_answered",
        "version",
    )

    def __init__(
        self, target: Member, sequence: int, now: float, timeout_s: float, interval_s: float
    ) -> None:
        self.target = target.node
        self.version: Version = target.version
        """The word that it is about: a later one, heard meanwhile, makes the result worthless."""
        self.sequence = sequence
        self.started = now
        self.indirect_at = now + timeout_s
        self.deadline = now + interval_s
        self.indirect = False
        """Whether others have been asked by now."""
        self.relays: tuple[NodeId, ...] = ()
        self.nacks: list[NodeId] = []
        self.tcp_answered = False

    @property
    def wake_at(self) -> float:
        return self.deadline if self.indirect else self.indirect_at

    def answered_by(self, sender: NodeId, sequence: int) -> bool:
        """Whether an ack from there with that number ends this probe well."""
        return sequence == self.sequence and (sender == self.target or sender in self.relays)

    def nack(self, sender: NodeId, sequence: int) -> None:
        """A relay is well but got no ack (yet)."""
        if sequence == self.sequence and sender in self.relays and sender not in self.nacks:
            self.nacks.append(sender)

    @property
    def missed_nacks(self) -> int:
        """How many relays said nothing at all, which speaks against this node, not the target."""
        return len(self.relays) - len(self.nacks)


@dataclass(slots=True)
class Relayed:
    """A ping that this node sent for another one."""

    requester: NodeId
    address: Address
    sequence: int
    """The requester's number; the ping itself has one of ours, under which this is kept."""
    target: NodeId
    nack_at: float
    expires: float
    nacked: bool = False
