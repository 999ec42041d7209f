"""pysyncobj's Transport: what stock code wants sent becomes typed messages in a list.  Pure.

Nothing is sent from here.  The kernel hands the list over in its outbox, and the driver releases it
after the sync.
"""

from __future__ import annotations

import zlib
from typing import Any

from meshd.consensus.interface import CoreStopped, Outgoing
from meshd.consensus.kernel_forwards import Forwards
from meshd.consensus.kernel_seams import Node, Transport
from meshd.consensus.messages import AskVote, Message
from meshd.consensus.snapshot_parts import PartToSend
from meshd.ids import NodeId


class Peer(Node):  # type: ignore[misc]
    """A node as pysyncobj wants it.

    Its hash depends on the id alone (a str's depends on the process), so that pysyncobj's sets have
    the same order in every run.
    """

    id: NodeId

    def __init__(self, node: NodeId) -> None:
        super().__init__(node)
        self._hash = zlib.crc32(node.encode())

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Peer) and self._id == other._id


class Wire(Transport):  # type: ignore[misc]
    """Messages on their way out, in order."""

    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.connected: set[NodeId] = set()
        self.early: list[Outgoing] = []
        self.late: list[Outgoing] = []
        self.parts: list[PartToSend] = []
        self._forwards = Forwards()
        self.vote_by_transfer = False
        """Put into every AskVote: the leader wants this election."""

    def tell(self, to: NodeId, message: Message) -> bool:
        """Send after the sync.  False if there is no link."""
        if to not in self.connected:
            return False
        self.late.append(Outgoing(to, message))
        return True

    def forward(self, to: NodeId, id_: int, command: bytes) -> bool:
        """Have a command put into the log.  False if there is no link."""
        if to not in self.connected:
            return False
        self._forwards.command(to, id_, command)
        return True

    def answer_forward(self, to: NodeId, id_: int, index: int, term: int, error: int) -> bool:
        """Say where a command stands.  False if there is no link."""
        if to not in self.connected:
            return False
        self._forwards.answer(to, id_, index, term, error)
        return True

    def take_late(self) -> tuple[Outgoing, ...]:
        """What goes after the sync, since the last call.

        Where commands stand comes first: what is fed to who asked may have them in it.
        """
        late, self.late = (*self._forwards.take(), *self.late), []
        return late

    def tell_early(self, to: NodeId, message: Message) -> None:
        """Send before the sync, if the term is on disk already."""
        self.early.append(Outgoing(to, message))

    def forget(self, peer: NodeId) -> None:
        """Its link is gone, and with it what was to go over it."""
        self.connected.discard(peer)
        self.early = [out for out in self.early if out.to != peer]
        self.late = [out for out in self.late if out.to != peer]
        self.parts = [part for part in self.parts if part.to != peer]
        self._forwards.forget(peer)

    # --- pysyncobj's side

    def send(self, node: Peer, message: dict[str, Any]) -> bool:
        return self._translate(node.id, message)

    def _translate(self, to: NodeId, message: dict[str, Any]) -> bool:
        kind = message["type"]
        if kind == "request_vote":
            return self.tell(
                to,
                AskVote(
                    term=message["term"],
                    last_index=message["last_log_index"],
                    last_term=message["last_log_term"],
                    transfer=self.vote_by_transfer,
                ),
            )
        if kind == "response_vote":
            return True  # elections.py answers every AskVote, also those that are refused
        if kind == "apply_command":  # the payload's first byte is the entry's kind
            return self.forward(to, message["request_id"], message["command"][1:])
        if kind == "apply_command_response":
            return self.answer_forward(
                to,
                message["request_id"],
                message.get("log_idx", 0),
                message.get("log_term", 0),
                message.get("error", 0),
            )
        raise CoreStopped(f"pysyncobj wanted to send a message of the kind {kind!r}.")
