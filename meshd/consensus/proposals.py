"""Proposals, and what became of them.  Pure.

Hazard H14: stock's callbacks may never be called.  Here every proposal has its own deadline: one
that was not handed over by then is refused, one that was is unknown.
Hazard H15: stock takes up all that is queued in one tick.  Here a step takes up a bounded number,
the queue is bounded, and a log with too much that is not committed takes up nothing.
Hazard H18: stock numbers its requests from 1 after each start, so that an answer to the previous
life's request completes the wrong one.  Here the numbers of each life begin at random.

Commands go through stock's own queue and forwarding: the leader appends and says where, the node
that forwarded waits until that place is applied, and compares the term.
"""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from meshd import limits
from meshd.consensus.deadlines import Deadlines
from meshd.consensus.entries import EntryKind
from meshd.consensus.interface import CommandTooLarge
from meshd.consensus.kernel_stock import LEADER, Callback
from meshd.consensus.kernel_wire import Peer
from meshd.consensus.messages import Forward, ForwardAnswer
from meshd.consensus.outcomes import Committed, Refused, Unknown, Why

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel

_SUCCESS, _QUEUE_FULL, _MISSING_LEADER, _DISCARDED = range(4)
_NOT_LEADER, _LEADER_CHANGED, _REQUEST_DENIED, _UNKNOWN_OUTCOME = range(4, 8)
_REFUSALS: Final = {
    _QUEUE_FULL: Why.QUEUE_FULL,
    _MISSING_LEADER: Why.NO_LEADER,
    _DISCARDED: Why.OVERWRITTEN,
    _NOT_LEADER: Why.NOT_LEADER,
    _REQUEST_DENIED: Why.DENIED,
}
"""pysyncobj's FAIL_REASONs after which the command is not in the log, and never will be."""
_UNKNOWNS: Final = {_LEADER_CHANGED: Why.LEADER_LOST, _UNKNOWN_OUTCOME: Why.SKIPPED}

Source = int | tuple[Peer, int]
"""A proposal of this node, by its id; or who forwarded it, and under which id."""


class Proposals:
    """What waits to be handed to stock, and what waits for its outcome."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._queue: deque[tuple[EntryKind, bytes, Source]] = deque()
        self._queue_bytes = 0
        self._handed_over: dict[int, bool] = {}
        """Of the proposals of this node without an outcome: whether stock has them."""
        self._deadlines = Deadlines(self._handed_over)

    def __len__(self) -> int:
        return len(self._handed_over)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def wake_at(self) -> float:
        if self._queue and self._may_feed():
            return -math.inf
        return self._deadlines.next_at

    # --- in

    def add(self, proposal: int, kind: EntryKind, command: bytes, deadline: float) -> None:
        """Take up a proposal of this node's own."""
        if len(command) > limits.RAFT_COMMAND_BYTES:
            raise CommandTooLarge(
                f"A command of {len(command)} bytes is over the limit of"
                f" {limits.RAFT_COMMAND_BYTES}."
            )
        why_not = self._why_not(kind, command)
        if why_not is not None:
            self._kernel.outcomes.append(Refused(proposal, Why.DENIED, why_not))
            return
        if not self._enqueue(kind, command, proposal):
            self._kernel.outcomes.append(Refused(proposal, Why.QUEUE_FULL))
            return
        self._handed_over[proposal] = False
        self._deadlines.add(deadline, proposal)

    def on_forward(self, peer: Peer, message: Forward) -> None:
        """Another node's proposals, for the leader."""
        for id_, command in enumerate(message.commands, message.id):
            if self._kernel.stock.role != LEADER:
                if not self._kernel.relaying.command(peer, id_, command):
                    self._answer(peer, id_, _NOT_LEADER)
            elif self._why_not(EntryKind.COMMAND, command) is not None:
                self._answer(peer, id_, _REQUEST_DENIED)
            elif not self._enqueue(EntryKind.COMMAND, command, (peer, id_)):
                self._answer(peer, id_, _QUEUE_FULL)

    def on_forward_answer(self, peer: Peer, answer: ForwardAnswer) -> None:
        for n in range(answer.count):
            id_, index = answer.id + n, answer.index + n
            if not self._kernel.relaying.command_answered(id_, index, answer.term, answer.error):
                self._answered(peer, id_, index, answer)

    def _answered(self, peer: Peer, id_: int, index: int, answer: ForwardAnswer) -> None:
        """A proposal of this node's own."""
        message = {"type": "apply_command_response", "request_id": id_}
        if answer.error:
            known = answer.error in _REFUSALS
            self._kernel.stock.on_message(
                peer, message | {"error": answer.error if known else _UNKNOWN_OUTCOME}
            )
        else:
            self._kernel.stock.on_message(
                peer, message | {"log_idx": index, "log_term": answer.term}
            )

    def _why_not(self, kind: EntryKind, command: bytes) -> str | None:
        """Why it is not let into the log, where every node would stop at it (H7)."""
        return self._kernel.applying.why_not(command) if kind is EntryKind.COMMAND else None

    def _enqueue(self, kind: EntryKind, command: bytes, source: Source) -> bool:
        settings = self._kernel.settings
        if (
            len(self._queue) >= settings.queue
            or self._queue_bytes + len(command) > settings.queue_bytes
            or len(self._handed_over) >= limits.RAFT_OPEN
        ):
            return False
        self._queue.append((kind, command, source))
        self._queue_bytes += len(command)
        return True

    def _answer(self, peer: Peer, request: int, error: int) -> None:
        self._kernel.wire.answer_forward(peer.id, request, 0, 0, error)

    # --- to stock

    def _may_feed(self) -> bool:
        """Whether stock may have more: somebody leads, is not handing over, and has room."""
        kernel, stock = self._kernel, self._kernel.stock
        if stock.role != LEADER:
            return stock.leader is not None and stock.leader.id in kernel.wire.connected
        uncommitted = kernel.log.bytes_between(stock.commit, kernel.log.last.index)
        return kernel.handover.to is None and uncommitted < kernel.settings.uncommitted_bytes

    def feed(self) -> None:
        """Before stock's tick: hand over what fits into this step (H15)."""
        stock = self._kernel.stock
        if stock.role != LEADER:
            self._send_back_forwarded()
        if not self._may_feed():
            return
        for _ in range(min(len(self._queue), self._kernel.settings.per_step)):
            kind, command, source = self._queue.popleft()
            self._queue_bytes -= len(command)
            if not isinstance(source, int):
                stock._applyCommand(command, source, kind)
            elif source in self._handed_over:  # else: its deadline has passed
                self._handed_over[source] = True
                callback: Callback = partial(self._settle, source)
                stock._applyCommand(command, callback, kind)

    def _send_back_forwarded(self) -> None:
        """This node does not lead any more: a definite no for what others wanted of it."""
        if any(not isinstance(source, int) for _, _, source in self._queue):
            for _, command, source in self._queue:
                if not isinstance(source, int):
                    self._queue_bytes -= len(command)
                    self._answer(*source, _NOT_LEADER)
            self._queue = deque(item for item in self._queue if isinstance(item[2], int))

    # --- out

    def _settle(self, proposal: int, result: bytes | None, error: int) -> None:
        """Stock knows what became of it."""
        if self._handed_over.pop(proposal, None) is None:
            return  # its deadline has passed
        kernel = self._kernel
        if error == _SUCCESS:
            outcome = Committed(proposal, kernel.stock.applied + 1, result or b"")
            kernel.outcomes.append(outcome)
        elif error in _REFUSALS:
            kernel.outcomes.append(Refused(proposal, _REFUSALS[error]))
        else:
            kernel.outcomes.append(Unknown(proposal, _UNKNOWNS[error]))

    def expire(self) -> None:
        """H14: whose deadline has passed gets its outcome now."""
        kernel = self._kernel
        for proposal in self._deadlines.due(kernel.now):
            if self._handed_over.pop(proposal):
                kernel.outcomes.append(Unknown(proposal, Why.TIMED_OUT))
            else:
                why = Why.NO_LEADER if kernel.stock.leader is None else Why.TIMED_OUT
                kernel.outcomes.append(Refused(proposal, why))
        if len(kernel.stock.waiting_reply) > 2 * len(self._handed_over) + 64:
            self._forget_expired()

    def _forget_expired(self) -> None:
        """Answers that were lost on the way would otherwise be waited for until the leader goes."""
        waiting = self._kernel.stock.waiting_reply
        for request, callback in list(waiting.items()):
            if isinstance(callback, partial) and callback.args[0] not in self._handed_over:
                del waiting[request]

    def skipped_to(self, index: int) -> None:
        """A snapshot stands for everything up to `index`: what stood there is not known."""
        waiting = self._kernel.stock.waiting_commit
        for place in [place for place in waiting if place <= index]:
            for _, callback in waiting.pop(place):
                callback(None, _UNKNOWN_OUTCOME)
