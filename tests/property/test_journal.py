"""The journal against crashes: whatever was acknowledged is there, whatever is there was written.

After each crash the journal is opened, and what it holds is what the acknowledged writes make, or
that and the write that was under way.  Then the power goes again at once: what an opened journal
reports as stored is durable, whatever an earlier process had left in the system's memory.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.consensus.entries import Append, Ballot, Record, Snapshot, Stored, Truncate
from meshd.consensus.journal import Journal, JournalFailed, JournalUnusable
from meshd.consensus.journal.records import decode_records, encode_records
from meshd.consensus.journal.segments import Header, encode_header, encode_segment, scan_segment
from meshd.consensus.journal.state import Cursor
from meshd.consensus.replay import EMPTY, replay
from meshd.errors import DiskFailed, ProtocolError
from meshd.testing.disk import MemoryDisk, PowerLost
from tests.unit.consensus.journal_rig import (
    NODE,
    OWNER,
    Step,
    append,
    opened,
    random_steps,
    rebase,
    save,
    segments,
    snapshot_of,
)

SEGMENT_BYTES = 1000
HEADER = Header(OWNER, 1, 0, b"12345678", Cursor())


@dataclass
class Life:
    """What a process has got done on a disk."""

    disk: MemoryDisk
    sure: Stored = EMPTY
    """What the acknowledged writes make."""
    perhaps: Stored = EMPTY
    """The same with the write that is under way."""
    journal: Journal | None = field(default=None, repr=False)

    def start(self, seed: int = 0) -> Stored:
        """Open the journal; what it held."""
        found = opened(self.disk, segment_bytes=SEGMENT_BYTES, seed=seed)
        self.journal = found.journal
        return found.stored

    def do(self, step: Step) -> None:
        """What a driver does: snapshot, records, then what the snapshot makes obsolete."""
        assert self.journal is not None
        if step.snapshot is not None:
            save(self.journal.snapshots, step.snapshot)
        self.perhaps = step.after
        self.journal.write(step.records)
        self.sure = self.perhaps
        if step.snapshot is not None:
            self.journal.compact()

    def check_after_crash(self) -> Stored:
        """Start anew, twice, with a power loss in between."""
        found = self.start(seed=1)
        assert found in (self.sure, self.perhaps)
        self.disk.lose_power()
        assert self.start(seed=2) == found, "what was reported as stored was not durable"
        self.sure = self.perhaps = found
        return found


def crash_at(disk: MemoryDisk, count: int, error: Callable[[], BaseException]) -> None:
    """Let step number `count`, from 0, fail, and all that come after it."""
    left = [count]

    def on_step(name: str, path: PurePath) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise error()

    disk.on_step = on_step


def run(life: Life, steps: Sequence[Step]) -> bool:
    """Do these, as far as the disk goes along; whether it did to the end."""
    try:
        life.start()
        for step in steps:
            life.do(step)
    except (PowerLost, JournalFailed, DiskFailed):
        return False
    return True


def scenario() -> list[Step]:
    """A little of everything: segments, a conflict, two snapshots of its own, one of a leader's."""
    stored = EMPTY
    steps = []

    def then(records: list[Record], snapshot: Snapshot | None = None) -> None:
        nonlocal stored
        stored = replay(stored, records, [snapshot] if snapshot else [])
        steps.append(Step(snapshot, records, stored))

    then([Ballot(1, NODE)])
    for index in range(1, 7):
        then([append(index, index, data=bytes([index]) * 300)])
    then([Ballot(2), Truncate(5), append(5, 6, term=2)])
    then([rebase(snapshot_of(4))], snapshot_of(4))
    then([append(7, 8, term=2, data=b"x" * 1200)])
    then(
        [rebase(snapshot_of(8, term=2, state=bytes(5000)))],
        snapshot_of(8, term=2, state=bytes(5000)),
    )
    then([append(9, 9, term=2)])
    leaders = snapshot_of(20, term=3)
    then([Ballot(3), rebase(leaders, keep_after=False), append(21, 22, term=3)], leaders)
    then([append(23, 23, term=3)])
    return steps


def io_error() -> DiskFailed:
    return DiskFailed(errno.EIO, "the disk reports an error")


@pytest.mark.parametrize("seed", range(6))
def test_power_may_go_at_every_step_of_the_disk(seed: int) -> None:
    steps = scenario()
    done, count = False, 0
    seen = set()
    while not done:
        life = Life(MemoryDisk(chance=random.Random(1000 * seed + count)))
        crash_at(life.disk, count, PowerLost)
        done = run(life, steps)
        life.disk.on_step = None
        life.disk.lose_power()
        seen.add(life.check_after_crash())
        count += 1
    assert count > 60
    assert seen == {EMPTY, *(step.after for step in steps)}


def test_power_may_go_again_at_every_step_of_opening_what_a_crash_left() -> None:
    steps = scenario()
    done, count, openings = False, 0, 0
    while not done:
        again, opens = False, 0
        while not again:
            life = Life(MemoryDisk(chance=random.Random(1000 * count + opens)))
            crash_at(life.disk, count, PowerLost)
            done = run(life, steps)
            if count % 2:
                life.disk.lose_power()
            crash_at(life.disk, opens, PowerLost)
            try:
                life.start(seed=3)
                again = True
            except PowerLost:
                life.disk.on_step = None
                life.disk.lose_power()
            life.disk.on_step = None
            life.check_after_crash()
            opens += 1
        openings += opens
        count += 1
    assert openings > 4 * count


def test_a_process_may_die_at_every_step() -> None:
    steps = scenario()
    done, count = False, 0
    while not done:
        life = Life(MemoryDisk(chance=random.Random(count)))
        crash_at(life.disk, count, PowerLost)
        done = run(life, steps)
        life.disk.on_step = None
        life.disk.release()
        life.check_after_crash()
        count += 1


def test_the_disk_may_fail_at_every_step_and_nothing_is_written_after_it() -> None:
    """A failed sync among them: what it was for is read again, as if it were there."""
    steps = scenario()
    for loses_power in (False, True):
        done, count, refused = False, 0, 0
        while not done:
            life = Life(MemoryDisk(chance=random.Random(count)))
            crash_at(life.disk, count, io_error)
            done = run(life, steps)
            life.disk.on_step = None
            if life.journal is not None and life.journal.failed is not None:
                before = dict(life.disk.files)
                with pytest.raises(JournalFailed, match="takes nothing any more"):
                    life.journal.write([Ballot(99)])
                assert life.disk.files == before
                refused += 1
            if loses_power:
                life.disk.lose_power()
            life.check_after_crash()
            count += 1
        assert refused > 30


def test_the_disk_may_be_full_at_every_byte() -> None:
    steps = scenario()
    done, capacity = False, 0
    while not done:
        life = Life(MemoryDisk(capacity_bytes=capacity))
        done = run(life, steps)
        if capacity % 2:
            life.disk.lose_power()
        life.disk.capacity_bytes = None
        life.check_after_crash()
        capacity += 31


@given(seed=st.integers(0, 2**32), lives=st.lists(st.integers(0, 60), min_size=1, max_size=6))
def test_any_records_survive_any_crashes(seed: int, lives: list[int]) -> None:
    chance = random.Random(seed)
    life = Life(MemoryDisk(chance=chance))
    for crash_after in lives:
        if chance.random() < 0.7:
            crash_at(life.disk, crash_after, chance.choice([PowerLost, io_error]))
        run(life, random_steps(chance, life.sure, 12))
        life.disk.on_step = None
        if chance.random() < 0.7:
            life.disk.lose_power()
        life.check_after_crash()


# --- bytes


@given(seed=st.integers(0, 2**32))
def test_records_are_read_as_they_were_written(seed: int) -> None:
    chance = random.Random(seed)
    records = [record for step in random_steps(chance, EMPTY, 8) for record in step.records]
    (body,) = encode_records(records)
    read = decode_records(body)
    assert _entry_by_entry(read) == _entry_by_entry(records)
    assert encode_records(read) == [body]


def _entry_by_entry(records: Sequence[Record]) -> list[object]:
    """How the entries are parted into Appends says nothing."""
    flat: list[object] = []
    for record in records:
        flat.extend(record.entries if isinstance(record, Append) else [record])
    return flat


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    with suppress(ProtocolError):
        decode_records(data)
    for head in (b"meshdlog\0\1", encode_segment(HEADER, [])[0]):
        with suppress(ProtocolError):
            scan_segment(head + data)


@given(st.binary(min_size=1, max_size=2000))
def test_bytes_behind_a_good_block_leave_it_good(data: bytes) -> None:
    good, _ = encode_segment(HEADER, [b"\3" + bytes(8)])
    scan = scan_segment(good + data)
    assert scan.end == len(good)
    assert len(scan.blocks) == 1
    assert scan.flaw is not None


# --- damage


def filled() -> tuple[MemoryDisk, list[Stored]]:
    """A small journal of two segments and a snapshot; what each block of the second makes."""
    life = Life(MemoryDisk())
    stored = EMPTY
    states = []
    snapshot = snapshot_of(2)
    batches: list[list[Record]] = [
        [Ballot(1, NODE)],
        [append(1, 3)],
        [rebase(snapshot)],
        [append(4, 4, data=b"x" * 700)],
        [append(5, 5, data=b"y" * 100)],
        [Ballot(2), Truncate(5)],
        [append(5, 6, term=2, data=b"z" * 600)],
    ]
    life.start()
    for records in batches:
        known = [snapshot] if rebase(snapshot) in records else []
        stored = replay(stored, records, known)
        life.do(Step(known[0] if known else None, records, stored))
        states.append(stored)
    first, second = segments(life.disk)
    assert len(life.disk.files[first]) > SEGMENT_BYTES
    assert len(life.disk.files[second]) > 500
    return life.disk, states[3:]


def test_a_flipped_bit_anywhere_is_never_taken_for_what_was_written() -> None:
    disk, states = filled()
    files = {path: bytes(data) for path, data in disk.files.items()}
    for path, data in files.items():
        for offset in range(len(data)):
            flipped = bytearray(data)
            flipped[offset] ^= 1 << offset % 8
            disk.write(path, bytes(flipped), private=True)
            with pytest.raises(JournalUnusable):
                opened(disk)
            assert disk.files[path] == flipped, "it was changed all the same"
        disk.write(path, data, private=True)
    assert opened(disk).stored == states[-1]


def test_a_bit_that_is_misread_once_does_no_harm() -> None:
    disk, states = filled()
    refused = 0
    for seed in range(500):
        disk.misread = misread_once(random.Random(seed))
        try:
            assert opened(disk).stored == states[-1]
        except JournalUnusable:
            refused += 1
        disk.misread = None
        assert opened(disk).stored == states[-1]
    assert refused > 100


def misread_once(chance: random.Random) -> Callable[[PurePath, bytes], bytes]:
    """Flip a bit in one of the next reads."""
    left = [chance.randrange(8)]

    def misread(path: PurePath, data: bytes) -> bytes:
        left[0] -= 1
        if left[0] or not data:
            return data
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(flipped)

    return misread


def test_a_last_segment_that_ends_anywhere_is_cut_behind_its_last_whole_block() -> None:
    disk, states = filled()
    path = segments(disk)[-1]
    data = bytes(disk.files[path])
    scan = scan_segment(data)
    ends = [len(encode_header(scan.header)[0]), *(block.end for block in scan.blocks)]
    assert len(ends) == len(states)
    for size in range(len(data) + 1):
        disk.write(path, data[:size], private=True)
        if size < ends[0]:  # it was durable before the file had its name
            with pytest.raises(JournalUnusable, match="header"):
                opened(disk)
            continue
        whole = max(end for end in ends if end <= size)
        found = opened(disk)
        assert found.stored == states[ends.index(whole)]
        if size == whole:
            assert found.cut is None
        else:
            assert found.cut is not None
            assert (found.cut.offset, found.cut.size_bytes) == (whole, size - whole)
        assert opened(disk).cut is None, "it was not cut off"


def test_an_older_segment_that_ends_too_early_is_damage() -> None:
    disk, _ = filled()
    path = segments(disk)[0]
    data = bytes(disk.files[path])
    for size in range(len(data)):
        disk.write(path, data[:size], private=True)
        with pytest.raises(JournalUnusable):
            opened(disk)
        assert disk.files[path] == data[:size]
