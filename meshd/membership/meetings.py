"""With whom this node exchanges all it knows, and when: on the clock, to find the lost again, and
when it has been away.  Pure."""

from __future__ import annotations

import heapq
import math

from meshd import limits
from meshd.ids import Address, NodeId
from meshd.membership.constants import Settings
from meshd.membership.events import Exchange
from meshd.membership.ledger import Ledger
from meshd.membership.members import Chance, Member, State
from meshd.membership.outbox import Outbox


class Meetings:
    """The calendar of exchanges.

    Gossip reaches whoever is reachable; an exchange mends what gossip missed, and it is the only
    thing that brings together two halves of a mesh that hold each other for failed.
    """

    def __init__(
        self, ledger: Ledger, outbox: Outbox, chance: Chance, settings: Settings, now: float
    ) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._chance = chance
        self._settings = settings
        self.paused = False
        self._regular_at = now + chance.random() * settings.push_pull_interval_s
        self._redial_at = now + chance.random() * settings.exchange_interval_s
        self._dials: list[tuple[float, NodeId]] = []
        self._contacts: dict[NodeId, tuple[Address, ...]] = {}
        """Where somebody said that a member can be reached, besides what it announced itself."""
        self._last: dict[NodeId, float] = {}

    @property
    def wake_at(self) -> float:
        if self.paused:
            return math.inf
        at = min(self._regular_at, self._redial_at)
        return min(at, self._dials[0][0]) if self._dials else at

    def tick(self, now: float) -> None:
        if self.paused:
            return
        if now >= self._regular_at:
            self._regular_at = now + self._settings.push_pull_s(self._ledger.members.size)
            for member in self._ledger.members.pick(1, lambda m: m.state is State.ALIVE):
                self._meet(member.node, now)
        if now >= self._redial_at:
            self._redial(now)
        while self._dials and self._dials[0][0] <= now:
            _, node = heapq.heappop(self._dials)
            self._meet(node, now)

    def found(self, node: NodeId, addresses: tuple[Address, ...], now: float) -> None:
        """A member may be there.  Worth a try, unless it is in contact anyway or has left."""
        if node not in self._ledger.admitted or not addresses:
            return
        self._contacts[node] = addresses[: limits.ADDRESSES_PER_NODE]
        member = self._ledger.members.get(node)
        if member is None or member.state is State.FAILED:
            self.meet_now(node, now)

    def meet_now(self, node: NodeId, now: float) -> None:
        """Exchange with that member at once, but not over and over."""
        if not self.paused:
            last = self._last.get(node, -math.inf)
            if now - last >= self._settings.exchange_interval_s:
                self._meet(node, now)

    def soon(self, count: int, now: float) -> None:
        """Exchange with a few members within a probe interval: this node was away or has moved.

        With jitter, since a whole house may wake up at once.
        """
        away = (State.LEFT, State.ASLEEP)
        for member in self._ledger.members.pick(count, lambda m: m.state not in away):
            at = now + self._chance.random() * self._settings.probe_interval_s
            heapq.heappush(self._dials, (at, member.node))

    def hurry_if_alone(self, now: float) -> None:
        """Nobody may be left: then the next redial comes soon."""
        if self._ledger.members.size == 1:
            soon = now + self._settings.exchange_interval_s
            self._redial_at = min(self._redial_at, soon)

    def forget(self, admitted: frozenset[NodeId]) -> None:
        """Keep nothing about nodes that are no members any more."""
        for kept in (self._contacts, self._last):
            for node in [node for node in kept if node not in admitted]:
                del kept[node]
        self._dials = [dial for dial in self._dials if dial[1] in admitted]
        heapq.heapify(self._dials)

    def _redial(self, now: float) -> None:
        """Try one lost member, the likelier the more of them there are.

        Failed over alive (serf, `reconnect`): so the whole mesh makes about one attempt per failed
        member and interval, however large it is.  Who has nobody at all cannot leave it to others,
        and tries more often.
        """
        members = self._ledger.members
        lost = [member.node for member in members if member.state is State.FAILED]
        lost += [node for node in self._contacts if members.get(node) is None]
        alone = members.size == 1
        if lost and (alone or self._chance.random() < len(lost) / members.size):
            self._meet(lost[self._chance.randrange(len(lost))], now)
        settings = self._settings
        interval_s = settings.exchange_interval_s if alone else settings.redial_interval_s
        self._redial_at = now + interval_s * (0.5 + self._chance.random())

    def _meet(self, node: NodeId, now: float) -> None:
        member = self._ledger.members.get(node)
        addresses = self._addresses(node, member)
        if addresses and node in self._ledger.admitted:
            self._last[node] = now
            self._outbox.put(Exchange(node, addresses))

    def _addresses(self, node: NodeId, member: Member | None) -> tuple[Address, ...]:
        announced = () if member is None else member.word.profile.addresses
        extra = [at for at in self._contacts.get(node, ()) if at not in announced]
        return (*announced, *extra)
