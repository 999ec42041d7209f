"""The disk of a simulated node of the record: a real journal over a disk in memory that forgets."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePath, PurePosixPath

from meshd.consensus.entries import Ballot, Entry, EntryKind, Point, Record, Snapshot, Stored
from meshd.consensus.journal import Journal, JournalFailed, Opened, Owner, open_journal
from meshd.consensus.journal.snapshots import SnapshotWriter
from meshd.consensus.messages import SnapshotPart
from meshd.consensus.snapshot_parts import PartToSend, Piece, Taken
from meshd.errors import DiskFailed
from meshd.testing.disk import MemoryDisk, PowerLost
from meshd.testing.entropy import SeededEntropy

FOLDER = PurePosixPath("/record")
SEGMENT_BYTES = 8192
"""Small, so that a run of some seconds has many segments."""


class JournalShelf:
    """The snapshots of a journal, with the calls of `tests.snapshot_shelf.Shelf`."""

    def __init__(self, journal: Journal) -> None:
        self._snapshots = journal.snapshots
        self._arriving: SnapshotWriter | None = None

    @property
    def durable(self) -> Mapping[Point, Snapshot]:
        return self._snapshots.durable

    def save(self, taken: Taken) -> Snapshot:
        return self._snapshots.save(taken.point, taken.voters, taken.parts)

    def take_in(self, pieces: Sequence[Piece]) -> Snapshot | None:
        """Raises DiskFailed; then what arrived is given up."""
        try:
            for piece in pieces:
                if piece.offset == 0:
                    self.give_up()
                    self._arriving = self._snapshots.begin(piece.point, piece.voters)
                assert self._arriving is not None
                self._arriving.write(piece.data)
            if pieces and pieces[-1].is_last:
                writer, self._arriving = self._arriving, None
                assert writer is not None
                return writer.commit()
        except DiskFailed:
            self.give_up()
            raise
        return None

    def give_up(self) -> None:
        if self._arriving is not None:
            self._arriving.abort()
            self._arriving = None

    def read(self, wanted: PartToSend) -> SnapshotPart:
        data = self._snapshots.part(wanted.point, wanted.part.offset, wanted.size_bytes)
        assert data is not None
        return wanted.with_data(data)

    def state(self, point: Point) -> Iterator[bytes]:
        return self._snapshots.state(point)


class JournalDisk:
    """One machine's disk, and the journal on it while a process has it open."""

    def __init__(self, owner: Owner, founding: Sequence[Record], chance: random.Random) -> None:
        self.files = MemoryDisk(chance=chance)
        self.slow_s = 0.0
        self.starts_known = 0
        """The newest start that passed its check."""
        self.vote_is_void = False
        self.shelf: JournalShelf
        self.journal: Journal
        self._owner = owner
        self._founding = founding
        self._chance = chance
        self._opened = 0

    def open(self) -> Opened:
        """As a process that starts does.  Raises JournalUnusable, DiskFailed."""
        self._opened += 1
        entropy = SeededEntropy(f"{self._owner.node} {self._opened}")
        opened = open_journal(self.files, FOLDER, self._owner, entropy, segment_bytes=SEGMENT_BYTES)
        if opened.is_new and self._founding:
            opened.journal.write(self._founding)
            opened.journal.close()
            return self.open()
        self.journal = opened.journal
        self.shelf = JournalShelf(opened.journal)
        return opened

    @property
    def stored(self) -> Stored:
        """How far the log is durable: its ballot and its last entry, which is what is promised."""
        cursor = self.journal.cursor
        last = Entry(cursor.last_index, cursor.ballot.term, EntryKind.NOOP, b"")
        ballot = Ballot(cursor.ballot.term, cursor.ballot.voted_for)
        return Stored(ballot, None, (last,) if cursor.last_index else ())

    def write(self, records: Sequence[Record]) -> None:
        """Raises JournalFailed."""
        self.journal.write(records)

    def compact(self, in_use: set[Point]) -> None:
        """Raises DiskFailed."""
        self.journal.compact(in_use)

    # --- what goes wrong

    def lose_power(self, writing: Sequence[Record]) -> None:
        """In the middle of a write of these, if there are any."""
        left = self._chance.randrange(3)

        def on_step(name: str, path: PurePath) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerLost

        if writing:
            self.files.on_step = on_step
            with suppress(PowerLost, JournalFailed):
                self.journal.write(writing)  # how far it gets is on no record
            self.files.on_step = None
        self.files.lose_power()

    def fail_next_sync(self) -> None:
        """The next sync of the journal fails, once: what it was to write is gone."""

        def on_step(name: str, path: PurePath) -> None:
            if name == "sync" and path.suffix == ".log":
                self.files.on_step = None
                raise DiskFailed(
                    errno.EIO, f"cannot make durable {path}: the disk reports an error"
                )

        self.files.on_step = on_step

    def fill_up(self, room_bytes: int) -> None:
        self.files.capacity_bytes = sum(map(len, self.files.files.values())) + room_bytes

    def make_room(self) -> None:
        self.files.capacity_bytes = None

    def durable_middle(self) -> tuple[PurePath, int] | None:
        """A byte of what was acknowledged, in the segment that is continued."""
        segments = sorted(path for path in self.files.files if path.suffix == ".log")
        if not segments or len(self.files.files[segments[-1]]) < 2000:
            return None
        return segments[-1], self._chance.randint(20, 900)

    def flip(self, path: PurePath, at: int) -> None:
        """Turn a bit."""
        changed = bytearray(self.files.files[path])
        changed[at] ^= 1
        self.files.write(path, bytes(changed), private=True)
