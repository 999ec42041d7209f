"""Nodes of the record in virtual time: real kernels, journals and reducers on simulated machines.

Network, links and time are those of `raft_world`; the disk is a `MemoryDisk` that forgets what was
not synced, tears the last write, fills up and fails; the machine is the record's state.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

from meshd.consensus.entries import Snapshot, Stored
from meshd.consensus.history import History as StartHistory
from meshd.consensus.interface import CommandTooLarge, Outbox
from meshd.consensus.journal import JournalDamaged, JournalFailed, JournalUnusable, Owner
from meshd.consensus.outcomes import Outcome, Readable
from meshd.consensus.snapshot_parts import Taken
from meshd.consensus.voter_list import founding_records
from meshd.errors import DiskFailed, ProtocolError
from meshd.identity.keys import PublicKey
from meshd.ids import MeshId, NodeId
from meshd.jobs.leases import Leases
from meshd.ledger.machine import RecordMachine
from meshd.record.commands_registry import NodeFields
from meshd.record.events import ClockMoved, Event
from meshd.record.state import RecordState
from tests.joins import make_key
from tests.sim.raft_nodes import Node, short
from tests.sim.raft_world import World
from tests.sim.record_disk import JournalDisk
from tests.sim.record_judge import RecordJudge
from tests.sim.record_sessions import SimSession

START_UNIX_S = 1_790_000_000.0
CA = make_key("ca").public
MESH = MeshId(CA.mesh)


@cache
def key_of(number: int) -> PublicKey:
    return make_key(f"simulated {number}").public


class Watched(RecordMachine):
    """The record's machine, of which each command is judged."""

    def __init__(self, judge: RecordJudge, node: RecordNode) -> None:
        super().__init__()
        self._judge = judge
        self._node = node

    def apply(self, index: int, command: bytes) -> bytes:
        result = super().apply(index, command)
        events = self.take_events()
        self._node.note(result)
        self._judge.carried_out(self._node.id, self.state, command, result, events)
        self._node.happened(events)
        return result


class RecordNode(Node):
    """A machine with a journal, and what a daemon does on it."""

    disk: JournalDisk  # type: ignore[assignment]
    machine: Watched  # type: ignore[assignment]
    session: SimSession

    def __init__(self, number: int, disk: JournalDisk, speed: float, offset_s: float) -> None:
        super().__init__(key_of(number).node, disk, speed, offset_s)  # type: ignore[arg-type]
        self.number = number
        self.note: Callable[[bytes], None] = lambda data: None
        """For the trace."""
        self.leases = Leases()
        self.leads_in = -1
        self.wall_ahead_s = 0.0
        """Of its wall clock."""
        self.held: dict[int, int] = {}
        """Jobs that this life was given, and their fences."""
        self.clock_moved_at = 0.0
        """When the record clock moved, by the node's own; as it has seen it in this life."""
        self.now = 0.0
        """By its own steady clock, when it was last called."""

    def history(self, others: tuple[NodeId, ...]) -> StartHistory:
        return StartHistory(
            starts_known=self.disk.starts_known,
            others=tuple(other for other in others if other != self.id),
            generation_of=self._newest_start,
        )

    def _newest_start(self, node: NodeId) -> int:
        row = self.state.nodes.get(node)
        return row.generation if row is not None else 0

    @property
    def state(self) -> RecordState:
        return self.machine.state

    @property
    def name(self) -> str:
        """Of this life, as histories have it."""
        return f"{short(self.id)}{self.lives}"

    def fields(self) -> NodeFields:
        return NodeFields(key=key_of(self.number).der, name=f"node-{self.number}")

    def happened(self, events: list[Event]) -> None:
        for event in events:
            self.leases.happened(event, self.now)
            if isinstance(event, ClockMoved):
                self.clock_moved_at = self.now

    def wall_unix_s(self, now: float) -> float:
        return START_UNIX_S + now * self.speed + self.wall_ahead_s


class RecordWorld(World):
    """A few of them."""

    judge: RecordJudge
    nodes: dict[NodeId, RecordNode]  # type: ignore[assignment]

    def __init__(
        self, seed: int, founders: int, others: int = 0, trace: bool = False, asks: bool = False
    ) -> None:
        self.marks: Counter[str] = Counter()
        """What happened that does not happen always: `sometimes`."""
        self.seed = seed
        super().__init__(seed, founders, others, trace, asks)

    def sometimes(self, what: str) -> None:
        """A run of many seeds in which this never happens has not tested it."""
        self.marks[what] += 1

    # --- what it is made of

    def _make_judge(self) -> RecordJudge:
        return RecordJudge()

    def _make_ids(self, count: int) -> list[NodeId]:
        return [key_of(number).node for number in range(count)]

    def _make_node(self, node: NodeId) -> RecordNode:
        number = self.ids.index(node)
        disk = JournalDisk(
            Owner(MESH, node),
            founding_records(self.founders) if node in self.founders else (),
            random.Random(f"disk {self.seed} {number}"),
        )
        made = RecordNode(
            number, disk, self.chance.uniform(0.99, 1.01), self.chance.uniform(0, 1e6)
        )
        made.note = self._note_result
        return made

    def _note_result(self, result: bytes) -> None:
        if self._trace is not None:
            self._trace.update(result)

    def _boot(self, node: Node) -> Stored | None:
        assert isinstance(node, RecordNode)
        node.disk.files.release()
        try:
            opened = node.disk.open()
        except DiskFailed:
            self.sometimes("a start on a full disk")
            self.after(self.chance.uniform(0.3, 1.0), self.start, node.id)
            return None
        except JournalUnusable as error:
            self.judge.violation("a journal that nobody damaged is refused", node.id, error)
            return None
        if opened.cut is not None:
            self.sometimes("a torn write is cut")
        if any("snapshot" in name for name in opened.swept):
            self.sometimes("a snapshot that does not count is swept")
        node.machine = Watched(self.judge, node)
        node.leases, node.leads_in, node.held = Leases(), -1, {}
        node.clock_moved_at = node.now = node.clock(self.now)
        node.session = SimSession(self, node)
        if opened.stored.snapshot is not None:
            for _ in node.machine.prepare(node.disk.shelf.state(opened.stored.snapshot.point)):
                pass
            node.machine.become()
            self.sometimes("a start from a snapshot")
        return opened.stored

    def _lose_power(self, node: Node) -> None:
        assert isinstance(node, RecordNode)
        if node.syncing is not None and node.syncing.records:
            self.sometimes("power lost while a write is under way")
        node.disk.lose_power(node.syncing.records if node.syncing is not None else ())

    def _write(self, node: Node, outbox: Outbox) -> bool:
        assert isinstance(node, RecordNode)
        try:
            node.disk.write(outbox.records)
        except JournalFailed as error:
            full = "full" in str(error)
            self.sometimes("a write fails on a full disk" if full else "a sync fails")
            self.stop(node)
            self.after(self.chance.uniform(0.3, 2.0), self.start, node.id)
            return False
        return True

    def _take_in(self, node: Node, outbox: Outbox) -> Snapshot | None:
        assert isinstance(node, RecordNode)
        try:
            return node.disk.shelf.take_in(outbox.pieces)
        except DiskFailed:
            self.sometimes("a leader's snapshot finds the disk full")
            assert node.kernel is not None
            node.kernel.abandon(node.clock(self.now))
            return None

    def stop(self, node: RecordNode) -> None:
        """The process ends, as it does when its disk failed; the machine stays on."""
        self.say(f"{short(node.id)} stops")
        node.disk.journal.close()
        node.disk.files.release()
        self._end(node.id)

    def damaged_is_refused(self, node: RecordNode) -> None:
        """While a node is down, a bit of what it has acknowledged turns; then it turns back."""
        where = node.disk.durable_middle()
        if node.kernel is not None or where is None:
            return
        node.disk.flip(*where)
        before = dict(node.disk.files.files)
        try:
            node.disk.files.release()
            node.disk.open()
        except JournalDamaged:
            self.sometimes("a damaged journal is refused")
        except DiskFailed:
            pass
        else:
            self.judge.violation("a damaged journal is used", node.id, where)
        if node.disk.files.files != before:
            self.judge.violation("a damaged journal is changed", node.id, where)
        node.disk.flip(*where)

    # --- snapshots

    def _snapshot_stored(self, node: Node, life: int, taken: Taken) -> None:
        try:
            super()._snapshot_stored(node, life, taken)
        except DiskFailed:
            self.sometimes("a snapshot finds the disk full")

    def _arrived(self, node: Node, life: int, snapshot: Snapshot) -> None:
        try:
            super()._arrived(node, life, snapshot)
        except (DiskFailed, ProtocolError):
            if node.kernel is not None:
                node.kernel.abandon(node.clock(self.now))

    def _built(self, node: Node, life: int, snapshot: Snapshot) -> None:
        super()._built(node, life, snapshot)
        if node.lives == life and node.kernel is not None:
            self.sometimes("a leader's snapshot is installed")

    # --- time and clients

    def after_in(
        self, node: RecordNode, delay_s: float, do: Callable[..., None], *args: Any
    ) -> None:
        """Later, if that node still lives the same life then."""
        self.after(delay_s, self._in_life, node, node.lives, do, args)

    def _in_life(
        self, node: RecordNode, life: int, do: Callable[..., None], args: tuple[Any, ...]
    ) -> None:
        if node.lives == life and node.kernel is not None:
            do(*args)

    def turn(self, node: Node) -> None:
        assert isinstance(node, RecordNode)
        node.now = node.clock(self.now)
        super().turn(node)

    def propose_data(
        self, node: RecordNode, data: bytes, timeout_s: float, answered: Callable[[Outcome], None]
    ) -> None:
        """Have a command committed; `answered` gets the outcome."""
        if node.kernel is None:
            return
        self.proposed += 1
        try:
            number = node.kernel.propose(data, node.clock(self.now), timeout_s)
        except CommandTooLarge:
            self.judge.violation("a client's command is too large", node.id, len(data))
            return
        node.open[number] = ("proposal", answered, self.now)
        self._call_off_later(node, number, timeout_s)
        self.turn(node)

    def look(self, node: RecordNode, seen: Callable[[], None], timeout_s: float = 3.0) -> None:
        """A linearizable read: `seen` is called when the state may be looked at."""
        if node.kernel is None:
            return
        self.asked += 1
        number = node.kernel.read_index(node.clock(self.now), timeout_s)
        acknowledged = self.judge.newest_acknowledged
        node.open[number] = ("read", (acknowledged, seen), self.now)
        self._call_off_later(node, number, timeout_s)
        self.turn(node)

    def _tell_outcomes(self, node: Node, outbox: Outbox) -> None:
        assert isinstance(node, RecordNode)
        for outcome in outbox.outcomes:
            what, asked, _ = node.open.pop(outcome.id, ("", None, 0.0))
            if what == "proposal":
                self._note(outcome)
                self.after_in(node, 0.0, asked, outcome)
            elif what == "read" and isinstance(outcome, Readable):
                self.judge.read(node.id, asked[0], outcome.index)
                asked[1]()  # at once: the state is as it is now

    def _note(self, outcome: Outcome) -> None:
        index = getattr(outcome, "index", 0)
        self.judge.newest_acknowledged = max(self.judge.newest_acknowledged, index)
        self.judge.acknowledgements += bool(index)
        self.judge.unknown += not index
