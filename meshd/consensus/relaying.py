"""A voter passes on what its subscribers want of the leader, and the answers back.  Pure.

A follower need know no leader and have no link with it.  Nothing is promised here: a question whose
answer is lost has no answer, and the asker's own deadline says so.  Only subscribers' questions are
passed on, which no voter is, so that none goes in a circle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshd import limits
from meshd.consensus.kernel_wire import Peer
from meshd.consensus.messages import ReadAnswer, ReadAsk

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel

_LEADER_CHANGED: Final = 5
"""pysyncobj's: what became of the command is not known."""


class Relaying:
    """Questions that were passed on and not answered yet, in the order in which they came."""

    def __init__(self, kernel: Kernel, first_id: int) -> None:
        self._kernel = kernel
        self._last_id = first_id
        self._commands: dict[int, tuple[Peer, int]] = {}
        """By the id under which it was passed on: whose it is, and its id there."""
        self._reads: dict[int, tuple[Peer, int]] = {}

    def command(self, peer: Peer, id_: int, command: bytes) -> bool:
        """Pass on a subscriber's command; False if there is nobody to pass it to."""
        to = self._leader_for(peer)
        if to is None:
            return False
        return self._kernel.wire.forward(to.id, self._note(self._commands, (peer, id_)), command)

    def read(self, peer: Peer, message: ReadAsk) -> bool:
        """Pass on a subscriber's question; False if there is nobody to pass it to."""
        to = self._leader_for(peer)
        if to is None:
            return False
        return self._kernel.wire.tell(to.id, ReadAsk(self._note(self._reads, (peer, message.id))))

    def command_answered(self, id_: int, index: int, term: int, error: int) -> bool:
        """Pass the answer back; False if the command was this node's own."""
        asker = self._commands.pop(id_, None)
        if asker is None:
            return False
        self._kernel.wire.answer_forward(asker[0].id, asker[1], index, term, error)
        return True

    def read_answered(self, answer: ReadAnswer) -> bool:
        """Pass the answer back; False if the question was this node's own."""
        asker = self._reads.pop(answer.id, None)
        if asker is None:
            return False
        self._kernel.wire.tell(asker[0].id, ReadAnswer(asker[1], answer.index))
        return True

    def leader_changed(self) -> None:
        """Whoever was asked does not lead any more, or cannot be reached."""
        commands, self._commands = self._commands, {}
        reads, self._reads = self._reads, {}
        for peer, id_ in commands.values():
            self._kernel.wire.answer_forward(peer.id, id_, 0, 0, _LEADER_CHANGED)
        for peer, id_ in reads.values():
            self._kernel.wire.tell(peer.id, ReadAnswer(id_, None))

    def _leader_for(self, peer: Peer) -> Peer | None:
        kernel = self._kernel
        leader = kernel.serving.leader
        if peer not in kernel.serving.subscribers or leader in (None, kernel.me):
            return None
        assert leader is not None
        return kernel.peer(leader)

    def _note(self, open_: dict[int, tuple[Peer, int]], asker: tuple[Peer, int]) -> int:
        """A number for it; of too many that were never answered the oldest is forgotten."""
        if len(open_) >= limits.RAFT_OPEN:
            del open_[next(iter(open_))]
        self._last_id += 1
        open_[self._last_id] = asker
        return self._last_id
