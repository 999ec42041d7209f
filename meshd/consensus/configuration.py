"""Who has a vote, by the log.  Pure.

Hazard H2: stock's guard against two changes at a time never closes.
Hazard H12: after a restart, stock does not see a change that is in its log and not applied yet.
Hazard H13: stock's snapshots hold the voters of now, not those of their place.
Hazard H19: stock logs changes, so nodes that started with different lists differ for ever.

Here an entry is the whole list, and what is in force is always read off the log: the newest list in
it, committed or not (Ongaro's thesis, 4.1).  The log remembers where its lists are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshd import limits
from meshd.consensus.kernel_stock import LEADER
from meshd.consensus.voter_list import parse_voters
from meshd.ids import NodeId

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel

_BEHIND_MAX = 1000
"""Entries that a newcomer may lack: fewer than are written while it gets them."""


class Configuration:
    """The list of voters in force, and what may become of it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.voters = kernel.log.voters
        self.vote_is_void = False
        """This node does not know what it has promised: it neither votes nor campaigns, whatever
        the log says.  It follows, and what it acknowledges it has."""

    @property
    def is_voter(self) -> bool:
        """Whether it may vote and campaign."""
        kernel = self._kernel
        return kernel.me in self.voters and not self.vote_is_void and kernel.rollback.is_over

    def refresh(self) -> None:
        """Take over what the log says now.  Called at the end of every call that can change it."""
        kernel = self._kernel
        if kernel.log.voters == self.voters:
            return
        before, self.voters = self.voters, kernel.log.voters
        stock = kernel.stock
        stock.set_others([kernel.peer(v) for v in self.voters if v != kernel.me])
        for peer in stock.others:
            if peer.id not in before:
                stock.answered[peer] = kernel.now
        kernel.learners = tuple(v for v in kernel.learners if v not in self.voters)
        if stock.role == LEADER:
            lost = [voter for voter in before if voter not in self.voters]
            kernel.learners += tuple(lost)  # so that they hear of it
            kernel.sending.refresh_peers()
            for peer, progress in kernel.sending.progress.items():
                if peer in stock.others:  # a learner's progress counts from now on
                    stock.match[peer] = progress.match

    def why_not_change(self, data: bytes) -> str | None:
        """Why the log cannot take this list now; None if it can."""
        return self.why_not(parse_voters(data))

    def why_not(self, wanted: Sequence[NodeId]) -> str | None:
        kernel = self._kernel
        stock = kernel.stock
        if stock.role != LEADER:
            return "only the leader changes the voters"
        if not kernel.is_ready:
            return "the leader has not committed an entry of its own term yet"
        if kernel.log.has_list_after(stock.commit):
            return "another change of voters is not committed yet"
        if kernel.handover.to is not None:
            return "leadership is being handed over"
        changed = set(wanted) ^ set(self.voters)
        if len(changed) != 1:
            return f"voters change one at a time, and {len(changed)} would"
        if kernel.me not in wanted:
            return "a leader does not remove itself: hand leadership over first"
        if len(wanted) > limits.RAFT_VOTERS:
            return f"there are at most {limits.RAFT_VOTERS} voters"
        newcomer = changed.pop()
        return None if newcomer in self.voters else self._why_not_new(newcomer)

    def _why_not_new(self, node: NodeId) -> str | None:
        """A voter that does not answer can stop the log for good: of two, both are needed."""
        kernel = self._kernel
        progress = kernel.sending.progress.get(kernel.peer(node))
        if progress is None:
            return "it is no learner here: let it learn the log first"
        if node not in kernel.wire.connected or (
            kernel.now - progress.answered_at > kernel.settings.quorum_s
        ):
            return "it does not answer now"
        behind = kernel.log.last.index - progress.match
        if behind > _BEHIND_MAX:
            return f"it is {behind} entries behind"
        return None
