"""Kernels in a test's hands: each has a disk and a state machine, the test has time and network."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from meshd.consensus.entries import Record, Snapshot, Stored
from meshd.consensus.interface import Settings
from meshd.consensus.kernel import Kernel
from meshd.consensus.messages import Message, decode, encode
from meshd.consensus.outcomes import Committed, Outcome
from meshd.consensus.replay import EMPTY, align, replay
from meshd.consensus.voter_list import founding_records
from meshd.errors import ProtocolError
from meshd.ids import NodeId
from tests.snapshot_shelf import Shelf

SETTINGS = Settings(heartbeat_s=0.1, election_min_s=1.0, election_max_s=2.0)


def node_id(name: str) -> NodeId:
    """A letter as a node id."""
    return NodeId(name * 26)


def ids(names: str) -> tuple[NodeId, ...]:
    return tuple(node_id(name) for name in names)


def resized(**sizes: float) -> Settings:
    """The settings of these tests with some changed."""
    return msgspec.structs.replace(SETTINGS, **sizes)


class Machine:
    """Remembers commands; `poison` raises."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []
        self.tried = 0

    def apply(self, index: int, command: bytes) -> bytes:
        self.tried += 1
        if command == b"poison":
            raise ValueError("this command cannot be applied")
        self.commands.append(command)
        return b"%d at %d" % (len(self.commands), index)

    def why_not(self, command: bytes) -> str | None:
        return "this command is of a later version" if command == b"later" else None

    def capture(self) -> Iterator[bytes]:
        return iter([b"\n".join(self.commands)])

    def prepare(self, state: Iterable[bytes]) -> Iterator[None]:
        whole = b"".join(state)
        if whole == b"broken":
            raise ValueError("this state cannot be restored")
        if whole == b"damaged":
            raise ProtocolError("this state is damaged")
        yield
        self.prepared = whole.split(b"\n") if whole else []

    def become(self) -> None:
        self.commands = self.prepared


class Host:
    """One node: what is on its disk, and its kernel."""

    def __init__(self, mesh: Mesh, name: str, stored: Stored) -> None:
        self.mesh = mesh
        self.name = name
        self.id = node_id(name)
        self.stored = stored
        self.snapshot: Snapshot | None = None
        """The newest that is durable."""
        self.shelf = Shelf()
        self.synced_records: list[Record] = []
        self.lives = 0
        self.start()

    def start(self) -> None:
        """(Re)start from the disk."""
        self.lives += 1
        if self.snapshot is not None:
            self.stored = align(self.stored, self.snapshot)
        self.machine = Machine()
        self.shelf.bring_up(self.machine, self.stored.snapshot)
        self.outcomes: dict[int, Outcome] = {}
        self.kernel = Kernel(
            self.id,
            self.stored,
            self.machine,
            chance=random.Random(f"{self.name} {self.lives}"),
            now=self.mesh.now,
            eligible=self.mesh.eligible,
            settings=self.mesh.settings,
        )

    def flush(self) -> None:
        """Carry out the outbox: early messages, disk, late messages, parts, outcomes."""
        outbox = self.kernel.take_outbox()
        for out in outbox.early:
            self.mesh.post(self, out.to, out.message)
        arrived = self.shelf.take_in(outbox.pieces)
        self.stored = replay(self.stored, outbox.records, self.shelf.durable.values())
        self.synced_records += outbox.records
        if outbox.must_sync:
            self.kernel.stored()
        for out in outbox.late:
            self.mesh.post(self, out.to, out.message)
        for wanted in outbox.parts:
            self.mesh.post(self, wanted.to, self.shelf.read(wanted))
        self.outcomes |= {outcome.id: outcome for outcome in outbox.outcomes}
        if arrived is not None:
            self.install(arrived)

    def install(self, snapshot: Snapshot) -> None:
        """What a driver does with a leader's snapshot that is durable."""
        try:
            for _ in self.kernel.prepare(snapshot, [self.shelf.states[snapshot.point]]):
                pass
        except ProtocolError:
            self.kernel.abandon(self.mesh.now)
            return
        self.kernel.install(snapshot, self.mesh.now)
        self.snapshot = self.kernel.snapshots.current
        self.flush()

    def turn(self) -> None:
        """Step and flush until there is nothing to do at this moment."""
        for _ in range(1000):
            self.kernel.step(self.mesh.now)
            self.flush()
            if self.kernel.next_wake() > self.mesh.now:
                return
        raise AssertionError("the kernel never rests")

    def snap(self) -> Snapshot:
        """Take a snapshot, store it, and compact."""
        taken = self.kernel.take_snapshot()
        assert taken is not None
        self.snapshot = self.shelf.save(taken)
        self.kernel.compact(self.snapshot, self.mesh.now)
        self.flush()
        return self.snapshot

    @property
    def terms(self) -> list[int]:
        """Terms of the entries in memory."""
        log = self.kernel.log
        return [row[2] for row in log[1:]]


class Mesh:
    """Hosts named by letters, whose messages wait in `queue` until they are delivered."""

    def __init__(
        self, names: str = "abc", joiners: str = "", settings: Settings = SETTINGS
    ) -> None:
        self.now = 1000.0
        self.settings = settings
        self.queue: deque[tuple[str, str, Message]] = deque()
        self.log: list[tuple[str, str, Message]] = []
        """Everything that was ever sent."""
        self.cuts: set[frozenset[str]] = set()
        self.strangers: set[str] = set()
        founded = replay(EMPTY, founding_records(ids(names)))
        self.hosts = {n: Host(self, n, founded) for n in names}
        self.hosts |= {n: Host(self, n, EMPTY) for n in joiners}
        self.relink()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def kernel(self, name: str) -> Kernel:
        return self.hosts[name].kernel

    def eligible(self, peer: NodeId) -> bool:
        return peer[0] in self.hosts and peer[0] not in self.strangers

    # --- network

    def relink(self) -> None:
        for a, host in self.hosts.items():
            for b in self.hosts:
                up = a != b and frozenset((a, b)) not in self.cuts
                was_up = node_id(b) in host.kernel.wire.connected
                if up and not was_up:
                    host.kernel.connected(node_id(b), self.now)
                elif was_up and not up:
                    host.kernel.disconnected(node_id(b), self.now)

    def cut(self, a: str, others: str) -> None:
        self.cuts |= {frozenset((a, b)) for b in others}
        self.relink()

    def heal(self, a: str, others: str) -> None:
        self.cuts -= {frozenset((a, b)) for b in others}
        self.relink()

    def restart(self, name: str) -> None:
        """Stop without a word, start from the disk, with new links."""
        for host in self.hosts.values():
            if host.name != name:
                host.kernel.disconnected(node_id(name), self.now)
        self.hosts[name].start()
        self.relink()

    def post(self, sender: Host, to: NodeId, message: Message) -> None:
        copy = decode(encode(message))
        self.log.append((sender.name, to[0], copy))
        self.queue.append((sender.name, to[0], copy))

    def hand(self, sender: str, to: str, message: Message) -> None:
        """Deliver one message, whatever the network is like."""
        self.hosts[to].kernel.on_message(node_id(sender), message, self.now)

    def deliver(self, drop: Callable[[str, str, Message], bool] | None = None) -> None:
        """Deliver all that waits and what comes of it; what `drop` says yes to is lost."""
        for _ in range(100_000):
            if not self.queue:
                return
            sender, to, message = self.queue.popleft()
            if frozenset((sender, to)) in self.cuts or (drop and drop(sender, to, message)):
                continue
            self.hand(sender, to, message)
            self.hosts[to].turn()
        raise AssertionError("messages go to and fro for ever")

    def take(self, kind: type[Message], sender: str = "", to: str = "") -> list[Any]:
        """Remove the waiting messages of a kind, and return them."""
        found = [
            item for item in self.queue
            if isinstance(item[2], kind) and sender in ("", item[0]) and to in ("", item[1])
        ]  # fmt: skip
        self.queue = deque(item for item in self.queue if item not in found)
        return [message for _, _, message in found]

    # --- time

    def tick(self, who: Iterable[str] | None = None, dt: float = 0.1) -> None:
        self.now += dt
        for name in sorted(who if who is not None else self.hosts):
            self.hosts[name].turn()

    def settle(self, rounds: int = 3, who: str | None = None) -> None:
        for _ in range(rounds):
            self.tick(who)
            self.deliver()

    def elect(self, who: str) -> None:
        """Make this node the leader: handed over if one can be reached, otherwise by time."""
        leader = next((n for n in self.hosts if self.leads(n) and self.linked(n, who)), None)
        if leader is not None:
            self.hosts[leader].kernel.transfer(node_id(who), self.now)
        else:
            for host in self.hosts.values():
                host.kernel.elections._heard_at = -1e9
                host.kernel.stock.deadline = self.now + 1e6
            self.hosts[who].kernel.stock.deadline = self.now
        self.settle()
        assert self.leads(who)

    def leads(self, name: str) -> bool:
        return self.kernel(name).status().role == "leader"

    def linked(self, a: str, b: str) -> bool:
        return a != b and frozenset((a, b)) not in self.cuts

    # --- clients

    def propose(self, who: str, command: bytes, timeout_s: float = 3.0) -> int:
        return self.hosts[who].kernel.propose(command, self.now, timeout_s)

    def commit(self, who: str, *commands: bytes) -> None:
        """Propose, and wait until they are committed everywhere that can be reached."""
        wanted = [self.propose(who, command) for command in commands]
        self.hosts[who].turn()
        self.deliver()
        outcomes = self.hosts[who].outcomes
        assert all(isinstance(outcomes.get(number), Committed) for number in wanted), outcomes


SMALL = {"trailing": 0, "chunk_bytes": 16}
"""Sizes with which a log is all snapshot, and a snapshot is many parts."""


def behind(commands: int = 40, **sizes: int) -> Mesh:
    """`a` leads, has compacted its log, and `c` has nothing of it."""
    mesh = Mesh(settings=resized(**{**SMALL, **sizes}))
    mesh.elect("a")
    mesh.cut("c", "ab")
    mesh.commit("a", *[b"command %d" % n for n in range(commands)])
    mesh["a"].snap()
    return mesh
