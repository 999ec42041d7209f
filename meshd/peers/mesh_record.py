"""The record, as those use it who decide for the mesh.  Pure."""

from __future__ import annotations

from typing import Any, Protocol

from meshd import limits
from meshd.record.commands_registry import Command
from meshd.record.state import RecordState


class MeshRecord(Protocol):
    """The node's own part of the record (`node.registrar`)."""

    @property
    def state(self) -> RecordState:
        """As of the last command applied here; empty while the record is being opened."""
        ...

    def runs(self) -> bool:
        """Whether this node takes part in it now: its disk is in order, its journal open."""
        ...

    def leads(self) -> bool:
        """Whether this node leads the voters now."""
        ...

    def trouble(self) -> str:
        """Why nothing can be written now, who is missing and what helps; "" if it can."""
        ...

    async def now_unix_ms(self) -> int:
        """The record clock, moved on first if it has stood still.  Raises as `execute`."""
        ...

    async def execute(
        self, command: Command, timeout_s: float = limits.COMMAND_S
    ) -> dict[str, Any]:
        """Have a command carried out, once; the fields of its result.

        Raises RecordRefused (the record's own no, with its code), another MeshdError where it could
        not be written in that time, or nobody knows whether it was.
        """
        ...

    async def read_barrier(self, timeout_s: float = limits.PROPOSE_S) -> int:
        """Wait until `state` has all that was acknowledged anywhere before.  Raises MeshdError."""
        ...
