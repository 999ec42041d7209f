"""Where the core's parts put what is to be done; packets get their gossip here.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meshd.ids import Address, NodeId
from meshd.membership.broadcasts import Broadcasts
from meshd.membership.constants import Settings
from meshd.membership.events import Directive, Send
from meshd.membership.members import Members
from meshd.wire import envelope
from meshd.wire.gossip import (
    PACKET_HEAD_BYTES,
    SEQUENCE_END,
    Ack,
    Message,
    Nack,
    Ping,
    encode,
)

BUDGET_BYTES: Final = envelope.PAYLOAD_BYTES - PACKET_HEAD_BYTES
"""What the messages of one packet may have, encoded."""

_ANY_NODE: Final = NodeId("a" * 26)
# Sizes of what is sent all the time, at their largest, so that it is not encoded twice.
_SIZES: Final[dict[type, int]] = {
    Ping: len(encode(Ping(SEQUENCE_END - 1, _ANY_NODE))),
    Ack: len(encode(Ack(SEQUENCE_END - 1))),
    Nack: len(encode(Nack(SEQUENCE_END - 1))),
}


class Outbox:
    """The directives of the event that is being handled, in order."""

    __slots__ = ("_directives", "_limit", "_limit_for", "_members", "_settings", "broadcasts")

    def __init__(self, members: Members, settings: Settings) -> None:
        self._members = members
        self._settings = settings
        self._directives: list[Directive] = []
        self._limit_for = 0
        self._limit = 0
        self.broadcasts = Broadcasts()

    def put(self, directive: Directive) -> None:
        self._directives.append(directive)

    def send(self, to: NodeId, addresses: tuple[Address, ...], *messages: Message) -> None:
        """Send these messages in one packet, filled up with gossip."""
        if not addresses:
            return
        budget_bytes = BUDGET_BYTES
        for message in messages:
            budget_bytes -= _SIZES.get(type(message)) or len(encode(message))
        gossip = self.gossip(budget_bytes, messages)
        self._directives.append(Send(to, addresses, (*messages, *gossip)))

    def gossip(self, budget_bytes: int, skip: Sequence[Message] = ()) -> list[Message]:
        """What is to be told next, as far as it fits; counted as told."""
        if not len(self.broadcasts):
            return []
        size = self._members.size
        if size != self._limit_for:
            self._limit_for, self._limit = size, self._settings.retransmits(size)
        return self.broadcasts.take(budget_bytes, self._limit, skip)

    def drain(self) -> list[Directive]:
        """Everything put since the last time."""
        directives, self._directives = self._directives, []
        return directives
