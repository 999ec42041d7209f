"""Snapshots: durable before they count, checked when read, gone when a later one is there."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import PurePath

import pytest

from meshd import limits
from meshd.consensus.entries import Ballot, Point, Snapshot
from meshd.consensus.journal import (
    Journal,
    JournalDamaged,
    JournalForeign,
    JournalNewer,
    JournalUnusable,
    Owner,
    Snapshots,
)
from meshd.consensus.journal.snapshot_file import snapshot_name
from meshd.errors import DiskFailed, LimitExceeded, ProtocolError
from meshd.ids import MeshId
from meshd.testing.disk import MemoryDisk
from tests.unit.consensus.journal_rig import (
    FOLDER,
    MESH,
    NODE,
    OTHER,
    append,
    opened,
    rebase,
    save,
    segments,
    snapshot_of,
)


def path_of(index: int) -> PurePath:
    return FOLDER / snapshot_name(index)


def with_snapshot(disk: MemoryDisk, snapshot: Snapshot, entries: int = 5) -> Journal:
    journal = opened(disk).journal
    journal.write([Ballot(1, NODE), append(1, entries)])
    save(journal.snapshots, snapshot)
    journal.write([rebase(snapshot)])
    return journal


def test_a_snapshot_stands_for_the_entries_up_to_it() -> None:
    disk = MemoryDisk()
    with_snapshot(disk, snapshot_of(3))
    disk.lose_power()
    stored = opened(disk).stored
    assert stored.snapshot == snapshot_of(3)
    assert stored.entries == append(4, 5).entries
    assert stored.ballot == Ballot(1, NODE)


def test_a_leaders_snapshot_replaces_the_log() -> None:
    disk = MemoryDisk()
    journal = opened(disk).journal
    journal.write([append(1, 5)])
    save(journal.snapshots, snapshot_of(3, term=2))
    journal.write([rebase(snapshot_of(3, term=2), keep_after=False), append(4, 4, term=2)])
    stored = opened(disk).stored
    assert stored.snapshot == snapshot_of(3, term=2)
    assert stored.entries == append(4, 4, term=2).entries


def test_a_snapshot_without_its_record_counts_for_nothing_and_goes_at_the_next_start() -> None:
    disk = MemoryDisk()
    journal = with_snapshot(disk, snapshot_of(2))
    save(journal.snapshots, snapshot_of(4))
    disk.lose_power()
    found = opened(disk)
    assert found.stored.snapshot == snapshot_of(2)
    assert found.stored.entries == append(3, 5).entries
    assert found.swept == (snapshot_name(4),)
    assert disk.size(path_of(4)) is None


def test_what_a_snapshot_stands_for_is_deleted_and_what_comes_next_is_kept() -> None:
    disk = MemoryDisk()
    journal = opened(disk, segment_bytes=500).journal
    for n in range(1, 31):
        journal.write([append(n, n, data=bytes(50))])
    save(journal.snapshots, snapshot_of(10))
    journal.write([rebase(snapshot_of(10))])
    save(journal.snapshots, snapshot_of(30))
    before = len(segments(disk))
    deleted = journal.compact()
    assert len(deleted) == before - len(segments(disk)) > 1
    assert disk.names(FOLDER)[-1] == snapshot_name(30), "the next one is not in use yet"
    journal.write([rebase(snapshot_of(30))])
    assert snapshot_name(10) in journal.compact()
    assert len(segments(disk)) == 1
    assert journal.compact() == []
    disk.lose_power()
    stored = opened(disk, segment_bytes=500).stored
    assert (stored.snapshot, stored.entries) == (snapshot_of(30), ())


def test_a_journal_that_is_compacted_now_and_then_stays_small() -> None:
    disk = MemoryDisk()
    journal = opened(disk, segment_bytes=1000).journal
    largest = 0
    for n in range(1, 1001):
        journal.write([append(n, n, data=bytes(50))])
        if n % 20 == 0:
            save(journal.snapshots, snapshot_of(n))
            journal.write([rebase(snapshot_of(n))])
            journal.compact()
        largest = max(largest, sum(len(data) for data in disk.files.values()))
    assert largest < 6000


def test_the_old_snapshot_is_there_until_the_new_one_is_durable() -> None:
    disk = MemoryDisk()
    journal = with_snapshot(disk, snapshot_of(2))
    writer = journal.snapshots.begin(Point(1, 4), (NODE,))
    writer.write(b"half of it")
    disk.lose_power()
    found = opened(disk)
    assert found.stored.snapshot == snapshot_of(2)
    assert all(not name.endswith(".new") for name in disk.names(FOLDER))


def test_a_snapshot_that_is_given_up_leaves_nothing() -> None:
    disk = MemoryDisk()
    snapshots = opened(disk).journal.snapshots
    before = disk.names(FOLDER)
    writer = snapshots.begin(Point(1, 4), (NODE,))
    writer.write(b"x")
    writer.abort()
    writer.abort()
    assert disk.names(FOLDER) == before
    with pytest.raises(ValueError, match="was committed or aborted"):
        writer.write(b"x")
    with pytest.raises(ValueError, match="was committed or aborted"):
        writer.commit()


@pytest.mark.parametrize("step", ["append", "sync", "rename"])
def test_a_snapshot_that_fails_leaves_nothing_and_the_journal_goes_on(step: str) -> None:
    disk = MemoryDisk()
    journal = with_snapshot(disk, snapshot_of(2))

    def on_step(name: str, path: PurePath) -> None:
        if name == step and "snapshot" in path.name:
            raise DiskFailed(errno.ENOSPC, "the disk is full")

    disk.on_step = on_step
    with pytest.raises(DiskFailed, match="the disk is full"):
        save(journal.snapshots, snapshot_of(4))
    disk.on_step = None
    assert sum("snapshot" in name for name in disk.names(FOLDER)) == 1
    with pytest.raises(ValueError, match="no durable snapshot"):
        journal.write([rebase(snapshot_of(4))])
    journal.write([append(6, 6)])
    assert opened(disk).stored.entries == append(3, 6).entries


def test_a_state_is_written_in_pieces_and_read_in_pieces() -> None:
    disk = MemoryDisk()
    snapshots = opened(disk).journal.snapshots
    state = bytes(range(256)) * 3000
    writer = snapshots.begin(Point(2, 7), (NODE,))
    largest = 0
    for start in range(0, len(state), 50_000):
        assert writer.size_bytes == start
        writer.write(state[start : start + 50_000])
    info = writer.commit()
    assert (info.point, info.voters, info.size_bytes) == (Point(2, 7), (NODE,), len(state))
    read = bytearray()
    while piece := snapshots.part(Point(2, 7), len(read), 10**9):
        largest = max(largest, len(piece))
        read += piece
    assert read == state
    assert largest == limits.RAFT_CHUNK_BYTES
    assert snapshots.part(Point(2, 7), 5, 3) == state[5:8]
    assert snapshots.part(Point(2, 7), len(state) - 2, 30) == state[-2:]
    assert snapshots.part(Point(3, 7), 0, 3) is None


def test_a_snapshot_that_is_sent_in_pieces_arrives_as_it_was() -> None:
    here, there = MemoryDisk(), MemoryDisk()
    sender = opened(here).journal.snapshots
    info = snapshot_of(5, state=b"x" * 1000)
    save(sender, info)
    receiver = opened(there, owner=Owner(MESH, OTHER)).journal.snapshots
    writer = receiver.begin(info.point, info.voters)
    while piece := sender.part(info.point, writer.size_bytes, 64):
        writer.write(piece)
    assert writer.commit(info.digest) == info
    assert receiver.load(info.point) == info


def test_a_snapshot_that_arrives_with_a_fault_is_refused_and_leaves_nothing() -> None:
    disk = MemoryDisk()
    snapshots = opened(disk).journal.snapshots
    info = snapshot_of(5)
    save(snapshots, info)
    before = dict(disk.files)
    writer = snapshots.begin(Point(1, 6), info.voters)
    writer.write(b"not what was sent")
    with pytest.raises(ProtocolError, match="of entry 6 arrived with a wrong checksum"):
        writer.commit(info.digest)
    assert disk.files == before
    assert set(snapshots.durable) == {info.point}


def test_a_state_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RAFT_SNAPSHOT_BYTES", 1000)
    disk = MemoryDisk()
    snapshots = opened(disk).journal.snapshots
    writer = snapshots.begin(Point(1, 6), (NODE,))
    writer.write(bytes(1000))
    with pytest.raises(LimitExceeded, match="over the limit of 1000 bytes"):
        writer.write(b"x")
    assert all(not name.endswith(".new") for name in disk.names(FOLDER))


def test_more_voters_than_there_can_be_are_refused() -> None:
    disk = MemoryDisk()
    snapshots = opened(disk).journal.snapshots
    with pytest.raises(ValueError, match="200 voters do not fit"):
        snapshots.begin(Point(1, 6), [NODE] * 200)
    assert len(disk.names(FOLDER)) == 1


# --- damage


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-1], "it is not as long as it says"),
        (lambda data: data + b"x", "it is not as long as it says"),
        (lambda data: data[:20], "its head is not whole"),
        (lambda data: data[:150], "snapshot: it is not whole"),
        (lambda data: b"", "its head is not whole"),
        (lambda data: b"x" + data[1:], "it does not begin as a snapshot does"),
        (lambda data: data.replace(b"state", b"stale"), "it does not match its checksum"),
        (lambda data: data.replace(b"aaaa", b"aaab"), "it does not match its checksum"),
        (lambda data: data.replace(b"mmmm", b"mm!m"), "the fields that it must have"),
    ],
)
def test_a_damaged_snapshot_is_refused(change: Callable[[bytes], bytes], why: str) -> None:
    disk = MemoryDisk()
    with_snapshot(disk, snapshot_of(3, state=b"state" * 20))
    data = bytes(disk.files[path_of(3)])
    disk.write(path_of(3), change(data), private=True)
    with pytest.raises(JournalDamaged, match=why):
        opened(disk)
    disk.write(path_of(3), data, private=True)
    assert opened(disk).stored.snapshot == snapshot_of(3, state=b"state" * 20)


def replaced(other: Snapshot, mesh: MeshId = MESH) -> MemoryDisk:
    """A journal with another snapshot's file in the place of its own."""
    disk, elsewhere = MemoryDisk(), MemoryDisk()
    with_snapshot(disk, snapshot_of(3))
    snapshots = Snapshots(elsewhere, FOLDER, mesh)
    state = b"%d:state" % other.point.index
    snapshots.save(other.point, other.voters, [state])
    disk.write(path_of(3), bytes(elsewhere.files[path_of(other.point.index)]), private=True)
    return disk


def test_another_snapshot_under_its_name_is_refused() -> None:
    with pytest.raises(JournalDamaged, match="not of the place that its name says"):
        opened(replaced(snapshot_of(4)))
    with pytest.raises(JournalDamaged, match="not of the place that it should be of"):
        opened(replaced(snapshot_of(3, term=2)))


def test_a_snapshot_of_another_mesh_is_refused_for_that() -> None:
    with pytest.raises(JournalForeign, match="it is of the mesh xxxxxx, and this is mmmmmm"):
        opened(replaced(snapshot_of(3), MeshId("x" * 26)))


def test_a_snapshot_of_a_later_version_asks_for_an_update() -> None:
    disk = MemoryDisk()
    with_snapshot(disk, snapshot_of(3))
    data = bytearray(disk.files[path_of(3)])
    data[9] = 2
    disk.write(path_of(3), bytes(data), private=True)
    with pytest.raises(JournalNewer, match="update this one"):
        opened(disk)


def test_a_missing_snapshot_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = MemoryDisk()
    with_snapshot(disk, snapshot_of(3))
    disk.delete(path_of(3))
    with pytest.raises(JournalDamaged, match="it is missing"):
        opened(disk)
    monkeypatch.setattr(limits, "RAFT_SNAPSHOT_BYTES", 10)
    disk.write(path_of(3), bytes(10_000), private=True)
    with pytest.raises(JournalUnusable, match="larger than a snapshot can be"):
        opened(disk)
