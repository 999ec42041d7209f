"""`check` changes nothing, `repair` removes only what was never acknowledged."""

from __future__ import annotations

import pytest

from meshd.consensus.entries import Ballot, Point
from meshd.consensus.journal import (
    JournalDamaged,
    Owner,
    Repair,
    Report,
    Verdict,
    check,
    repair,
    set_aside,
)
from meshd.consensus.journal.segments import segment_name
from meshd.consensus.journal.snapshot_file import snapshot_name
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy
from tests.unit.consensus.journal_rig import (
    FOLDER,
    MESH,
    NODE,
    OTHER,
    OWNER,
    append,
    opened,
    rebase,
    save,
    segments,
    snapshot_of,
)


@pytest.fixture
def disk() -> MemoryDisk:
    """A journal of three segments with a snapshot."""
    made = MemoryDisk()
    journal = opened(made, segment_bytes=600).journal
    journal.write([Ballot(1, NODE), append(1, 4)])
    save(journal.snapshots, snapshot_of(2))
    journal.write([rebase(snapshot_of(2))])
    journal.write([append(5, 5, data=bytes(400))])
    journal.write([append(6, 6, data=b"x" * 300)])
    journal.write([append(7, 7, data=b"x" * 300)])
    made.release()
    return made


def checked(disk: MemoryDisk, owner: Owner = OWNER) -> Report:
    before = dict(disk.files)
    report = check(disk, FOLDER, owner)
    assert disk.files == before
    return report


def repaired(disk: MemoryDisk, owner: Owner = OWNER) -> Repair:
    return repair(disk, FOLDER, owner, SeededEntropy(1))


def test_a_sound_journal_is_described(disk: MemoryDisk) -> None:
    report = checked(disk)
    assert report.verdict is Verdict.SOUND
    assert (report.ballot, report.base, report.last_index) == (Ballot(1, NODE), Point(1, 2), 7)
    assert [row.what for row in report.files] == [
        "blocks 1 to 3", "blocks 4 to 5", "state after entry 2",
    ]  # fmt: skip
    assert not any(row.problem for row in report.files)
    assert all(row.size_bytes == len(disk.files[FOLDER / row.name]) for row in report.files)
    assert repaired(disk) == Repair(())


def test_a_folder_without_a_journal_is_none() -> None:
    disk = MemoryDisk()
    report = checked(disk)
    assert (report.verdict, report.files) == (Verdict.NONE, ())
    assert str(FOLDER) in report.summary
    assert repaired(disk) == Repair(())
    assert disk.files == {}


def test_what_a_crash_left_is_named_and_removed(disk: MemoryDisk) -> None:
    last = segments(disk)[-1]
    disk.append(last, b"MBLK and a bit")
    disk.write(FOLDER / "snapshot-3.new", b"half", private=True)
    opened_before = checked(disk)
    assert opened_before.verdict is Verdict.UNFINISHED
    assert "nothing of it was acknowledged" in opened_before.summary
    assert opened_before.cut is not None
    assert opened_before.leftovers == ("snapshot-3.new",)
    assert not any(row.problem for row in opened_before.files)
    done = repaired(disk)
    assert done.refused is None
    assert len(done.done) == 2
    assert "14 bytes at the end" in done.done[0]
    assert done.done[1] == f"{FOLDER}/snapshot-3.new was left over and is deleted."
    assert checked(disk).verdict is Verdict.SOUND
    assert opened(disk).stored.entries[-1].index == 7


def test_damage_is_not_cut_off_and_what_to_do_is_said(disk: MemoryDisk) -> None:
    first = segments(disk)[0]
    data = bytearray(disk.files[first])
    data[-10] ^= 1
    disk.write(first, bytes(data), private=True)
    report = checked(disk)
    assert report.verdict is Verdict.DAMAGED
    assert (report.ballot, report.base, report.last_index) == (None, None, None)
    assert [bool(row.problem) for row in report.files] == [True, False, False]
    assert report.files[0].what == "blocks 1 to 2", "the good ones before it are counted"
    before = dict(disk.files)
    refused = repaired(disk).refused
    assert disk.files == before
    assert refused is not None
    assert "might take away what this node has acknowledged" in refused
    assert "joins anew as a learner" in refused
    assert "--set-aside" in refused


def test_each_damaged_file_is_named(disk: MemoryDisk) -> None:
    for path in list(disk.files):
        data = bytearray(disk.files[path])
        data[3] ^= 1
        disk.write(path, bytes(data), private=True)
    report = checked(disk)
    assert [row.problem for row in report.files] == [
        "it does not begin as a segment of a journal does",
        "it does not begin as a segment of a journal does",
        "it does not begin as a snapshot does",
    ]


def test_what_is_damaged_and_does_not_count_any_more_is_left_over(disk: MemoryDisk) -> None:
    journal = opened(disk, segment_bytes=600).journal
    save(journal.snapshots, snapshot_of(7))
    journal.write([rebase(snapshot_of(7))])
    disk.release()
    for name in (segment_name(1), snapshot_name(2)):
        disk.write(FOLDER / name, b"damaged", private=True)
    report = checked(disk)
    assert report.verdict is Verdict.UNFINISHED
    assert set(report.leftovers) == {segment_name(1), segment_name(4), snapshot_name(2)}
    assert len(repaired(disk).done) == 3
    assert checked(disk).verdict is Verdict.SOUND


def test_the_journal_of_another_is_not_repaired(disk: MemoryDisk) -> None:
    stranger = Owner(MESH, OTHER)
    assert checked(disk, stranger).verdict is Verdict.FOREIGN
    before = dict(disk.files)
    refused = repaired(disk, stranger).refused
    assert refused is not None
    assert "it is the journal of the node aaaaaa" in refused
    assert disk.files == before


def test_a_journal_is_set_aside_whole_and_a_fresh_one_begun(disk: MemoryDisk) -> None:
    last = segments(disk)[-1]
    disk.write(last, b"damaged", private=True)
    with pytest.raises(JournalDamaged):
        opened(disk)
    names = disk.names(FOLDER)
    aside = set_aside(disk, FOLDER)
    assert aside.name == "journal.aside-1"
    assert disk.names(aside) == names
    assert opened(disk).is_new
    assert set_aside(disk, FOLDER).name == "journal.aside-2"
