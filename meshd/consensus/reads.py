"""Linearizable reads without an entry in the log and without a sync: read-index.  Pure.

A leader that has committed an entry of its own term knows what is committed.  It notes how far that
is, asks everybody whether it still leads (a round: the number that every AppendEntries carries and
every answer echoes), and when a majority has echoed a round that began after the read was asked, no
later leader can have acknowledged anything before that (Ongaro's thesis, 6.4).  The reader then
waits until so much is applied.

A read that comes to nothing is simply refused; asking again costs nothing.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

from meshd import limits
from meshd.consensus.deadlines import Deadlines
from meshd.consensus.kernel_stock import LEADER
from meshd.consensus.kernel_wire import Peer
from meshd.consensus.messages import ReadAnswer, ReadAsk
from meshd.consensus.outcomes import Readable, Refused, Why

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel


class _Read:
    """A read that was asked here."""

    __slots__ = ("asked", "id")

    def __init__(self, read_id: int) -> None:
        self.id = read_id
        self.asked: Peer | None = None
        """The leader that was asked about it, and has not answered yet."""


Asker = tuple[Peer | None, int]
"""Who asked a leader (None: this node itself), and under which id."""


class Reads:
    """Reads asked here, and questions that this node has to answer as the leader."""

    def __init__(self, kernel: Kernel, first_id: int) -> None:
        self._kernel = kernel
        self._last_wire_id = first_id
        """H18 for reads: an answer to a question of this node's previous life matches none."""
        self._open: dict[int, _Read] = {}
        """By the id on the wire."""
        self._deadlines = Deadlines(self._open)
        self._to_ask: list[int] = []
        """Those that no leader has been asked about."""
        self._to_apply: list[tuple[int, int]] = []
        """A heap: how far the log must be applied for which."""
        self._fresh: list[Asker] = []
        """Asked of this leader since the last round began."""
        self._ask_again_at = -math.inf
        """Who was asked does not lead, and this node has heard of no other leader yet: to ask it
        again at once would only go to and fro."""
        self._asked: list[tuple[int, int, Asker]] = []
        """(round, index, who): waiting for a majority to echo the round."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def wake_at(self) -> float:
        if self._fresh and self._kernel.is_ready:
            return -math.inf
        if self._to_ask and self._ask_again_at > self._kernel.now:
            return min(self._ask_again_at, self._deadlines.next_at)
        return self._deadlines.next_at

    def ask(self, read_id: int, deadline: float) -> None:
        """Begin a read of this node's own."""
        if len(self._open) >= limits.RAFT_OPEN:
            self._kernel.outcomes.append(Refused(read_id, Why.QUEUE_FULL))
            return
        self._last_wire_id += 1
        self._open[self._last_wire_id] = _Read(read_id)
        self._to_ask.append(self._last_wire_id)
        self._deadlines.add(deadline, self._last_wire_id)

    def step(self) -> None:
        """Ask whom there is to ask, finish what can be finished."""
        kernel = self._kernel
        self._put_to_the_leader()
        if kernel.stock.role != LEADER:
            self._give_up()
        elif self._fresh and kernel.is_ready:
            kernel.sending.new_round()
            self._asked += [
                (kernel.sending.round, kernel.stock.commit, asker) for asker in self._fresh
            ]
            self._fresh = []
        self._confirm()
        while self._to_apply and self._to_apply[0][0] <= kernel.stock.applied:
            _, wire_id = heapq.heappop(self._to_apply)
            if (read := self._open.pop(wire_id, None)) is not None:
                kernel.outcomes.append(Readable(read.id, kernel.stock.applied))
        for wire_id in self._deadlines.due(kernel.now):
            read = self._open.pop(wire_id)
            why = Why.NO_LEADER if kernel.stock.leader is None else Why.TIMED_OUT
            kernel.outcomes.append(Refused(read.id, why))

    def _put_to_the_leader(self) -> None:
        """Put questions to the leader; those that an earlier leader got, to the new one."""
        kernel = self._kernel
        leader = kernel.stock.leader
        if leader is None or not self._to_ask:
            return
        if leader.id != kernel.me and kernel.now < self._ask_again_at:
            return
        waiting, self._to_ask = self._to_ask, []
        for wire_id in waiting:
            read = self._open.get(wire_id)
            if read is None:
                continue
            if leader.id == kernel.me:
                read.asked = leader
                self._fresh.append((None, wire_id))
            elif kernel.wire.tell(leader.id, ReadAsk(wire_id)):
                read.asked = leader
            else:
                self._to_ask.append(wire_id)

    def _confirm(self) -> None:
        """As the leader: answer those whose round a majority has echoed."""
        kernel = self._kernel
        if not self._asked:
            return
        rounds = sorted(
            [kernel.sending.progress[peer].round_answered for peer in kernel.stock.others]
            + [kernel.sending.round]
        )
        echoed = rounds[(len(rounds) - 1) // 2]
        done = [asked for asked in self._asked if asked[0] <= echoed]
        self._asked = [asked for asked in self._asked if asked[0] > echoed]
        for _, index, asker in done:
            self._answer(asker, index)

    def on_ask(self, peer: Peer, message: ReadAsk) -> None:
        kernel = self._kernel
        full = len(self._fresh) + len(self._asked) >= limits.RAFT_OPEN
        if kernel.stock.role != LEADER or full:
            if not kernel.relaying.read(peer, message):
                kernel.wire.tell(peer.id, ReadAnswer(message.id, None))
        else:
            self._fresh.append((peer, message.id))

    def on_answer(self, peer: Peer, answer: ReadAnswer) -> None:
        if self._kernel.relaying.read_answered(answer):
            return
        read = self._open.get(answer.id)
        if read is not None and read.asked == peer:
            self._answered(answer.id, read, answer.index)

    def leader_changed(self) -> None:
        """Whoever was asked does not lead any more, or cannot be reached: ask again."""
        self._ask_again_at = -math.inf
        for wire_id, read in self._open.items():
            if read.asked is not None:
                read.asked = None
                self._to_ask.append(wire_id)

    def link_lost(self, peer: Peer) -> None:
        """It will ask again over its next link."""
        self._fresh = [asker for asker in self._fresh if asker[0] != peer]
        self._asked = [asked for asked in self._asked if asked[2][0] != peer]

    def _answered(self, wire_id: int, read: _Read, index: int | None) -> None:
        read.asked = None
        if index is None:
            self._to_ask.append(wire_id)
            self._ask_again_at = self._kernel.now + self._kernel.settings.heartbeat_s
        else:
            heapq.heappush(self._to_apply, (index, wire_id))

    def _answer(self, asker: Asker, index: int | None) -> None:
        peer, wire_id = asker
        if peer is not None:
            self._kernel.wire.tell(peer.id, ReadAnswer(wire_id, index))
        elif (read := self._open.get(wire_id)) is not None:
            self._answered(wire_id, read, index)

    def _give_up(self) -> None:
        """This node does not lead (any more): who asked it must ask another."""
        askers = [*self._fresh, *(asker for _, _, asker in self._asked)]
        self._fresh, self._asked = [], []
        for asker in askers:
            self._answer(asker, None)
