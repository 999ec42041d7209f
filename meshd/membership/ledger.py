"""What others say of each other: words and opinions become states, states become gossip.  Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable

from meshd.ids import NodeId
from meshd.membership.constants import Settings
from meshd.membership.events import Changed
from meshd.membership.members import Chance, Member, Members, Opinion, State, supersedes
from meshd.membership.outbox import Outbox
from meshd.membership.probe import Ring
from meshd.membership.suspicion import Suspicion
from meshd.wire.gossip import Failed, Suspect, Version, Word

Verify = Callable[[NodeId, bytes, bytes], bool]
"""Whether that node signed that payload: (node, payload, signature)."""


class Ledger:
    """All members but this node, their suspicions, and what of it is news to others."""

    def __init__(
        self,
        me: NodeId,
        members: Members,
        outbox: Outbox,
        verify: Verify,
        chance: Chance,
        settings: Settings,
        counters: Counter[str],
    ) -> None:
        self.me = me
        self.members = members
        self.ring = Ring(chance)
        self.admitted: frozenset[NodeId] = frozenset()
        self.frozen_until = 0.0
        """Until then nobody is suspected or declared failed by this node."""
        self._outbox = outbox
        self._verify = verify
        self._settings = settings
        self._counters = counters
        self._deadlines: list[tuple[float, NodeId]] = []
        """A heap of when to look at which suspicion; some are outdated and mean nothing."""
        self._touched: dict[NodeId, State | None] = {}
        """Members that changed during this event, with the state that they had before it."""

    # --- what arrives

    def hear_word(self, word: Word, now: float, *, news: bool = True) -> bool:
        """A word of another member.  Says whether it was later than what was known.

        `news`: pass it on.  A newcomer's first exchange brings it what everybody knows.
        """
        member = self.members.get(word.node)
        if member is not None:
            if word is member.word or not supersedes(word, member.word):
                return False
        elif word.node not in self.admitted:
            self._counters["words_not_admitted"] += 1
            return False
        if not self._verify(word.node, word.payload, word.signature):
            self._counters["words_forged"] += 1
            return False
        if member is None:
            self._touched.setdefault(word.node, None)
            self.members.add(word, now)
            self.ring.add(word.node)
        else:
            self._touch(member)
            member.hear_word(word)
            self._settle(member, now, word.node)
        if news:
            self._outbox.broadcasts.add(word.node, word)
        return True

    def hear_suspect(self, node: NodeId, version: Version, by: NodeId, now: float) -> None:
        """Somebody (`by`, perhaps this node) could not reach a member."""
        member = self.members.get(node)
        if member is None or (by not in self.admitted and by != self.me):
            return
        if member.suspicion is not None and version == member.version:
            if member.suspicion.confirm(by):
                self._await(member, member.suspicion)
                self._outbox.broadcasts.add(node, Suspect(node, version, by))
            return
        before = member.state
        if member.hear_opinion(version, Opinion.SUSPECT):
            self._touched.setdefault(node, before)
            self._counters["suspicions"] += 1
            self._settle(member, now, by)
            self._outbox.broadcasts.add(node, Suspect(node, version, by))

    def hear_failed(self, node: NodeId, version: Version, by: NodeId, now: float) -> None:
        """Somebody holds a member for gone."""
        member = self.members.get(node)
        if member is None or (by not in self.admitted and by != self.me):
            return
        before = member.state
        if member.hear_opinion(version, Opinion.FAILED):
            self._touched.setdefault(node, before)
            self._counters["failures"] += 1
            self._settle(member, now, by)
            self._outbox.broadcasts.add(node, Failed(node, version, by))

    def admit(self, nodes: frozenset[NodeId], now: float) -> None:
        """Only these are members from now on."""
        self.admitted = nodes
        for member in [member for member in self.members if member.node not in nodes]:
            self._touch(member)
            self.members.remove(member.node)
            self.ring.remove(member.node)
            self._outbox.broadcasts.remove(member.node)

    # --- time

    @property
    def wake_at(self) -> float:
        if not self._deadlines:
            return float("inf")
        return max(self._deadlines[0][0], self.frozen_until)

    def expire(self, now: float) -> list[Member]:
        """Declare failed whom nobody vouched for in time; and say whose time is nearly up.

        Those get a last call, one probe interval before: their refutation may have missed this
        node, and only this one (gossip reaches everybody with a probability, and a large mesh has
        many suspicions), which then would be the only one to hold a living member for dead.
        """
        called: list[Member] = []
        if now < self.frozen_until:
            return called
        while self._deadlines and self._deadlines[0][0] <= now:
            _, node = heapq.heappop(self._deadlines)
            member = self.members.get(node)
            if member is None or (suspicion := member.suspicion) is None:
                continue  # refuted, gone, or failed
            call_at = suspicion.deadline - self._settings.probe_interval_s
            if not suspicion.called and call_at <= now:
                suspicion.call(until=now + self._settings.probe_interval_s)
                heapq.heappush(self._deadlines, (suspicion.deadline, node))
                called.append(member)
            elif suspicion.called and suspicion.deadline <= now:
                self.hear_failed(node, member.version, self.me, now)
        return called

    def freeze(self, until: float, now: float) -> None:
        """Judge nobody until then; and what was suspected before is suspected afresh.

        After a sleep the suspicions' time has run out without anybody having had a chance.
        """
        self.frozen_until = until
        self._deadlines.clear()
        for member in self.members:
            if member.suspicion is not None:
                member.suspicion.restart(now)
                self._await(member, member.suspicion)

    # --- what changed

    def take_changes(self) -> list[Changed]:
        """One per member that this event changed, however often."""
        if not self._touched:
            return []
        changes = []
        for node, before in self._touched.items():
            member = self.members.get(node)
            after = None if member is None else member.state
            if before is not None or after is not None:
                changes.append(Changed(node, before, after))
        self._touched = {}
        return changes

    def _touch(self, member: Member) -> None:
        self._touched.setdefault(member.node, member.state)

    def _settle(self, member: Member, now: float, by: NodeId) -> None:
        """Bring its state in line, and give a new suspicion its time."""
        self.members.settle(member, now)
        if member.state is State.SUSPECT and member.suspicion is None:
            settings, size = self._settings, self.members.size
            suspicion = Suspicion(
                now,
                by,
                settings.confirmations(size),
                settings.suspicion_min_s(size),
                settings.suspicion_max_s(size),
            )
            member.suspicion = suspicion
            self._await(member, suspicion)

    def _await(self, member: Member, suspicion: Suspicion) -> None:
        """Note when to look at a suspicion next: at its last call, or else its end."""
        early_s = 0.0 if suspicion.called else self._settings.probe_interval_s
        heapq.heappush(self._deadlines, (suspicion.deadline - early_s, member.node))
