"""A node without a vote follows the committed entries of a voter.  Pure.

It says where its log ends, gets what is committed after that, and acknowledges so that the voter
sends more.  Commands and questions go the same way: for the rest of the kernel the voter that is
followed stands in the leader's place (relaying.py passes them on), so that whoever is told where
its command stands hears that before the command comes.

    no source ──asked──> source ──its link broke, silent, leaderless, no voter any more──> no source
        ^                   │
        └─ nothing of it ───┴── a leader teaches this node: it is a learner, or has a vote

Safe whatever else goes on: what is fed is committed, so that it is in the log of every later
leader, and may be in this one before that leader says so.  Nothing that is committed here is ever
cut by it, it counts for no majority, and it says nothing about who leads: neither votes nor
stickiness know of it.

A voter of an old list that nobody speaks to any more follows too, and so learns that it is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from meshd import limits
from meshd.consensus.interface import OtherRecord
from meshd.consensus.kernel_stock import LEADER
from meshd.consensus.kernel_wire import Peer
from meshd.consensus.messages import Feed, FeedAnswer, FeedEnd, Follow
from meshd.consensus.receiving import rows_of
from meshd.ids import NodeId

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel

_VOTERS_PATIENCE: Final = 4
"""Longest election timeouts without a leader after which a voter doubts that it is one."""
_ANSWER_TIMEOUTS: Final = 2
"""Longest election timeouts for the first answer, and for a source to find a leader."""
_SIGNS_MISSED: Final = 2.5
"""A source that left out so many signs of life is given up."""
_REST_S: Final = 0.25
_REST_MAX_S: Final = 30.0


class _Rest:
    """One that was asked in vain."""

    __slots__ = ("next_s", "until")

    def __init__(self) -> None:
        self.until = -math.inf
        """When it may be asked again."""
        self.next_s = _REST_S


class Following:
    """Whom this node follows, if it does."""

    def __init__(self, kernel: Kernel, first_stream: int) -> None:
        self._kernel = kernel
        self.source: Peer | None = None
        self.leader: NodeId | None = None
        """Whom the source can pass commands on to."""
        self._stream = first_stream
        self._silent_at = math.inf
        """When the source is given up, if nothing comes of it."""
        self._leader_by = math.inf
        """When it is given up, if it still knows no leader."""
        self._taught_at = -math.inf
        """When a leader last spoke to this node."""
        self._signed_at = -math.inf
        """When a source that knows a leader last spoke to it."""
        self._began_at = kernel.now
        self._resting: dict[NodeId, _Rest] = {}
        """Who was asked in vain."""
        self._voters_said: tuple[NodeId, ...] = ()
        """Who has a vote, by one that does not serve."""
        self._owes_answer = False

    @property
    def heard_at(self) -> float:
        """When a leader last spoke to this node, itself or by the source."""
        return max(self._taught_at, self._signed_at)

    @property
    def wake_at(self) -> float:
        """When this node would have to do something."""
        kernel = self._kernel
        if kernel.stock.role == LEADER:
            return math.inf
        if self.source is not None:
            return min(self._silent_at, self._leader_by)
        rests = (self._rests_until(node) for node in kernel.wire.connected)
        return max(self._idle_until, min(rests, default=math.inf))

    @property
    def _idle_until(self) -> float:
        """Until then it may be that a leader speaks to this node."""
        kernel = self._kernel
        if kernel.me not in kernel.log.voters:
            return self._taught_at + kernel.settings.election_max_s
        heard_at = max(self._taught_at, self._began_at)
        return heard_at + _VOTERS_PATIENCE * kernel.settings.election_max_s

    # --- whom

    def taught(self) -> None:
        """A leader speaks to this node: it needs nobody else."""
        self._taught_at = self._kernel.now
        self._let_go()

    def link_changed(self, peer: Peer) -> None:
        self._resting.pop(peer.id, None)
        if self.source == peer:
            self._let_go()

    def step(self) -> None:
        """Look for a source if there is none, and tell it how far this node is."""
        kernel = self._kernel
        if kernel.stock.role == LEADER:
            self._let_go()
            return
        if self.source is not None and kernel.now >= min(self._silent_at, self._leader_by):
            self._let_rest(self.source)
        if self.source is None and kernel.now >= self._idle_until:
            self._look_for_one()
        self._spare_the_leader()
        self._acknowledge()

    def _look_for_one(self) -> None:
        """Among the voters, as far as they are known; any other node may know them better."""
        kernel = self._kernel
        for known in (self._voters_said, kernel.log.voters, tuple(kernel.wire.connected)):
            if (node := self._choose(known)) is not None:
                self._ask(kernel.peer(node))
                return

    def _choose(self, known: Iterable[NodeId]) -> NodeId | None:
        """By lot, each follower its own, so that the voters have equally many."""
        kernel = self._kernel
        there = [
            node for node in known
            if node in kernel.wire.connected and self._rests_until(node) <= kernel.now
        ]  # fmt: skip
        return min(there, key=self._lot, default=None)

    def _lot(self, node: NodeId) -> bytes:
        return blake2b(f"{self._kernel.me} {node}".encode()).digest()

    def _spare_the_leader(self) -> None:
        """It has most to do: follow another voter as soon as there is one."""
        kernel = self._kernel
        if self.source is not None and self.source.id == self.leader:
            others = [voter for voter in kernel.log.voters if voter != self.leader]
            if (node := self._choose(others)) is not None:
                self._let_go()
                self._ask(kernel.peer(node))

    def _ask(self, peer: Peer) -> None:
        """Begin to follow that node, or begin anew."""
        kernel = self._kernel
        self._stream += 1
        self.source = peer
        self._owes_answer = False
        self._silent_at = kernel.now + _ANSWER_TIMEOUTS * kernel.settings.election_max_s
        self._leader_by = math.inf
        last, commit = kernel.log.last, kernel.stock.commit
        kernel.wire.tell(
            peer.id,
            Follow(stream=self._stream, last_index=last.index, last_term=last.term, commit=commit),
        )

    def _rests_until(self, node: NodeId) -> float:
        rest = self._resting.get(node)
        return rest.until if rest is not None else -math.inf

    def _let_rest(self, peer: Peer) -> None:
        """It serves nobody, or not well: ask others for a while, a longer one each time."""
        rest = self._resting.setdefault(peer.id, _Rest())
        rest.until = self._kernel.now + rest.next_s
        rest.next_s = min(2 * rest.next_s, _REST_MAX_S)
        self._let_go()

    def _let_go(self) -> None:
        """Follow nobody for now."""
        if self.source is None:
            return
        self._kernel.wire.tell(self.source.id, FeedEnd(self._stream, ()))
        stock = self._kernel.stock
        if stock.leader == self.source:
            stock.leader_lost()
            stock.leader = None
        self.source = self.leader = None

    # --- what it says

    def is_from_source(self, peer: Peer, stream: int) -> bool:
        """Whether this node follows that; if it does not (any more), the sender is told."""
        leads = self._kernel.stock.role == LEADER
        if peer == self.source and stream == self._stream and not leads:
            return True
        self._kernel.wire.tell(peer.id, FeedEnd(stream, ()))
        return False

    def heard(self, term: int) -> None:
        """The source is there, in that term."""
        kernel = self._kernel
        if term > kernel.stock.term:
            kernel.adopt_term(term)
        self._silent_at = kernel.now + _SIGNS_MISSED * kernel.settings.sign_s
        if self.leader is not None:
            self._signed_at = kernel.now

    def on_feed(self, peer: Peer, feed: Feed) -> None:
        """Committed entries.  Raises Nonsense before anything is changed."""
        if not self.is_from_source(peer, feed.stream):
            return
        kernel, log = self._kernel, self._kernel.log
        compared = log.compare(feed.prev_index, feed.prev_term, rows_of(feed))
        differs_at = compared.at if not compared.fits else compared.at + 1
        if (compared.rows or not compared.fits) and differs_at <= kernel.stock.commit:
            raise OtherRecord(
                f"{peer.id} differs at entry {differs_at}, and {kernel.stock.commit} is committed"
                " here."
            )
        if not compared.fits:
            self._ask(peer)  # something was lost on the way
            return
        self.heard(feed.term)
        self._take_leader(NodeId(feed.leader) if feed.leader is not None else None)
        log.take_over(compared.rows)
        kernel.stock.commit = compared.rows[-1][1] if compared.rows else compared.at
        self._voters_said = ()
        self._resting.pop(peer.id, None)
        self._owes_answer = True
        self._stand_in()

    def _take_leader(self, leader: NodeId | None) -> None:
        """A source may be without a leader for as long as an election takes."""
        kernel = self._kernel
        if leader is not None:
            self._leader_by = math.inf
        elif self._leader_by == math.inf:
            self._leader_by = kernel.now + _ANSWER_TIMEOUTS * kernel.settings.election_max_s
        self.leader = leader

    def _stand_in(self) -> None:
        """Let the source have what the leader is to get, while it knows one."""
        kernel, stock = self._kernel, self._kernel.stock
        if kernel.me in kernel.log.voters:
            return  # it may have a vote: who leads is a matter of elections
        stands_in = self.source if self.leader is not None else None
        if stock.leader is not None and stock.leader != stands_in and stands_in is not None:
            stock.leader_lost()
        stock.leader = stands_in

    def on_end(self, peer: Peer, end: FeedEnd) -> None:
        """It serves this node no more; or this node served it, and is not wanted any more."""
        kernel = self._kernel
        kernel.serving.on_end(peer, end.stream)
        if peer == self.source and end.stream == self._stream:
            self._voters_said = tuple(NodeId(voter) for voter in end.voters)
            self._let_rest(peer)

    # --- what it gets

    def installed(self) -> None:
        """A snapshot of the source's was taken over."""
        self._owes_answer = True

    def _acknowledge(self) -> None:
        """So that more comes: not while this node is behind with what it has."""
        kernel, stock = self._kernel, self._kernel.stock
        behind = stock.commit - stock.applied
        if self._owes_answer and self.source is not None and behind < limits.RAFT_FEED_ENTRIES:
            self._owes_answer = False
            kernel.wire.tell(self.source.id, FeedAnswer(self._stream, stock.commit))
