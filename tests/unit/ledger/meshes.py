"""Ledgers of several nodes in virtual time; links can be cut, machines lose power."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import PurePath

import trio

from meshd.consensus.interface import LAN, Settings
from meshd.consensus.journal import set_aside
from meshd.consensus.voters import Standing
from meshd.errors import DialFailed
from meshd.ids import MeshId, NodeId
from meshd.ledger.electorate import Machine
from meshd.ledger.ledger import Ledger
from meshd.ledger.place import Place
from meshd.ledger.remedies import Patient
from meshd.ports import Ports
from meshd.record.commands_registry import Adopt, Found, NodeFields
from meshd.record.events import Event
from meshd.record.state import RecordState
from meshd.testing.clock import SimClock
from meshd.testing.database import MemoryDatabases
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy
from meshd.testing.machine import SimHost
from meshd.testing.world import until
from tests.joins import NOW_UNIX_S, make_key

LATENCY_S = 0.001
CA = make_key("ca").public
FOLDER = PurePath("/data/record")


class LedgerNode:
    """One machine: its disk outlives its ledger."""

    def __init__(self, mesh: LedgerMesh, name: str) -> None:
        self.mesh, self.name = mesh, name
        self.key = make_key(name).public
        self.id: NodeId = self.key.node
        self.disk = MemoryDisk()
        self.machine = Machine(uptime_s=3 * 86400.0)
        self.standing = Standing.ALIVE
        self.away_since = 0.0
        self.generation = 0
        self.events: list[Event] = []
        self.listeners: list[Callable[[list[Event]], None]] = []
        """Whoever else is told of its events."""
        self.ledger: Ledger | None = None
        self._life: trio.CancelScope | None = None

    @property
    def runs(self) -> Ledger:
        assert self.ledger is not None
        return self.ledger

    @property
    def state(self) -> RecordState:
        return self.runs.state

    @property
    def place(self) -> Place:
        return Place(self.id, MeshId(CA.mesh), self.generation, FOLDER)

    @property
    def void(self) -> bool:
        """Its vote is."""
        return self.disk.size(self.place.void_mark) is not None

    def fields(self) -> NodeFields:
        return NodeFields(key=self.key.der, name=self.name)

    def start(self) -> None:
        """Begin a life of it."""
        self.generation += 1
        mesh = self.mesh
        ports = Ports(
            None,  # type: ignore[arg-type]
            SimClock(),
            self.disk,
            SeededEntropy(f"{mesh.seed} {self.name} {self.generation}"),
            None,  # type: ignore[arg-type]
            SimHost(),
            MemoryDatabases(),
        )
        self.ledger = Ledger(
            ports,
            self.place,
            mesh.members_for(self),
            send=lambda to, messages: mesh.send(self, to, messages),
            linked=lambda: [n.id for n in mesh.nodes.values() if mesh.is_linked(self, n)],
            eligible=lambda node: node in {n.id for n in mesh.nodes.values()},
            founding=lambda: mesh.founding() if self.name == mesh.founder else None,
            missing=mesh.missing,
            machine=lambda: self.machine,
            on_events=self._happened,
            settings=mesh.settings,
        )
        self.standing = Standing.ALIVE
        mesh.nursery.start_soon(self._live)
        mesh.links_changed(self)

    def _happened(self, events: list[Event]) -> None:
        self.events.extend(events)
        for tell in self.listeners:
            tell(events)

    async def _live(self) -> None:
        with trio.CancelScope() as self._life:
            await self.runs.run()

    def kill(self, *, power: bool = False) -> None:
        """End it without a word; `power` takes what was not synced with it."""
        assert self._life is not None
        self._life.cancel()
        self.ledger = None
        self.standing, self.away_since = Standing.FAILED, trio.current_time()
        if power:
            self.disk.lose_power()
        self.mesh.links_changed(self)


class _Members:
    def __init__(self, mesh: LedgerMesh, node: LedgerNode) -> None:
        self._mesh, self._node = mesh, node

    def members(self) -> list[NodeId]:
        return [node.id for node in self._mesh.nodes.values()]

    def standing(self, node: NodeId) -> tuple[Standing, float]:
        other = self._mesh.by_id(node)
        away_s = trio.current_time() - other.away_since
        return other.standing, 0.0 if other.standing is Standing.ALIVE else away_s

    async def machine(self, node: NodeId) -> Machine:
        other = self._mesh.by_id(node)
        if not self._mesh.is_linked(self._node, other):
            raise DialFailed(f"{other.name} does not answer")
        await trio.sleep(2 * LATENCY_S)
        return other.runs.own_machine()


class LedgerMesh:
    """All of them."""

    def __init__(
        self,
        nursery: trio.Nursery,
        names: str,
        founder: str,
        seed: int,
        settings: Settings = LAN,
    ) -> None:
        self.nursery, self.founder, self.seed = nursery, founder, seed
        self.settings = settings
        self.nodes = {name: LedgerNode(self, name) for name in names}
        self._cut: set[frozenset[str]] = set()
        self._up: set[tuple[str, str]] = set()

    def __getitem__(self, name: str) -> LedgerNode:
        return self.nodes[name]

    def by_id(self, node: NodeId) -> LedgerNode:
        return next(n for n in self.nodes.values() if n.id == node)

    def members_for(self, node: LedgerNode) -> _Members:
        return _Members(self, node)

    def founding(self) -> Found:
        node = self.nodes[self.founder]
        return Found(
            mesh=CA.mesh, mesh_name="home", ca_key=CA.der, node=node.fields(),
            unix_ms=1_790_000_000_000, gossip_key=1,
        )  # fmt: skip

    def missing(self, state: RecordState) -> Adopt | None:
        lacking = [n.fields() for n in self.nodes.values() if state.nodes.get(n.id) is None]
        return Adopt(nodes=tuple(lacking)) if lacking else None

    # --- links

    def is_linked(self, a: LedgerNode, b: LedgerNode) -> bool:
        return (
            a is not b
            and a.ledger is not None
            and b.ledger is not None
            and frozenset((a.name, b.name)) not in self._cut
        )

    def cut(self, *names: str) -> None:
        """Cut these off from all others (not from each other)."""
        self._cut = {frozenset((a, b)) for a in names for b in self.nodes if b not in names}
        self._links_changed()

    def heal(self) -> None:
        """All links are up again."""
        self._cut = set()
        self._links_changed()

    def links_changed(self, node: LedgerNode) -> None:
        """That node started or ended: each link of it is another one."""
        self._up = {pair for pair in self._up if node.name not in pair}
        self._links_changed()

    def _links_changed(self) -> None:
        nodes = self.nodes.values()
        up = {(a.name, b.name) for a in nodes for b in nodes if self.is_linked(a, b)}
        for a, b in sorted(self._up - up):
            if (ledger := self.nodes[a].ledger) is not None:
                ledger.disconnected(self.nodes[b].id)
        for a, b in sorted(up - self._up):
            self.nodes[a].runs.connected(self.nodes[b].id)
        self._up = up

    def send(self, sender: LedgerNode, to: NodeId, messages: Sequence[bytes]) -> None:
        receiver = self.by_id(to)
        if self.is_linked(sender, receiver):
            due_at = trio.current_time() + LATENCY_S
            lives = (sender.generation, receiver.generation)
            self.nursery.start_soon(self._deliver, sender, receiver, messages, due_at, lives)

    async def _deliver(
        self,
        sender: LedgerNode,
        receiver: LedgerNode,
        messages: Sequence[bytes],
        due_at: float,
        lives: tuple[int, int],
    ) -> None:
        await trio.sleep_until(due_at)
        same = lives == (sender.generation, receiver.generation)
        if same and self.is_linked(sender, receiver):
            for data in messages:
                receiver.runs.received(sender.id, data)

    # --- looking

    def leader(self) -> LedgerNode | None:
        """Who leads, and knows it, and is followed by a majority."""
        for node in self.nodes.values():
            driver = node.ledger.driver if node.ledger else None
            if driver is not None and driver.status().ready:
                return node
        return None

    def voters(self) -> set[str]:
        """By the leader's log."""
        leader = self.leader()
        if leader is None or leader.runs.driver is None:
            return set()
        return {self.by_id(v).name for v in leader.runs.driver.status().voters}


@asynccontextmanager
async def ledgers(
    names: str = "abc", *, founder: str = "a", seed: int = 1, settings: Settings = LAN
) -> AsyncIterator[LedgerMesh]:
    """A mesh of ledgers, all started."""
    async with trio.open_nursery() as nursery:
        mesh = LedgerMesh(nursery, names, founder, seed, settings)
        for node in mesh.nodes.values():
            node.start()
        yield mesh
        nursery.cancel_scope.cancel()


async def settled(mesh: LedgerMesh, voters: int = 3) -> None:
    """Until so many have a vote."""
    await until(lambda: len(mesh.voters()) == voters, within_s=60.0)


async def agree(mesh: LedgerMesh) -> None:
    """Until all that run have the same state."""
    await until(
        lambda: len({n.state.digest() for n in mesh.nodes.values() if n.ledger}) == 1,
        within_s=30.0,
    )


def aliases(mesh: LedgerMesh, name: str) -> dict[str, str]:
    return mesh[name].state.settings.aliases()


def patient(node: LedgerNode) -> Patient:
    """The node to be mended, which is the founder."""
    return Patient(
        node.disk, node.place, SeededEntropy(node.name), now_unix_s=NOW_UNIX_S, founder=True
    )


def lose_journal(node: LedgerNode) -> None:
    """What `meshd record repair --set-aside` does."""
    set_aside(node.disk, FOLDER)
    node.disk.write(node.place.void_mark, b"", private=True)
