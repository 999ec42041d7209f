"""Committed entries meet the state machine, each once, in order.  Pure.

Hazard H7: stock skips an entry that its code is too old for, and applies the one before it again.
Hazard H8: stock retries an entry that raised, every tick, for ever.  Here either ends this core:
the entry is committed, so every other node applies it, and a node that does not is no copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meshd.consensus.entries import EntryKind
from meshd.consensus.interface import CoreStopped, StateMachine
from meshd.errors import DiskFailed, ProtocolError


class Applying:
    """The state machine of this node, guarded."""

    def __init__(self, machine: StateMachine) -> None:
        self._machine = machine

    def apply(self, index: int, payload: bytes) -> bytes:
        """Carry out one entry.  What is not a command has an empty result."""
        if payload[0] != EntryKind.COMMAND:
            return b""
        try:
            return self._machine.apply(index, payload[1:])
        except Exception as error:  # whatever it is: the entry is committed, so it is the end here
            text = f"The state machine failed on entry {index}: {error!r}."
            raise CoreStopped(text) from error

    def why_not(self, command: bytes) -> str | None:
        return self._machine.why_not(command)

    def capture(self) -> Iterator[bytes]:
        return self._machine.capture()

    def prepare(self, state: Iterable[bytes], index: int) -> Iterator[None]:
        """Build the state after `index` beside the present one.

        Raises ProtocolError for bytes that got damaged, and CoreStopped for a sound state that this
        machine does not take: one of a later version, for which trying again is no help.
        """
        try:
            yield from self._machine.prepare(state)
        except (ProtocolError, DiskFailed):
            raise
        except Exception as error:  # whatever it is: the others have this state, so it is the end
            text = f"The state machine did not take the snapshot at {index}: {error!r}."
            raise CoreStopped(text) from error

    def become(self) -> None:
        self._machine.become()
