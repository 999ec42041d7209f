"""What is still to be told to others, and how often (memberlist's TransmitLimitedQueue).  Pure.

Every update is sent a limited number of times by every member that heard it; the least sent go
first.  A newer update about the same member replaces the older one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meshd.ids import NodeId
from meshd.wire.gossip import Message, Word, encode

WORD: Final = "w"
OPINION: Final = "o"


class _Entry:
    __slots__ = ("key", "message", "sent", "size_bytes")

    def __init__(self, key: str, message: Message, size_bytes: int) -> None:
        self.key = key
        self.message = message
        self.size_bytes = size_bytes
        self.sent = 0


class Broadcasts:
    """The queue.  Two slots a member: its own last word, and the last opinion about it.

    `levels[n]` holds what was sent n times, in the order in which it came there.
    """

    __slots__ = ("_entries", "_levels")

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._levels: list[dict[str, _Entry]] = [{}]

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, node: NodeId, message: Message) -> None:
        """Tell this about `node`, in place of what was to be told before.

        A word makes opinions about earlier words pointless, so it drops the opinion too.
        """
        if isinstance(message, Word):
            self._drop(OPINION + node)
            key = WORD + node
        else:
            key = OPINION + node
        self._drop(key)
        entry = _Entry(key, message, len(encode(message)))
        self._entries[key] = entry
        self._levels[0][key] = entry

    def remove(self, node: NodeId) -> None:
        """Say nothing more about `node`."""
        self._drop(WORD + node)
        self._drop(OPINION + node)

    def clear(self) -> None:
        """Say nothing more at all."""
        self._entries.clear()
        self._levels = [{}]

    def holds_word(self, node: NodeId) -> bool:
        """Whether its word has not been sent as often as it should be."""
        return WORD + node in self._entries

    def take(self, budget_bytes: int, limit: int, skip: Sequence[Message] = ()) -> list[Message]:
        """As many messages as fit into the budget, the least sent first; each counts as sent once.

        What has been sent `limit` times is dropped.  What is in `skip` is in the packet already.
        """
        taken: list[Message] = []
        if not self._entries:
            return taken
        moved: list[_Entry] = []
        for level in self._levels:
            for entry in level.values():
                if entry.size_bytes <= budget_bytes and entry.message not in skip:
                    budget_bytes -= entry.size_bytes
                    taken.append(entry.message)
                    moved.append(entry)
        for entry in moved:
            self._count(entry, limit)
        return taken

    def _count(self, entry: _Entry, limit: int) -> None:
        del self._levels[entry.sent][entry.key]
        entry.sent += 1
        if entry.sent >= limit:
            del self._entries[entry.key]
            return
        if entry.sent == len(self._levels):
            self._levels.append({})
        self._levels[entry.sent][entry.key] = entry

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            del self._levels[entry.sent][key]
