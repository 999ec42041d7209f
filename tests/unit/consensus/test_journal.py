"""What is written is there when the journal is opened again, and nothing else."""

from __future__ import annotations

import pytest

from meshd import limits
from meshd.consensus.entries import (
    Append,
    Ballot,
    Entry,
    EntryKind,
    Record,
    Stored,
    Truncate,
)
from meshd.consensus.journal import JournalFailed, open_journal, probe_sync_s
from meshd.consensus.replay import EMPTY
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy
from tests.unit.consensus.journal_rig import (
    FOLDER,
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


def test_a_new_journal_is_empty_and_says_that_it_is_new() -> None:
    disk = MemoryDisk()
    first = opened(disk)
    assert (first.stored, first.is_new) == (EMPTY, True)
    disk.lose_power()
    again = opened(disk)
    assert (again.stored, again.is_new, again.cut, again.swept) == (EMPTY, False, None, ())


def test_what_was_written_survives_a_power_loss() -> None:
    disk = MemoryDisk()
    journal = opened(disk).journal
    journal.write([Ballot(3, NODE)])
    journal.write([append(1, 3, term=3), append(4, 4, term=3)])
    disk.lose_power()
    stored = opened(disk).stored
    assert stored.ballot == Ballot(3, NODE)
    assert stored.entries == append(1, 4, term=3).entries
    assert stored.snapshot is None


def test_a_write_is_one_addition_and_one_sync_however_many_records_it_has() -> None:
    disk = MemoryDisk()
    journal = opened(disk).journal
    steps: list[str] = []
    disk.on_step = lambda name, path: steps.append(name)
    journal.write([Ballot(1, NODE), append(1, 60), Truncate(50), append(50, 60)])
    assert steps == ["append", "sync"]
    journal.write([])
    assert steps == ["append", "sync"], "nothing to write"


def test_every_kind_of_entry_and_record_is_read_as_it_was_written() -> None:
    disk = MemoryDisk()
    journal = opened(disk).journal
    entries = tuple(
        Entry(index, 2**60, kind, bytes(range(256))) for index, kind in enumerate(EntryKind, 1)
    )
    journal.write([Ballot(2**60), Ballot(2**60, OTHER), Append(entries)])
    stored = opened(disk).stored
    assert stored == Stored(Ballot(2**60, OTHER), None, entries)
    assert all(type(entry.kind) is EntryKind for entry in stored.entries)


def test_segments_have_bounded_size_and_are_read_one_after_the_other() -> None:
    disk = MemoryDisk()
    journal = opened(disk, segment_bytes=1000).journal
    for index in range(1, 101):
        journal.write([append(index, index, data=bytes(100))])
    assert len(segments(disk)) > 10
    assert max(len(disk.files[path]) for path in segments(disk)) < 1200
    assert (
        opened(disk, segment_bytes=1000).stored.entries == append(1, 100, data=bytes(100)).entries
    )


def test_writing_goes_on_after_each_opening() -> None:
    disk = MemoryDisk()
    for index in range(1, 30):
        journal = opened(disk, seed=index).journal
        journal.write([append(index, index)])
        disk.lose_power()
    assert opened(disk).stored.entries == append(1, 29).entries


def test_a_write_over_the_size_of_a_block_takes_several() -> None:
    disk = MemoryDisk()
    journal = opened(disk, segment_bytes=1 << 20).journal
    big = bytes(limits.JOURNAL_ENTRY_BYTES - 10)
    records: list[Record] = [append(1, 5, data=big), Truncate(5), append(5, 7, data=big)]
    steps: list[str] = []
    disk.on_step = lambda name, path: steps.append(name)
    journal.write(records)
    disk.on_step = None
    assert steps.count("sync") > 4
    disk.lose_power()
    assert opened(disk).stored.entries == append(1, 7, data=big).entries


def test_an_entry_that_is_too_large_is_refused_and_nothing_is_written() -> None:
    disk = MemoryDisk()
    journal = opened(disk).journal
    big = Entry(2, 1, EntryKind.COMMAND, bytes(limits.JOURNAL_ENTRY_BYTES + 1))
    with pytest.raises(ValueError, match="entry 2 has 1048577 bytes, more than the 1048576"):
        journal.write([append(1, 1), Append((big,))])
    journal.write([append(1, 1)])
    assert opened(disk).stored.entries == append(1, 1).entries


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([append(5, 6)], "entry 5 does not follow entry 3"),
        ([append(3, 4)], "entry 3 does not follow entry 3"),
        ([Ballot(4, NODE)], "term 4 is before term 5"),
        ([Ballot(5, OTHER)], f"the vote of term 5 is {NODE}'s, not {OTHER}'s"),
        ([Ballot(5, None)], f"the vote of term 5 is {NODE}'s, not None's"),
        ([Truncate(4)], "entry 4 cannot be taken away"),
        ([Truncate(0)], "entry 0 cannot be taken away"),
        ([append(4, 4), Truncate(2), append(4, 4)], "entry 4 does not follow entry 1"),
        ([rebase(snapshot_of(2))], "there is no durable snapshot of Point"),
    ],
)
def test_what_cannot_follow_is_refused_and_nothing_is_written(
    records: list[Record], why: str
) -> None:
    disk = MemoryDisk()
    journal = opened(disk).journal
    journal.write([Ballot(5, NODE), append(1, 3)])
    before = dict(disk.files)
    with pytest.raises(ValueError, match=why):
        journal.write(records)
    assert disk.files == before
    journal.write([Ballot(5, NODE), append(4, 4)])
    assert opened(disk).stored.entries == append(1, 4).entries


def test_what_a_snapshot_stands_for_is_not_taken_away() -> None:
    disk = MemoryDisk()
    journal = opened(disk).journal
    journal.write([append(1, 5)])
    for index in (2, 3):
        save(journal.snapshots, snapshot_of(index))
    journal.write([rebase(snapshot_of(3))])
    with pytest.raises(ValueError, match="entry 3 cannot be taken away: there are those after 3"):
        journal.write([Truncate(3)])
    with pytest.raises(ValueError, match="is before the snapshot of"):
        journal.write([rebase(snapshot_of(2))])


def test_a_journal_of_an_open_process_is_not_usable_after_close() -> None:
    journal = opened(MemoryDisk()).journal
    journal.close()
    journal.close()
    with pytest.raises(JournalFailed, match="closed"):
        journal.write([append(1, 1)])


def test_other_files_in_the_folder_are_let_alone() -> None:
    disk = MemoryDisk()
    for name in ("notes.txt", "1.log", "x.log", "00000000000000000001.log~"):
        disk.write(FOLDER / name, b"mine", private=True)
    opened(disk).journal.write([append(1, 1)])
    assert opened(disk).stored.entries == append(1, 1).entries
    assert {"notes.txt", "1.log", "x.log"} < set(disk.names(FOLDER))


def test_journals_of_equal_records_have_no_equal_blocks() -> None:
    """So that no block of another file, or of an earlier life of this one, is taken for good."""
    tails = set()
    for seed in range(5):
        disk = MemoryDisk()
        journal = opened(disk, seed=seed).journal
        journal.write([append(1, 1)])
        tails.add(bytes(disk.files[segments(disk)[0]])[-4:])
    assert len(tails) == 5


def test_the_cost_of_a_sync_is_measured_and_leaves_nothing() -> None:
    disk = MemoryDisk()
    disk.write(FOLDER / "probe.new", b"left over", private=True)
    now = iter(x * 0.25 for x in range(100))
    assert probe_sync_s(disk, FOLDER, lambda: next(now)) == 0.25
    assert disk.names(FOLDER) == []


def test_the_default_bound_of_segments_is_that_of_the_limits() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk, FOLDER, OWNER, SeededEntropy(0)).journal
    for n in range(10):
        journal.write([append(n + 1, n + 1, data=bytes(limits.JOURNAL_ENTRY_BYTES - 9))])
    assert len(segments(disk)) == 2
