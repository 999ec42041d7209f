"""A node's data directory with a record in it, as kernels leave it; no daemon runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from meshd.consensus.entries import Append, Ballot, Entry, EntryKind, Point, Rebase
from meshd.consensus.journal import open_journal
from meshd.consensus.replay import last_of
from meshd.consensus.voter_list import pack_voters
from meshd.identity.keys import PublicKey
from meshd.ids import MeshId, NodeId
from meshd.ledger.backup import Backup, pieces, read_backup
from meshd.ledger.examination import read_stored, snapshots_of, voters_of
from meshd.ledger.place import Place
from meshd.ledger.remedies import Patient
from meshd.ports import Disk
from meshd.record.commands import Entry as CommandEntry
from meshd.record.commands import encode
from meshd.record.commands_registry import Command, Found, NodeFields, SetAlias, Started
from meshd.record.state import RecordState
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy
from tests.joins import NOW_UNIX_S, make_key

DATA = PurePath("/data")
CA = make_key("ca").public
ME = make_key("a").public
OTHERS = (make_key("b").public, make_key("c").public)


def found(ca: PublicKey = CA, node: PublicKey = ME) -> Found:
    return Found(
        mesh=ca.mesh, mesh_name="home", ca_key=ca.der, node=NodeFields(key=node.der, name="a"),
        unix_ms=1_790_000_000_000, gossip_key=1,
    )  # fmt: skip


def alias(name: str, number: int, node: PublicKey = ME) -> CommandEntry:
    """The `number`th command of that node's session."""
    return CommandEntry(SetAlias(alias=name, model="m"), client=node.node, epoch=1, seq=number)


def session(node: PublicKey = ME) -> CommandEntry:
    return CommandEntry(Started(node=node.node, generation=1, boot=bytes(16)))


def founding(ca: PublicKey, node: PublicKey) -> tuple[Command | CommandEntry, ...]:
    return (found(ca, node), session(node))


def history(ca: PublicKey, node: PublicKey) -> tuple[Command | CommandEntry, ...]:
    return (*founding(ca, node), alias("x", 1, node), alias("y", 2, node))


FOUNDING = founding(CA, ME)
HISTORY = history(CA, ME)


class Kept:
    """What one node keeps."""

    def __init__(
        self,
        disk: Disk | None = None,
        data: PurePath = DATA,
        *,
        ca: PublicKey = CA,
        node: PublicKey = ME,
    ) -> None:
        self.disk = disk or MemoryDisk()
        self.place = Place.under(data, MeshId(ca.mesh), NodeId(node.node))

    def write(
        self,
        *commands: Command | CommandEntry | bytes,
        voters: Sequence[PublicKey] = (),
        term: int = 1,
        founded: bool = True,
    ) -> Kept:
        """Add commands (and before them, in a log that is empty, a list of voters)."""
        opened = open_journal(self.disk, self.place.folder, self.place.owner, SeededEntropy(1))
        index = last_of(opened.stored).index
        entries = []
        if voters or not index:
            data = pack_voters([NodeId(v.node) for v in voters] or [self.place.me])
            entries.append((EntryKind.VOTERS, data))
        if not index:
            entries.append((EntryKind.NOOP, b""))
        for command in commands:
            if not isinstance(command, bytes):
                entry = command if isinstance(command, CommandEntry) else CommandEntry(command)
                command = encode(entry)
            entries.append((EntryKind.COMMAND, command))
        made = tuple(Entry(index + n, term, *entry) for n, entry in enumerate(entries, 1))
        opened.journal.write([Ballot(term), Append(made)])
        opened.journal.close()
        if founded:
            self.disk.write(self.place.founded_mark, b"", private=True)
        return self

    def snapshot(self) -> Kept:
        """Let a snapshot stand for all that there is."""
        opened = open_journal(self.disk, self.place.folder, self.place.owner, SeededEntropy(2))
        last = last_of(opened.stored)
        state = self.state().freeze()
        opened.journal.snapshots.save(last, voters_of(opened.stored), [state])
        opened.journal.write([Rebase(last, keep_after=True)])
        opened.journal.compact()
        opened.journal.close()
        return self

    def state(self) -> RecordState:
        """What the journal comes to."""
        stored, state = read_stored(self.disk, self.place), RecordState()
        if stored.snapshot is not None:
            snapshots = snapshots_of(self.disk, self.place)
            snapshots.load(stored.snapshot.point)
            state.restore(b"".join(snapshots.state(stored.snapshot.point)))
        for entry in stored.entries:
            if entry.kind is EntryKind.COMMAND:
                state.apply(entry.index, entry.data)
        return state

    def segment(self) -> PurePath:
        """The file of the journal that is being written."""
        names = [name for name in self.disk.names(self.place.folder) if name.endswith(".log")]
        return self.place.folder / names[-1]

    def damage(self) -> Kept:
        """Turn a bit in the last block, which a power loss does not."""
        data = bytearray(self.disk.read(self.segment()) or b"")
        data[-1] ^= 1
        self.disk.write(self.segment(), bytes(data), private=True)
        return self

    def patient(self, *, founder: bool = True, now_unix_s: float = NOW_UNIX_S) -> Patient:
        return Patient(
            self.disk, self.place, SeededEntropy(3), now_unix_s=now_unix_s, founder=founder
        )

    def backup_bytes(self, voters: Sequence[PublicKey] = (ME,)) -> bytes:
        """What a daemon would give as a backup."""
        stored = read_stored(self.disk, self.place)
        last = last_of(stored)
        ids = sorted(NodeId(v.node) for v in voters)
        point = Point(max(1, last.term), last.index)
        return b"".join(pieces(self.place.mesh, point, ids, self.state().capture()))

    def backup(self, voters: Sequence[PublicKey] = (ME,)) -> Backup:
        return read_backup(self.backup_bytes(voters))

    def contents(self) -> dict[PurePath, bytes]:
        """All files, for "nothing was changed"."""
        assert isinstance(self.disk, MemoryDisk)
        return {path: bytes(data) for path, data in self.disk.files.items()}
