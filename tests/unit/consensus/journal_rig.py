"""Journals for tests: short ways to make, fill, break and open them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import PurePosixPath

from meshd.consensus.entries import (
    Append,
    Ballot,
    Entry,
    EntryKind,
    Point,
    Rebase,
    Record,
    Snapshot,
    Stored,
    Truncate,
)
from meshd.consensus.journal import Opened, Owner, Snapshots, open_journal
from meshd.consensus.replay import replay
from meshd.ids import MeshId, NodeId
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy

FOLDER = PurePosixPath("/data/journal")
MESH = MeshId("m" * 26)
NODE, OTHER = NodeId("a" * 26), NodeId("b" * 26)
OWNER = Owner(MESH, NODE)


def opened(
    disk: MemoryDisk, *, owner: Owner = OWNER, segment_bytes: int = 2048, seed: int = 0
) -> Opened:
    """Open it as a new process does."""
    disk.release()
    return open_journal(disk, FOLDER, owner, SeededEntropy(seed), segment_bytes=segment_bytes)


def append(first: int, last: int, *, term: int = 1, data: bytes = b"command") -> Append:
    return Append(
        tuple(
            Entry(index, term, EntryKind.COMMAND, b"%d:%s" % (index, data))
            for index in range(first, last + 1)
        )
    )


_states: dict[Snapshot, bytes] = {}
"""Of the snapshots that were made up here."""


def snapshot_of(index: int, *, term: int = 1, state: bytes = b"state") -> Snapshot:
    """As a journal describes it; `save` knows its state."""
    return _made(Point(term, index), b"%d:%s" % (index, state))


def _made(point: Point, state: bytes) -> Snapshot:
    snapshot = Snapshots(MemoryDisk(), FOLDER, MESH).save(point, (NODE, OTHER), [state])
    _states[snapshot] = state
    return snapshot


def save(snapshots: Snapshots, snapshot: Snapshot) -> None:
    """Make a snapshot that was made up here durable there."""
    snapshots.save(snapshot.point, snapshot.voters, [_states[snapshot]])


def rebase(snapshot: Snapshot, *, keep_after: bool = True) -> Rebase:
    return Rebase(snapshot.point, keep_after)


def segments(disk: MemoryDisk) -> list[PurePosixPath]:
    return [FOLDER / name for name in disk.names(FOLDER) if name.endswith(".log")]


@dataclass(frozen=True)
class Step:
    """What a kernel hands over at a time, and the log that it makes."""

    snapshot: Snapshot | None
    """To be durable first."""
    records: list[Record]
    after: Stored


def random_steps(chance: random.Random, stored: Stored, count: int) -> list[Step]:
    """What a sound kernel might do after `stored`."""
    steps = []
    for _ in range(count):
        snapshot, records = _random_step(chance, stored)
        stored = replay(stored, records, [snapshot] if snapshot else [])
        steps.append(Step(snapshot, records, stored))
    return steps


def _random_step(chance: random.Random, stored: Stored) -> tuple[Snapshot | None, list[Record]]:
    base = stored.snapshot.point.index if stored.snapshot else 0
    last = base + len(stored.entries)
    term = stored.ballot.term
    match chance.randrange(10):
        case 0:
            return None, [Ballot(term + 1, chance.choice([None, NODE, OTHER]))]
        case 1 if last > base:
            first = chance.randint(base + 1, last)
            more = _random_entries(chance, first, term + 1)
            return None, [Ballot(term + 1, None), Truncate(first), more]
        case 2 if last > base:
            entry = chance.choice(stored.entries)
            snapshot = _random_snapshot(chance, Point(entry.term, entry.index))
            return snapshot, [rebase(snapshot)]
        case 3:
            index = base + chance.randint(1, 12)
            snapshot = _random_snapshot(chance, Point(term + 1, index))
            more = _random_entries(chance, index + 1, term + 1)
            return snapshot, [Ballot(term + 1, None), rebase(snapshot, keep_after=False), more]
        case 4:
            return None, [Ballot(term + 1, None), _random_entries(chance, last + 1, term + 1)]
    return None, [_random_entries(chance, last + 1, term)]


def _random_entries(chance: random.Random, first: int, term: int) -> Append:
    def data() -> bytes:
        size = chance.choice([0, 1, 20, 200, 700])
        return bytes(size) if chance.random() < 0.1 else chance.randbytes(size)

    return Append(
        tuple(
            Entry(first + n, term, chance.choice(list(EntryKind)), data())
            for n in range(chance.randint(1, 5))
        )
    )


def _random_snapshot(chance: random.Random, point: Point) -> Snapshot:
    return _made(point, chance.randbytes(chance.choice([0, 10, 3000])))
