"""The record's state as the machine that the replicated log drives.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meshd.record.commands import UnknownCommand, require_known
from meshd.record.events import Event
from meshd.record.state import RecordState


class RecordMachine:
    """`consensus.interface.StateMachine` over `RecordState`."""

    def __init__(self) -> None:
        self.state = RecordState()
        self._prepared: RecordState | None = None
        self.restored = 0
        """How often the state was replaced as a whole: what was read from it before is void."""

    def apply(self, index: int, command: bytes) -> bytes:
        """Carry out a committed command.  Raises UnknownCommand, on which the node stops."""
        return self.state.apply(index, command)

    def why_not(self, command: bytes) -> str | None:
        """Why this command must not be proposed: `apply` would raise UnknownCommand."""
        try:
            require_known(command)
        except UnknownCommand as error:
            return str(error)
        return None

    def capture(self) -> Iterator[bytes]:
        """The state as it is now, packed as its items are asked for."""
        return self.state.capture().parts()

    def prepare(self, state: Iterable[bytes]) -> Iterator[None]:
        """Build the state that was captured, beside the present one.

        Raises StateDamaged, and StateUnknown for one of a later version.
        """
        prepared = RecordState()
        yield from prepared.restoring(state)
        self._prepared = prepared

    def become(self) -> None:
        """Have the state that was prepared last."""
        if self._prepared is None:
            raise ValueError("no state was prepared")
        self.state.become(self._prepared)
        self._prepared = None
        self.restored += 1

    def take_events(self) -> list[Event]:
        """What came about since the last call."""
        return self.state.take_events()
