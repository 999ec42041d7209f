"""What a leader sends, and what it makes of the answers.  Pure.

Hazard H3: stock's answers carry no term, so a late one counts in a later leadership.
Hazard H16: stock pickles and cuts up a command larger than a batch, with wrong arithmetic.  Here a
command is always smaller than a message.
Hazard H17: stock sets a follower's place forward with every message and back with every answer, so
that with several messages under way a follower that differs never converges.

Each follower has a mode (etcd's raft has the same three):

    PROBE ──an answer that fits──> STREAM ──a refusal, or a new link──> PROBE
      └──── its place is behind the floor of the log ────> SNAPSHOT ──> PROBE

One probe is under way at a time, in a stream as many bytes as the window allows.  So a follower
that is slow, or gone without a word, costs the leader a window and no more.
"""

from __future__ import annotations

import math
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from meshd import limits
from meshd.consensus.interface import Nonsense
from meshd.consensus.kernel_stock import LEADER
from meshd.consensus.kernel_wire import Peer
from meshd.consensus.messages import AppendAnswer, AppendEntries
from meshd.consensus.snapshots import Transfer

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel

_PROBE_BYTES: Final = 16 * 1024
_MESSAGES_PER_STEP: Final = 64
_ROUND_SPACING_S: Final = 0.01
"""Rounds closer together than this pass for as old as the first of them."""


class Mode(StrEnum):
    PROBE = "probe"
    STREAM = "stream"
    SNAPSHOT = "snapshot"


class Progress:
    """One follower, as the leader of this term sees it."""

    __slots__ = (
        "_in_flight", "answered_at", "commit_told", "in_flight_bytes", "match", "mode", "next",
        "peer", "probed_at", "round_answered", "round_told", "transfer",
    )  # fmt: skip

    stream = 0
    """What it is sent is no subscription's (serving.py)."""

    def __init__(self, peer: Peer, next_index: int) -> None:
        self.peer = peer
        self.match = 0
        """Its log equals the leader's up to here, on its disk."""
        self.round_answered = 0
        self.answered_at = -math.inf
        """When the last question was asked that it has answered."""
        self.start_over(next_index)

    def start_over(self, next_index: int) -> None:
        """Nothing is under way to it any more, and its place is a guess."""
        self.mode = Mode.PROBE
        self.next = next_index
        self.probed_at = -math.inf
        self.commit_told = self.round_told = 0
        self.transfer: Transfer | None = None
        self._in_flight: deque[tuple[int, int]] = deque()
        self.in_flight_bytes = 0

    def sent(self, last_index: int, size_bytes: int) -> None:
        self._in_flight.append((last_index, size_bytes))
        self.in_flight_bytes += size_bytes

    def landed(self, index: int) -> None:
        """Everything up to `index` arrived."""
        while self._in_flight and self._in_flight[0][0] <= index:
            self.in_flight_bytes -= self._in_flight.popleft()[1]


class Sending:
    """The leader's half of replication."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.progress: dict[Peer, Progress] = {}
        """Of voters and learners, while this node leads."""
        self.heartbeat_at = -math.inf
        self.more = False
        """There was more to send than one step allows."""
        self.round = 0
        self._asked: deque[tuple[int, float]] = deque()
        """Some of the last rounds, and when each began."""

    # --- who

    def begin(self) -> None:
        """A new leadership: nothing is known of any follower."""
        self.progress = {}
        self.heartbeat_at = -math.inf
        self.round = 0
        self._asked.clear()
        self.refresh_peers()

    def refresh_peers(self) -> None:
        """Keep exactly the followers that there are, in an order that is the same in every run."""
        kernel = self._kernel
        peers = kernel.stock.others | {kernel.peer(node) for node in kernel.learners}
        peers.discard(kernel.peer(kernel.me))
        first = kernel.log.last.index + 1
        self.progress = {
            peer: self.progress.get(peer) or Progress(peer, first)
            for peer in sorted(peers, key=lambda peer: peer.id)
        }

    def link_changed(self, peer: Peer) -> None:
        """All that was under way is lost.  Behind a new link may be a new start of the node, so
        that what it is known to have is asked again."""
        progress = self.progress.get(peer)
        if progress is not None:
            progress.match = 0
            if peer in self._kernel.stock.others:
                self._kernel.stock.match[peer] = 0
            progress.start_over(self._kernel.log.last.index + 1)

    # --- sending

    def new_round(self) -> None:
        """Begin a question: whoever echoes its number has taken this node for its leader since."""
        self.round += 1
        now = self._kernel.now
        if not self._asked or now >= self._asked[-1][1] + _ROUND_SPACING_S:
            self._asked.append((self.round, now))
        while self._asked[0][1] < now - self._kernel.settings.quorum_s:
            self._asked.popleft()

    def send(self) -> None:
        """What is due, to everybody who can be reached."""
        kernel = self._kernel
        self.more = False
        due = kernel.now >= self.heartbeat_at
        if due:
            self.heartbeat_at = kernel.now + kernel.settings.heartbeat_s
            self.new_round()
        for progress in self.progress.values():
            if progress.peer.id in kernel.wire.connected:
                self._send_to(progress, due)

    def _send_to(self, progress: Progress, due: bool) -> None:
        if progress.next <= self._kernel.log.floor:
            progress.mode = Mode.SNAPSHOT
        if progress.mode is Mode.SNAPSHOT:
            if self._kernel.snapshots.send(progress, due):
                progress.round_told = self.round
        elif progress.mode is Mode.PROBE:
            self._probe(progress, due)
        else:
            self._stream(progress, due)

    def _probe(self, progress: Progress, due: bool) -> None:
        now = self._kernel.now
        if due or now >= progress.probed_at + self._kernel.settings.heartbeat_s:
            progress.probed_at = now
            self._append(progress, _PROBE_BYTES)

    def _stream(self, progress: Progress, due: bool) -> None:
        kernel, last = self._kernel, self._kernel.log.last.index
        sent = 0
        while progress.next <= last and progress.in_flight_bytes < kernel.settings.window_bytes:
            if sent == _MESSAGES_PER_STEP:
                self.more = True
                return
            before = progress.next
            progress.next = self._append(progress, kernel.settings.batch_bytes)
            progress.sent(
                progress.next - 1, kernel.log.bytes_between(before - 1, progress.next - 1)
            )
            sent += 1
        news = kernel.stock.commit > progress.commit_told or self.round > progress.round_told
        if not sent and (due or news):
            self._append(progress, 0)

    def _append(self, progress: Progress, max_bytes: int) -> int:
        """Send one message with entries from `next` on.  Returns the index after them."""
        kernel, log = self._kernel, self._kernel.log
        prev = progress.next - 1
        rows = (
            log.rows(progress.next, max_bytes, limits.RAFT_BATCH_ENTRIES)
            if max_bytes and progress.next <= log.last.index
            else []
        )
        kernel.wire.tell_early(
            progress.peer.id,
            AppendEntries(
                term=kernel.stock.term,
                round=self.round,
                prev_index=prev,
                prev_term=log.term_at(prev) or 0,
                commit=kernel.stock.commit,
                entries=tuple((term, payload) for payload, _, term in rows),
            ),
        )
        progress.commit_told = kernel.stock.commit
        progress.round_told = self.round
        return progress.next + len(rows)

    # --- answers

    def on_append_answer(self, peer: Peer, answer: AppendAnswer) -> None:
        """Raises Nonsense for what cannot be an answer to anything that was sent."""
        progress = self.answering(peer, answer.term, answer.round)
        if progress is None:
            return
        last = self._kernel.log.last.index
        if (answer.index if answer.ok else answer.rejected) > last:
            raise Nonsense(f"{peer.id} speaks of entries after {last}, which were never sent.")
        self.note_round(progress, answer.round)
        if answer.ok:
            self.matches(progress, answer.index)
        elif answer.rejected > progress.match:
            self._rejected(progress, answer)

    def answering(self, peer: Peer, term: int, round_: int) -> Progress | None:
        """The follower that answers, or None if the answer is not for this leadership (H3)."""
        kernel = self._kernel
        if term > kernel.stock.term:
            kernel.adopt_term(term)
            return None
        if term < kernel.stock.term or kernel.stock.role != LEADER:
            return None
        if round_ > self.round:
            raise Nonsense(f"{peer.id} answers round {round_}, and the last was {self.round}.")
        return self.progress.get(peer)

    def note_round(self, progress: Progress, round_: int) -> None:
        """It followed this node when the round was asked: that counts for quorums and reads."""
        if round_ <= progress.round_answered:
            return
        progress.round_answered = round_
        asked_at = max((at for number, at in self._asked if number <= round_), default=-math.inf)
        progress.answered_at = max(progress.answered_at, asked_at)
        stock = self._kernel.stock
        if progress.peer in stock.others:
            stock.answered[progress.peer] = max(
                progress.answered_at, stock.answered.get(progress.peer, -math.inf)
            )

    def matches(self, progress: Progress, index: int) -> None:
        """Its log equals ours up to `index`."""
        stock = self._kernel.stock
        progress.match = max(progress.match, index)
        if progress.peer in stock.others:
            stock.match[progress.peer] = max(stock.match.get(progress.peer, 0), progress.match)
        progress.landed(progress.match)
        if progress.mode is Mode.SNAPSHOT and not self._kernel.snapshots.still_needed(progress):
            progress.transfer = None
            progress.mode = Mode.PROBE
        if progress.mode is Mode.PROBE:
            progress.mode = Mode.STREAM
            progress.next = progress.match + 1
        progress.next = max(progress.next, progress.match + 1)

    def _rejected(self, progress: Progress, answer: AppendAnswer) -> None:
        """Go back, but only by an answer to the probe that is under way: others are older."""
        if progress.mode is Mode.STREAM:
            progress.start_over(progress.match + 1)
        elif progress.mode is Mode.PROBE and answer.rejected == progress.next - 1:
            progress.next = max(progress.match + 1, min(answer.rejected, answer.index + 1))
            progress.probed_at = -math.inf
