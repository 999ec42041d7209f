"""Leadership is handed over: a voter with the whole log is told to campaign at once.  Pure.

Stock sends the word without waiting for anything, goes on taking commands (so that its heir is
behind again), and with stickiness nobody would vote for the heir.  Here proposals wait until the
heir leads or the time is up, the word is sent when it has everything, and its request for votes
says that the leader wants it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from meshd.consensus.interface import TransferRefused
from meshd.consensus.kernel_stock import LEADER
from meshd.consensus.messages import TimeoutNow
from meshd.ids import NodeId

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel


class Handover:
    """To whom this leader wants to hand over, if it does."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.to: NodeId | None = None
        self._until = math.inf
        self._told = False

    @property
    def wake_at(self) -> float:
        return self._until if self.to is not None else math.inf

    def begin(self, to: NodeId) -> None:
        kernel = self._kernel
        if kernel.stock.role != LEADER:
            raise TransferRefused("Only the leader hands leadership over.")
        if to == kernel.me or to not in kernel.configuration.voters:
            raise TransferRefused(f"{to} is no other voter.")
        if to not in kernel.wire.connected:
            raise TransferRefused(f"{to} has no link to the leader.")
        self.to, self._told = to, False
        self._until = kernel.now + kernel.settings.election_max_s

    def end(self) -> None:
        self.to = None

    def step(self) -> None:
        kernel = self._kernel
        if self.to is None:
            return
        if kernel.now >= self._until:
            self.end()
            return
        progress = kernel.sending.progress.get(kernel.peer(self.to))
        if progress is not None and progress.match == kernel.log.last.index and not self._told:
            self._told = kernel.wire.tell(self.to, TimeoutNow(kernel.stock.term))
