"""Nodes that keep blobs, in virtual time: disks in memory, and links that can be cut."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import PurePath

import trio

from meshd import limits
from meshd.errors import DialFailed, MeshdError, Refused
from meshd.ids import NodeId
from meshd.jobs.blobs import Blobs, Record
from meshd.testing.disk import MemoryDisk
from meshd.wire import control
from meshd.wire.control import Message
from meshd.wire.control_record import BlobPart, BlobRequest

LATENCY_S = 0.001
FOLDER = PurePath("/data/record/mesh.blobs")
HOUR_MS = 3_600_000
START_MS = 1_790_000_000_000

SMALL = b"small " * 1000
LARGE = random.Random(1).randbytes(5 * limits.BLOB_PART_BYTES + 17)
SIZES = [1, limits.BLOB_PART_BYTES, limits.BLOB_PART_BYTES + 1, len(LARGE)]


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def node_id(letter: str) -> NodeId:
    return NodeId(letter * 26)


class BlobNode:
    """One machine: its disk outlives its daemon."""

    def __init__(self, town: BlobTown, name: str) -> None:
        self.town, self.name, self.id = town, name, node_id(name)
        self.disk = MemoryDisk(chance=random.Random(f"{town.seed} {name}"))
        self.blobs: Blobs | None = None
        self.heard: list[Message] = []
        self.answer: Callable[[NodeId, Message], Message] | None = None
        """What it says instead of the truth."""
        self.is_behind = False
        """It has heard nothing of the record for long."""
        self._scope = trio.CancelScope()

    @property
    def runs(self) -> Blobs:
        assert self.blobs is not None
        return self.blobs

    def start(self) -> None:
        """Begin a life of it."""
        town = self.town
        self.blobs = Blobs(
            self.disk,
            FOLDER,
            self.id,
            Record(
                voters=lambda: [node_id(v) for v in town.voters],
                index=lambda: town.index,
                now_ms=lambda: town.now_ms,
                named=lambda: iter([list(() if self.is_behind else town.named)]),
                barrier=self._barrier,
            ),
            linked=lambda: [n.id for n in town.nodes.values() if town.is_linked(self, n)],
            ask=self._ask,
            choose=random.Random(town.seed).randrange,
        )
        self._scope = trio.CancelScope()
        town.nursery.start_soon(self._live, self.blobs, self._scope)

    async def _live(self, blobs: Blobs, scope: trio.CancelScope) -> None:
        with scope:
            await blobs.run()

    def kill(self, *, power: bool = False) -> None:
        """End it without a word; `power` takes what was not synced with it."""
        self._scope.cancel()
        self.blobs = None
        self.disk.release()
        if power:
            self.disk.lose_power()

    def files(self) -> set[bytes]:
        """The digests that its disk has files of."""
        return {bytes.fromhex(path.name) for path in self.disk.files if len(path.name) == 64}

    async def _barrier(self) -> None:
        await trio.sleep(LATENCY_S)
        if self.is_behind:
            raise MeshdError("no majority of the voters is there")

    async def _ask(self, to: NodeId, message: Message, timeout_s: float) -> Message:
        """As `ControlLinks.request`: what is asked and answered goes over the wire as bytes."""
        other = next(n for n in self.town.nodes.values() if n.id == to)
        with trio.move_on_after(timeout_s):
            data = control.encode(message, 1)
            await trio.sleep(LATENCY_S)
            if not self.town.is_linked(self, other):
                raise DialFailed(f"node {other.name} cannot be reached now")
            if other.name in self.town.silent:
                await trio.sleep_forever()
            answer = await other.hear(self.id, control.decode(data)[0])
            await trio.sleep(LATENCY_S)
            if isinstance(answer, control.Refusal):
                raise Refused(answer.message)
            return control.decode(control.encode(answer, 1))[0]
        raise DialFailed(f"node {other.name} did not answer")

    async def hear(self, sender: NodeId, message: Message) -> Message:
        self.heard.append(message)
        if self.answer is not None:
            return self.answer(sender, message)
        try:
            if isinstance(message, BlobPart):
                return await self.runs.take_part(sender, message)
            assert isinstance(message, BlobRequest)
            return await self.runs.give_part(sender, message)
        except MeshdError as error:
            return control.Refusal(code=type(error).__name__, message=str(error))


class BlobTown:
    """All of them, and what they agree on."""

    def __init__(self, nursery: trio.Nursery, names: str, voters: str, seed: int) -> None:
        self.nursery, self.voters, self.seed = nursery, voters, seed
        self.index = 1
        self.now_ms = START_MS
        self.named: set[bytes] = set()
        self.silent: set[str] = set()
        """These hear and do not answer."""
        self._cut: set[str] = set()
        self.nodes = {name: BlobNode(self, name) for name in names}

    def __getitem__(self, name: str) -> BlobNode:
        return self.nodes[name]

    def is_linked(self, a: BlobNode, b: BlobNode) -> bool:
        up = a is not b and a.blobs is not None and b.blobs is not None
        return up and (a.name in self._cut) == (b.name in self._cut)

    def cut(self, *names: str) -> None:
        """Cut these off from all others (not from each other); without names: all links are up."""
        self._cut = set(names)

    def names(self, *digests: bytes) -> None:
        """From now on the record names these alone."""
        self.named = set(digests)
        self.index += 1

    def tick(self, milliseconds: int) -> None:
        """The record clock moves."""
        self.now_ms += milliseconds
        self.index += 1

    def having(self, digest: bytes) -> str:
        """Who has a file of it."""
        return "".join(name for name, node in self.nodes.items() if digest in node.files())


@asynccontextmanager
async def blob_nodes(
    names: str = "abc", *, voters: str = "abc", seed: int = 1
) -> AsyncIterator[BlobTown]:
    """Nodes of these names, all started."""
    async with trio.open_nursery() as nursery:
        town = BlobTown(nursery, names, voters, seed)
        for node in town.nodes.values():
            node.start()
        await trio.sleep(0.01)
        yield town
        nursery.cancel_scope.cancel()


async def looked(town: BlobTown) -> None:
    """Long enough that each node has looked at what the record names."""
    town.index += 1
    await trio.sleep(limits.BLOB_LOOK_S + 60)
