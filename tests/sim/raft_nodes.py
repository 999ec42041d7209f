"""The machines of the simulated voters: an identity, a disk that forgets, a state machine."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from meshd.consensus.entries import Point, Record, Stored
from meshd.consensus.history import Checked, History
from meshd.consensus.interface import Outbox, Settings
from meshd.consensus.kernel import Kernel
from meshd.consensus.replay import align, base_of, replay
from meshd.ids import NodeId
from tests.snapshot_shelf import Shelf

SETTINGS = Settings(
    batch_bytes=512,
    window_bytes=4096,
    chunk_bytes=512,
    per_step=16,
    trailing=8,
    queue=64,
    sign_s=1.0,
)
"""Small sizes, so that everything that only happens to the large happens here too."""


def node_id(number: int) -> NodeId:
    """Ids that sort like the number and look like ids."""
    return NodeId(base64.b32encode((number << 6).to_bytes(17, "big")).decode().lower()[:26])


def short(node: NodeId) -> str:
    """What tells one of them from the others."""
    return node[-1]


class Machine:
    """A state machine whose results and state depend on every command and its place."""

    def __init__(self, applied: Callable[[int, bytes, bytes], None]) -> None:
        self.commands: list[tuple[int, bytes]] = []
        self.digest = b""
        self._applied = applied

    @property
    def starts(self) -> dict[str, int]:
        """The newest start of each node that is on record."""
        words = [command.split(b" ") for _, command in self.commands if command[:6] == b"start "]
        return {word[1].decode(): int(word[2]) for word in words}

    def apply(self, index: int, command: bytes) -> bytes:
        self.commands.append((index, command))
        text = self.digest + index.to_bytes(8, "big") + command
        self.digest = hashlib.blake2b(text, digest_size=8).digest()
        self._applied(index, command, self.digest)
        return self.digest

    def why_not(self, command: bytes) -> str | None:
        return None

    def capture(self) -> Iterator[bytes]:
        return iter([msgspec.msgpack.encode((self.digest, self.commands))])

    def prepare(self, state: Iterable[bytes]) -> Iterator[None]:
        form = tuple[bytes, list[tuple[int, bytes]]]
        self._prepared = msgspec.msgpack.decode(b"".join(state), type=form)
        yield

    def become(self) -> None:
        self.digest, self.commands = self._prepared


class Disk:
    """What is durable: a log, and snapshots, some of which no record names yet."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.shelf = Shelf()
        self.slow_s = 0.0
        self.starts_known = 0
        """The newest start that passed its check."""
        self.vote_is_void = False

    def image(self) -> Disk:
        """All that is durable, as of now."""
        copy = Disk(self.stored)
        copy.shelf.states, copy.shelf.durable = dict(self.shelf.states), dict(self.shelf.durable)
        copy.starts_known, copy.vote_is_void = self.starts_known, self.vote_is_void
        return copy

    def write(self, records: tuple[Record, ...]) -> None:
        self.stored = replay(self.stored, records, self.shelf.durable.values())

    def compact(self, in_use: set[Point]) -> None:
        """What the snapshot of the log stands for goes."""
        base = base_of(self.stored)
        self.shelf.keep([p for p in self.shelf.durable if p.index >= base.index or p in in_use])

    def reopen(self, *, take_up: bool) -> None:
        """What a start finds.  `take_up`: a snapshot that no record names counts.

        The record was lost in a crash, and both ways are right.
        """
        newest = max(self.shelf.durable.values(), key=lambda s: s.point.index, default=None)
        if newest is not None and take_up:
            self.stored = align(self.stored, newest)
        self.shelf.keep([base_of(self.stored)])


class Node:
    """A machine: its disk stays, its kernel comes and goes."""

    def __init__(self, node: NodeId, disk: Disk, speed: float, offset_s: float) -> None:
        self.id = node
        self.disk = disk
        self.speed = speed
        self.offset_s = offset_s
        self.kernel: Kernel | None = None
        self.machine: Machine
        self.lives = 0
        self.syncing: Outbox | None = None
        self.wake_at = math.inf
        self.open: dict[int, tuple[str, Any, float]] = {}
        """Proposals and reads without an outcome: what, of what, when asked."""
        self.started_s = 0.0
        self.was_put_back = False
        """Its disk is an earlier image of itself, and it does not know it."""

    def history(self, others: tuple[NodeId, ...]) -> History:
        """What it knows of starts, as the ledger does."""
        return History(
            starts_known=self.disk.starts_known,
            others=others,
            generation_of=lambda node: self.machine.starts.get(node, 0),
        )

    @property
    def may_promise(self) -> bool:
        return self.kernel is not None and self.kernel.checked in (
            Checked.PASSED, Checked.UNANSWERED
        )  # fmt: skip

    def clock(self, now: float) -> float:
        return self.offset_s + now * self.speed
