"""How much of bodies may be in memory at once.  Pure.

Each body has its own bound, and so has the number of connections; their product is more than a
machine has.  So all that keep whole bodies take shares of one room, and whoever finds it full is
asked to come again.  What is under `limits.BODY_COUNTED_BYTES` is not counted: the bound on
connections is bound enough for it, and most requests need no share.
"""

from __future__ import annotations

from meshd import limits


class Room:
    """The room of one node, or of one server by itself."""

    __slots__ = ("held_bytes", "size_bytes")

    def __init__(self, size_bytes: int = limits.BODIES_BYTES) -> None:
        self.size_bytes = size_bytes
        self.held_bytes = 0
        """By all shares together."""


class Share:
    """What one owner keeps of it."""

    __slots__ = ("_room", "held_bytes")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.held_bytes = 0

    def hold(self, size_bytes: int) -> bool:
        """It keeps so much from now on; False, and it keeps what it kept, if there is no room."""
        counted = size_bytes if size_bytes >= limits.BODY_COUNTED_BYTES else 0
        room, more = self._room, counted - self.held_bytes
        if more > 0 and room.held_bytes + more > room.size_bytes:
            return False
        room.held_bytes += more
        self.held_bytes = counted
        return True

    def release(self) -> None:
        """It keeps nothing any more.  Idempotent."""
        self._room.held_bytes -= self.held_bytes
        self.held_bytes = 0
