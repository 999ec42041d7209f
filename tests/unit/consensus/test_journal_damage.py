"""A journal that is damaged, or somebody else's, is refused with what to do, and not touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from meshd import limits
from meshd.consensus.entries import Ballot, Record, Truncate
from meshd.consensus.journal import (
    JournalDamaged,
    JournalForeign,
    JournalNewer,
    JournalUnusable,
    Owner,
)
from meshd.consensus.journal.blocks import SECTOR_BYTES, crc32c, encode_block
from meshd.consensus.journal.records import encode_records
from meshd.consensus.journal.segments import (
    Header,
    encode_header,
    encode_segment,
    scan_segment,
    segment_name,
)
from meshd.consensus.journal.state import Cursor
from meshd.ids import MeshId
from meshd.testing.disk import MemoryDisk
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

FIRST = FOLDER / segment_name(1)


def written(*batches: Sequence[Record], segment_bytes: int = 1 << 20) -> MemoryDisk:
    disk = MemoryDisk()
    journal = opened(disk, segment_bytes=segment_bytes).journal
    for records in batches:
        journal.write(records)
    return disk


def refused(disk: MemoryDisk, kind: type[JournalUnusable], *, owner: Owner = OWNER) -> str:
    """What is said when it is opened; nothing may have changed."""
    before = dict(disk.files)
    with pytest.raises(kind) as caught:
        opened(disk, owner=owner)
    assert disk.files == before
    return str(caught.value)


def edit(disk: MemoryDisk, path: PurePosixPath, data: bytes) -> None:
    disk.write(path, data, private=True)


# --- whose it is


def test_a_journal_of_another_node_is_refused_for_that() -> None:
    disk = written([Ballot(1, NODE)])
    said = refused(disk, JournalForeign, owner=Owner(MESH, OTHER))
    assert f"{FIRST}: it is the journal of the node aaaaaa, and this is bbbbbb" in said
    assert "What one node has promised counts for no other." in said


def test_a_journal_of_another_mesh_is_refused_for_that() -> None:
    disk = written([Ballot(1, NODE)])
    said = refused(disk, JournalForeign, owner=Owner(MeshId("x" * 26), NODE))
    assert "it is a journal of the mesh mmmmmm, and this is xxxxxx" in said


def test_one_segment_of_another_nodes_journal_among_ones_own_is_seen() -> None:
    disk = written(*([append(n, n)] for n in range(1, 9)), segment_bytes=500)
    first = scan_segment(bytes(disk.files[FIRST]))
    header = replace(first.header, owner=Owner(MESH, OTHER))
    edit(disk, FIRST, encode_segment(header, [block.body for block in first.blocks])[0])
    refused(disk, JournalForeign)


def test_a_journal_of_a_later_version_asks_for_an_update() -> None:
    disk = written([append(1, 1)])
    data = bytearray(disk.files[FIRST])
    scan = scan_segment(bytes(data))
    end = len(encode_header(scan.header)[0])
    data[8:10] = (2).to_bytes(2, "big")
    data[end - 4 : end] = crc32c(bytes(data[: end - 4])).to_bytes(4, "big")
    edit(disk, FIRST, bytes(data))
    said = refused(disk, JournalNewer)
    assert "it has version 2 of the format, and this meshd reads 1" in said
    assert "update this one" in said


# --- what is missing or wrong


def test_damage_says_where_and_what_to_do() -> None:
    disk = written([append(1, 1)], [append(2, 2)])
    data = bytearray(disk.files[FIRST])
    offset = scan_segment(bytes(data)).blocks[0].end - 5
    data[offset] ^= 1
    edit(disk, FIRST, bytes(data))
    said = refused(disk, JournalDamaged)
    assert said.startswith(f"{FIRST}: at byte ")
    assert "a block does not match its checksum" in said
    assert "`meshd record check` shows what is left" in said


def test_a_sector_of_zeros_with_good_blocks_behind_it_is_damage_and_no_torn_write() -> None:
    disk = written([append(1, 1, data=b"x" * 2000)], [append(2, 2)])
    data = bytearray(disk.files[FIRST])
    data[2 * SECTOR_BYTES : 3 * SECTOR_BYTES] = bytes(SECTOR_BYTES)
    edit(disk, FIRST, bytes(data))
    assert "block 1 is bad and those behind it are good" in refused(disk, JournalDamaged)


def test_the_same_sector_in_the_last_block_is_a_torn_write() -> None:
    disk = written([append(1, 1)], [append(2, 2, data=b"x" * 2000)])
    data = bytearray(disk.files[FIRST])
    data[2 * SECTOR_BYTES : 3 * SECTOR_BYTES] = bytes(SECTOR_BYTES)
    edit(disk, FIRST, bytes(data))
    found = opened(disk)
    assert found.stored.entries == append(1, 1).entries
    assert found.cut is not None
    assert str(found.cut).startswith(f"{FIRST}: {found.cut.size_bytes} bytes at the end, from byte")
    assert found.cut.size_bytes > 2000
    assert "a part of the last block was not written" in str(found.cut)


def test_a_file_that_has_grown_by_zeros_is_cut_there() -> None:
    disk = written([append(1, 1)])
    edit(disk, FIRST, bytes(disk.files[FIRST]) + bytes(5000))
    found = opened(disk)
    assert found.stored.entries == append(1, 1).entries
    assert found.cut is not None
    assert found.cut.size_bytes == 5000


def test_garbage_at_the_end_is_not_guessed_to_be_a_torn_write() -> None:
    disk = written([append(1, 1)])
    edit(disk, FIRST, bytes(disk.files[FIRST]) + b"garbage" * 100)
    assert "the head of a block does not match its checksum" in refused(disk, JournalDamaged)


def test_a_block_that_a_client_planted_in_its_command_does_not_make_a_torn_write_damage() -> None:
    planted = b"".join(
        encode_block(number, 0, seed, b"x")[0] for number in range(9) for seed in (0,)
    )
    disk = written([append(1, 1)], [append(2, 2, data=planted + bytes(600))])
    data = bytes(disk.files[FIRST])
    assert planted in data
    edit(disk, FIRST, data[:-10])
    found = opened(disk)
    assert found.stored.entries == append(1, 1).entries
    assert found.cut is not None


@pytest.mark.parametrize("missing", [0, 1, 2, 3])
def test_a_missing_segment_is_seen_by_those_around_it(missing: int) -> None:
    disk = written(*([append(n, n)] for n in range(1, 32)), segment_bytes=500)
    assert len(segments(disk)) == 5
    disk.delete(segments(disk)[missing])
    said = refused(disk, JournalDamaged)
    if missing == 0:
        assert "the segments with the entries 1 to " in said
    else:
        assert "it does not follow the segment before it" in said


def test_a_missing_segment_is_seen_even_if_the_log_stands_where_it_stood() -> None:
    nothing = [append(2, 2, data=bytes(300)), Truncate(2)]
    disk = written([append(1, 1)], *[nothing] * 6, segment_bytes=500)
    disk.delete(segments(disk)[1])
    assert "it does not follow the segment before it" in refused(disk, JournalDamaged)


def test_a_segment_under_another_name_is_refused() -> None:
    disk = written([append(1, 1)])
    disk.rename(FIRST, FOLDER / segment_name(2))
    assert "it begins with block 1, not with 2" in refused(disk, JournalDamaged)


def test_an_older_segment_with_something_behind_its_end_is_refused() -> None:
    disk = written(*([append(n, n)] for n in range(1, 9)), segment_bytes=500)
    edit(disk, FIRST, bytes(disk.files[FIRST]) + bytes(100))
    assert "a part of the last block was not written" in refused(disk, JournalDamaged)


def test_a_segment_that_is_larger_than_any_is_not_read() -> None:
    disk = written([append(1, 1)])
    edit(disk, FIRST, bytes(4 * limits.JOURNAL_SEGMENT_BYTES))
    assert "more than a segment can have" in refused(disk, JournalDamaged)


def test_a_snapshot_without_a_log_is_damage_and_no_new_journal() -> None:
    disk = written([append(1, 1)])
    save(opened(disk).journal.snapshots, snapshot_of(1))
    disk.delete(FIRST)
    assert "there is a snapshot and no log that leads to it" in refused(disk, JournalDamaged)


@pytest.mark.parametrize("what", [b"", b"meshdlog", b"something else entirely"])
def test_a_file_that_is_no_segment_is_refused(what: bytes) -> None:
    disk = MemoryDisk()
    edit(disk, FIRST, what)
    refused(disk, JournalDamaged)


# --- what checksums alone would not show


def forged(*blocks: tuple[int, int | None, bytes]) -> MemoryDisk:
    """A segment of blocks (number, checksum of the one before or None for the right one, body)."""
    header = Header(OWNER, 1, 0, b"12345678", Cursor())
    data, checksum = encode_header(header)
    for number, previous, body in blocks:
        before = checksum if previous is None else previous
        block, checksum = encode_block(number, before, header.seed, body)
        data += block
    disk = MemoryDisk()
    edit(disk, FIRST, data)
    return disk


def body(*records: Record) -> bytes:
    (only,) = encode_records(records)
    return only


def test_blocks_that_follow_each_other_are_taken() -> None:
    disk = forged((1, None, body(append(1, 1))), (2, None, body(append(2, 2))))
    assert opened(disk).stored.entries == append(1, 2).entries


def test_a_good_block_with_a_number_left_out_is_refused() -> None:
    disk = forged((1, None, body(append(1, 1))), (3, None, body(append(2, 2))))
    assert "there is block 3 where block 2 ought to be" in refused(disk, JournalDamaged)


def test_a_good_block_that_follows_another_than_the_one_before_it_is_refused() -> None:
    disk = forged((1, None, body(append(1, 1))), (2, 12345, body(append(2, 2))))
    assert "there is block 2 where block 2 ought to be" in refused(disk, JournalDamaged)


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([append(3, 3)], "block 2: entry 3 does not follow entry 1"),
        ([Truncate(2)], "block 2: entry 2 cannot be taken away"),
        ([Ballot(4, OTHER)], "block 2: the vote of term 4 is"),
        ([Ballot(3, NODE)], "block 2: term 3 is before term 4"),
        ([rebase(snapshot_of(1))], "it is missing"),
    ],
)
def test_records_that_cannot_follow_are_refused(records: list[Record], why: str) -> None:
    disk = forged((1, None, body(append(1, 1), Ballot(4, NODE))), (2, None, body(*records)))
    assert why in refused(disk, JournalDamaged)


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (b"\x09", "a record of unknown type 9"),
        (body(append(1, 1))[:-1], "a record that is cut"),
        (body(append(1, 1))[:9], "a record that is cut"),
        (body(Ballot(1, NODE))[:-1], "a record that is cut"),
        (body(append(1, 1)).replace(b"\0\0\0\0\x09", b"\x7f\0\0\0\x09"), "unknown kind 127"),
    ],
)
def test_records_that_are_none_are_refused(block: bytes, why: str) -> None:
    assert why in refused(forged((1, None, block)), JournalDamaged)


def test_a_header_that_does_not_agree_with_the_blocks_before_it_is_refused() -> None:
    disk = written([append(1, 1)])
    scan = scan_segment(bytes(disk.files[FIRST]))
    wrong = Header(OWNER, 2, scan.checksum, b"12345678", Cursor(Ballot(7, NODE), last_index=1))
    edit(disk, FOLDER / segment_name(2), encode_header(wrong)[0])
    assert "its header and the blocks before it do not agree" in refused(disk, JournalDamaged)


def test_the_header_of_a_segment_is_checked_field_by_field() -> None:
    disk = written([append(1, 1)])
    good = scan_segment(bytes(disk.files[FIRST])).header
    for wrong in (
        replace(good, salt=b"short"),
        replace(good, owner=Owner(MeshId("../../etc"), NODE)),
        replace(good, cursor=replace(good.cursor, last_index=-1)),
    ):
        edit(disk, FIRST, encode_segment(wrong, [])[0])
        assert "the fields that it must have" in refused(disk, JournalDamaged)
