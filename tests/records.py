"""A record without Raft, for tests of those who use one: one order of commands, applied at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from meshd import limits
from meshd.errors import MeshdError
from meshd.ids import NodeId
from meshd.record import Entry, RecordState, encode
from meshd.record.commands_registry import Command, Found, Started, Tick
from meshd.record.results import read

NO_QUORUM = "2 of its 3 voters are needed, and 1 can be reached from here. Away: b, c."


class SharedRecord:
    """The log, and who reads it."""

    def __init__(self, found: Found) -> None:
        self.entries: list[bytes] = []
        self.members: dict[NodeId, MemberRecord] = {}
        self.append(encode(Entry(found)))

    def member(self, node: NodeId) -> MemberRecord:
        """That node's part; it has all that is in the log."""
        if node not in self.members:
            self.members[node] = MemberRecord(self, node)
            self.members[node].catch_up()
        return self.members[node]

    def append(self, data: bytes) -> None:
        """Commit, and apply wherever the record reaches."""
        self.entries.append(data)
        for member in list(self.members.values()):
            if member.reached:
                member.catch_up()

    def tick(self, unix_ms: int) -> None:
        """Time passes."""
        self.append(encode(Entry(Tick(unix_ms=unix_ms, elapsed_ms=unix_ms))))


class MemberRecord:
    """`peers.mesh_record.MeshRecord` of one member."""

    def __init__(self, shared: SharedRecord, node: NodeId) -> None:
        self.state = RecordState()
        self.reached = True
        """Whether entries are applied here as they are committed."""
        self.quorum = True
        """Whether this node can write."""
        self.is_open = True
        """Whether it runs here."""
        self.is_leader = False
        self.results: dict[int, bytes] = {}
        self.on_applied: Callable[[RecordState], None] = lambda state: None
        self.node = node
        self._shared = shared
        self._seq = 0

    def catch_up(self) -> None:
        """Apply what is missing."""
        for index in range(self.state.index + 1, len(self._shared.entries) + 1):
            self.results[index] = self.state.apply(index, self._shared.entries[index - 1])
        self.on_applied(self.state)

    def runs(self) -> bool:
        return self.is_open

    def leads(self) -> bool:
        return self.is_leader

    def trouble(self) -> str:
        return "" if self.quorum else NO_QUORUM

    async def now_unix_ms(self) -> int:
        await trio.lowlevel.checkpoint()
        return self.state.clock.now_unix_ms

    async def execute(
        self, command: Command, timeout_s: float = limits.COMMAND_S
    ) -> dict[str, Any]:
        if not self.quorum:
            await trio.sleep(timeout_s)
            raise MeshdError(f"That could not be written into the record: {NO_QUORUM}")
        await trio.lowlevel.checkpoint()
        return self.commit(command)

    def commit(self, command: Command) -> dict[str, Any]:
        """`execute` at once."""
        if self._seq == 0:
            boot = self.node.encode()[:16]
            self._append(Entry(Started(node=self.node, generation=1, boot=boot)))
        self._seq += 1
        entry = Entry(command, client=self.node, epoch=1, seq=self._seq, ack_below=self._seq)
        return read(self._append(entry))

    def _append(self, entry: Entry) -> bytes:
        self._shared.append(encode(entry))
        index = len(self._shared.entries)
        if index not in self.results:
            self.catch_up()  # whoever wrote reads what it wrote
        return self.results[index]

    async def read_barrier(self, timeout_s: float = limits.PROPOSE_S) -> int:
        if not self.quorum:
            await trio.sleep(timeout_s)
            raise MeshdError("no majority answers")
        await trio.lowlevel.checkpoint()
        self.catch_up()
        return self.state.index
