"""A voter tells what is committed to those who follow without a vote.  Pure.

Nobody without a vote is the leader's business: it asks any voter for what comes after the end of
its log, and gets entries that are committed there.  Of a follower a voter keeps two numbers, how
far it has sent and how far that has arrived; what is sent is read from the log.  So a follower that
is slow, or gone without a word, costs a window and no more, and one that is too far behind gets the
snapshot.

What a follower acknowledges counts for nothing but this window.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

from meshd import limits
from meshd.consensus.kernel_wire import Peer
from meshd.consensus.messages import Feed, FeedAnswer, FeedEnd, Follow
from meshd.consensus.snapshots import Transfer
from meshd.ids import NodeId

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel

_SIGNS_UNANSWERED: Final = 6
"""Who answers none of so many signs of life does not follow this voter any more."""

_Entries = tuple[tuple[int, bytes], ...]


class Subscriber:
    """One follower, as the voter that it follows sees it."""

    __slots__ = (
        "_sent", "answered_at", "is_told", "leader_told", "match", "next", "peer", "stream",
        "transfer",
    )  # fmt: skip

    def __init__(self, peer: Peer, stream: int, next_index: int, now: float) -> None:
        self.peer = peer
        self.stream = stream
        self.match = next_index - 1
        """It has everything up to here, as far as is known."""
        self.next = next_index
        self.answered_at = now
        self.is_told = False
        """Something was sent to it since it asked, or since its link came up."""
        self.leader_told: NodeId | None = None
        self.transfer: Transfer | None = None
        self._sent: deque[int] = deque()
        """The last entry of each message that was not answered yet."""

    @property
    def in_flight(self) -> int:
        """Messages with entries that were not answered yet."""
        return len(self._sent)

    def sent_up_to(self, index: int) -> None:
        self.next = index + 1
        self._sent.append(index)

    def holds(self, index: int) -> None:
        """Everything up to `index` is there."""
        self.match = max(self.match, index)
        self.next = max(self.next, self.match + 1)
        while self._sent and self._sent[0] <= self.match:
            self._sent.popleft()
        if self.transfer is not None and self.match >= self.transfer.snapshot.point.index:
            self.transfer = None

    def start_over(self) -> None:
        """What was under way is lost."""
        self.next = self.match + 1
        self.is_told = False
        self.transfer = None
        self._sent.clear()


class Serving:
    """The voter's half of following."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.subscribers: dict[Peer, Subscriber] = {}
        self._sign_at = math.inf

    @property
    def wake_at(self) -> float:
        return self._sign_at if self.subscribers else math.inf

    @property
    def leader(self) -> NodeId | None:
        """Whom commands and questions of subscribers can be passed on to."""
        kernel = self._kernel
        leader = kernel.stock.leader
        if leader is None or not (leader.id == kernel.me or leader.id in kernel.wire.connected):
            return None
        return leader.id

    # --- who

    def on_follow(self, peer: Peer, message: Follow) -> None:
        """Serve it, from the end of its log or from where that is committed for sure."""
        kernel, log = self._kernel, self._kernel.log
        self.subscribers.pop(peer, None)
        voters = kernel.configuration.voters
        full = len(self.subscribers) >= limits.RAFT_SUBSCRIBERS
        if full or kernel.me not in voters or peer.id in voters:
            kernel.wire.tell(peer.id, FeedEnd(message.stream, voters))
            return
        known = message.last_index <= kernel.stock.commit and (
            message.last_index < log.floor
            or log.term_at(message.last_index) == message.last_term
        )  # fmt: skip
        after = message.last_index if known else message.commit
        self.subscribers[peer] = Subscriber(peer, message.stream, after + 1, kernel.now)
        self._sign_at = min(self._sign_at, kernel.now + kernel.settings.sign_s)

    def on_answer(self, peer: Peer, answer: FeedAnswer) -> None:
        subscriber = self.answering(peer, answer.stream)
        if subscriber is not None:
            subscriber.holds(answer.index)

    def answering(self, peer: Peer, stream: int) -> Subscriber | None:
        """The subscriber that answers; None, and it is told, if that is no subscription here."""
        subscriber = self.subscribers.get(peer)
        if subscriber is None or subscriber.stream != stream:
            self._kernel.wire.tell(peer.id, FeedEnd(stream, self._kernel.configuration.voters))
            return None
        subscriber.answered_at = self._kernel.now
        return subscriber

    def on_end(self, peer: Peer, stream: int) -> None:
        """It does not want it any more."""
        subscriber = self.subscribers.get(peer)
        if subscriber is not None and subscriber.stream == stream:
            del self.subscribers[peer]

    def link_changed(self, peer: Peer) -> None:
        subscriber = self.subscribers.get(peer)
        if subscriber is not None:
            subscriber.start_over()

    def _end_what_cannot_last(self) -> None:
        """Only a voter serves, and only whom nobody else has to; who is silent is let go."""
        kernel = self._kernel
        voters = kernel.configuration.voters
        serves = kernel.me in voters
        silent_since = kernel.now - _SIGNS_UNANSWERED * kernel.settings.sign_s
        for peer, subscriber in list(self.subscribers.items()):
            if not serves or peer.id in voters or subscriber.answered_at < silent_since:
                del self.subscribers[peer]
                kernel.wire.tell(peer.id, FeedEnd(subscriber.stream, voters))

    # --- sending

    def send(self) -> None:
        """What is due, to everybody who can be reached."""
        if not self.subscribers:
            self._sign_at = math.inf
            return
        kernel = self._kernel
        due = kernel.now >= self._sign_at
        if due:
            self._sign_at = kernel.now + kernel.settings.sign_s
        self._end_what_cannot_last()
        leader = self.leader
        batches: dict[int, _Entries] = {}
        for subscriber in self.subscribers.values():
            if subscriber.peer.id in kernel.wire.connected:
                self._send_to(subscriber, due, leader, batches)

    def _send_to(
        self,
        subscriber: Subscriber,
        due: bool,
        leader: NodeId | None,
        batches: dict[int, _Entries],
    ) -> None:
        kernel = self._kernel
        if subscriber.transfer is not None or subscriber.next <= kernel.log.floor:
            kernel.snapshots.send(subscriber, due)
            return
        told = subscriber.is_told and leader == subscriber.leader_told and not due
        while subscriber.next <= kernel.stock.commit and self._has_room(subscriber):
            entries = batches.get(subscriber.next)
            if entries is None:  # those who are equally far get the same
                entries = batches[subscriber.next] = self._entries_from(subscriber.next)
            self._feed(subscriber, leader, entries)
            told = True
        if not told:
            self._feed(subscriber, leader, ())

    def _has_room(self, subscriber: Subscriber) -> bool:
        under_way = subscriber.next - 1 - subscriber.match
        size_bytes = self._kernel.log.bytes_between(subscriber.match, subscriber.next - 1)
        return (
            subscriber.in_flight < limits.RAFT_FEEDS_IN_FLIGHT
            and under_way < limits.RAFT_FEED_ENTRIES
            and size_bytes < self._kernel.settings.window_bytes
        )

    def _entries_from(self, index: int) -> _Entries:
        kernel = self._kernel
        most = min(limits.RAFT_BATCH_ENTRIES, kernel.stock.commit - index + 1)
        rows = kernel.log.rows(index, kernel.settings.batch_bytes, most)
        return tuple((term, payload) for payload, _, term in rows)

    def _feed(self, subscriber: Subscriber, leader: NodeId | None, entries: _Entries) -> None:
        """Without entries it is a sign of life, and says how far the follower should be."""
        kernel = self._kernel
        prev = min(subscriber.next - 1, kernel.stock.commit)
        # After the sync and behind answers to what was passed on: who is told where its command
        # stands must hear that before the command comes.
        kernel.wire.tell(
            subscriber.peer.id,
            Feed(
                stream=subscriber.stream,
                term=kernel.stock.term,
                leader=leader,
                prev_index=prev,
                prev_term=kernel.log.term_at(prev) or 0,
                entries=entries,
            ),
        )
        subscriber.is_told, subscriber.leader_told = True, leader
        if entries:
            subscriber.sent_up_to(prev + len(entries))
