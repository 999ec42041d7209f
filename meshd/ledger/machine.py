"""The record's state as the machine that the replicated log drives.  Pure."""

from __future__ import annotations

from meshd.record.events import Event
from meshd.record.state import RecordState


class RecordMachine:
    """`consensus.interface.StateMachine` over `RecordState`."""

    def __init__(self) -> None:
        self.state = RecordState()
        self.restored = 0
        """How often the state was replaced as a whole: what was read from it before is void."""

    def apply(self, index: int, command: bytes) -> bytes:
        """Carry out a committed command.  Raises UnknownCommand, on which the node stops."""
        return self.state.apply(index, command)

    def freeze(self) -> bytes:
        """The state as bytes."""
        return self.state.freeze()

    def restore(self, state: bytes) -> None:
        """Become what was frozen."""
        self.state.restore(state)
        self.restored += 1

    def take_events(self) -> list[Event]:
        """What came about since the last call."""
        return self.state.take_events()
