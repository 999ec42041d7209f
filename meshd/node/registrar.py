"""The record as `peers` use it: `peers.mesh_record.MeshRecord` over this node's ledger."""

from __future__ import annotations

from typing import Any

from meshd import limits
from meshd.consensus.interface import Role
from meshd.jobs.duties import Duties
from meshd.node.record import RecordSide
from meshd.record.commands_registry import Command
from meshd.record.state import RecordState


class Registrar:
    """What is decided for the mesh gets into the record by it."""

    def __init__(self, record: RecordSide, duties: Duties) -> None:
        self._record = record
        self._ledger = record.ledger
        self._duties = duties

    @property
    def state(self) -> RecordState:
        return self._ledger.state

    def runs(self) -> bool:
        return self._ledger.driver is not None

    def leads(self) -> bool:
        driver = self._ledger.driver
        if driver is None:
            return False
        status = driver.status()
        return status.role is Role.LEADER and status.ready

    def trouble(self) -> str:
        return self._record.report().problem

    async def now_unix_ms(self) -> int:
        return await self._duties.now_unix_ms()

    async def execute(
        self, command: Command, timeout_s: float = limits.COMMAND_S
    ) -> dict[str, Any]:
        return await self._ledger.execute(command, timeout_s)

    async def read_barrier(self, timeout_s: float = limits.PROPOSE_S) -> int:
        return await self._ledger.read_barrier(timeout_s)
