"""Who leads.  Pure.

Stock campaigns as soon as its deadline passes, and everybody who hears of a later term gives up the
leader that it has: any node that was away for a while deposes a leader that is well.  Three things
mend that, and each is needed for the others:

- *pre-vote*: ask first whether one would win, without a new term;
- *stickiness*: no vote, and no pre-vote, against a leader that was heard within the shortest
  election timeout (except when that leader hands over);
- *an answer with the later term* to whatever comes from an earlier one, so that a node whose term
  is ahead is not stranded (receiving.py, and the refusals here).

Hazard H5: stock counts a voter's answer twice when it comes twice, and those of nodes without a
vote.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from meshd.consensus.interface import Nonsense
from meshd.consensus.kernel_stock import CANDIDATE, LEADER
from meshd.consensus.kernel_wire import Peer
from meshd.consensus.messages import AskVote, PreVote, PreVoteAnswer, TimeoutNow, VoteAnswer

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel


class Elections:
    """When this node campaigns, and for whom it votes."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.may_campaign = False
        """A pre-vote was won, or the leader wants it: stock may begin an election."""
        self._heard_at = kernel.now
        """When a leader was last heard.  A start counts: what was promised before is not known."""
        self._pre_voted: set[Peer] = set()
        self._pre_vote_term = 0
        """The term that was asked about; 0 when no pre-vote is under way."""
        self._voted: set[Peer] = set()
        self._voted_term = 0
        """Whose answers were counted, in which election."""

    @property
    def wake_at(self) -> float:
        """When this node would have to do something."""
        kernel = self._kernel
        if kernel.stock.role == LEADER or not kernel.configuration.is_voter:
            return math.inf
        return -math.inf if self.may_campaign else kernel.stock.deadline

    # --- campaigning

    def begin_step(self) -> None:
        """Before stock's tick: ask for pre-votes if the deadline has passed."""
        kernel, stock = self._kernel, self._kernel.stock
        if stock.role == LEADER or not kernel.configuration.is_voter:
            self.may_campaign = False
            return
        if not self.may_campaign and kernel.now >= stock.deadline:
            self._ask_for_pre_votes()
        if self.may_campaign:
            stock.deadline = -math.inf

    def end_step(self) -> None:
        """After stock's tick: the election, if there was to be one, has begun."""
        self.may_campaign = False
        self._kernel.wire.vote_by_transfer = False

    def _ask_for_pre_votes(self) -> None:
        kernel, stock = self._kernel, self._kernel.stock
        stock.deadline = kernel.now + stock.election_timeout_s()
        stock.leader = None
        self._pre_vote_term = stock.term + 1
        self._pre_voted = set()
        last = kernel.log.last
        for peer in sorted(stock.others, key=lambda peer: peer.id):
            kernel.wire.tell(
                peer.id,
                PreVote(term=self._pre_vote_term, last_index=last.index, last_term=last.term),
            )
        self._count_pre_votes()

    def _count_pre_votes(self) -> None:
        if 2 * (len(self._pre_voted) + 1) > len(self._kernel.configuration.voters):
            self._pre_vote_term = 0
            self.may_campaign = True

    def on_pre_vote_answer(self, peer: Peer, answer: PreVoteAnswer) -> None:
        kernel, stock = self._kernel, self._kernel.stock
        if answer.term > stock.term:
            if not answer.granted:
                kernel.adopt_term(answer.term)
            return
        if (
            answer.granted
            and stock.role != LEADER
            and answer.asked == self._pre_vote_term == stock.term + 1
        ):
            self._pre_voted.add(peer)
            self._count_pre_votes()

    def on_timeout_now(self, peer: Peer, message: TimeoutNow) -> None:
        """The leader hands over to this node."""
        kernel = self._kernel
        if message.term == kernel.stock.term and kernel.stock.leader == peer:
            self.may_campaign = kernel.configuration.is_voter
            kernel.wire.vote_by_transfer = True

    def on_vote_answer(self, peer: Peer, answer: VoteAnswer) -> None:
        """One vote a voter (H5)."""
        kernel, stock = self._kernel, self._kernel.stock
        if answer.term > stock.term:
            if answer.granted:
                raise Nonsense(f"{peer.id} voted in term {answer.term} without being asked.")
            kernel.adopt_term(answer.term)
            return
        if not answer.granted or stock.role != CANDIDATE or answer.term < stock.term:
            return
        if self._voted_term != stock.term:
            self._voted_term, self._voted = stock.term, set()
        if peer not in self._voted:
            self._voted.add(peer)
            stock.on_message(peer, {"type": "response_vote", "term": answer.term})

    # --- voting

    def heard_leader(self) -> None:
        self._heard_at = self._kernel.now

    def link_lost(self, peer: Peer) -> None:
        """The leader's link broke: do not wait for the deadline.

        Those who still hear the leader refuse the pre-vote.  The voters begin one after the other,
        by their place in the list, so that two of them do not split the votes.
        """
        kernel, stock = self._kernel, self._kernel.stock
        if stock.leader != peer or stock.role == LEADER:
            return
        self._heard_at = -math.inf
        stock.leader_lost()
        stock.leader = None
        if kernel.configuration.is_voter:
            rest = [voter for voter in kernel.configuration.voters if voter != peer.id]
            turn = rest.index(kernel.me) + kernel.chance.random() / 2
            stock.deadline = kernel.now + turn * kernel.settings.heartbeat_s / 4

    @property
    def _leader_is_well(self) -> bool:
        kernel = self._kernel
        return (
            kernel.stock.role == LEADER
            or kernel.now < self._heard_at + kernel.settings.election_min_s
        )

    def _is_up_to_date(self, last_term: int, last_index: int) -> bool:
        last = self._kernel.log.last
        return (last_term, last_index) >= (last.term, last.index)

    def on_pre_vote(self, peer: Peer, message: PreVote) -> None:
        kernel = self._kernel
        granted = (
            message.term > kernel.stock.term
            and self._is_up_to_date(message.last_term, message.last_index)
            and not self._leader_is_well
            and not kernel.configuration.vote_is_void
        )
        kernel.wire.tell(
            peer.id,
            PreVoteAnswer(asked=message.term, granted=granted, term=kernel.stock.term),
        )

    def on_ask_vote(self, peer: Peer, message: AskVote) -> None:
        kernel, stock = self._kernel, self._kernel.stock
        sticky = message.term > stock.term and self._leader_is_well and not message.transfer
        if not sticky and not kernel.configuration.vote_is_void:
            stock.on_message(peer, {
                "type": "request_vote",
                "term": message.term,
                "last_log_index": message.last_index,
                "last_log_term": message.last_term,
            })  # fmt: skip
        granted = stock.term == message.term and stock.voted_for == peer.id
        kernel.wire.tell(peer.id, VoteAnswer(term=stock.term, granted=granted))
