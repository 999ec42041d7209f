"""Files that grow: what both disks promise, and how the one in memory loses, fills up and fails."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
import sys
from pathlib import Path

import pytest

from meshd.errors import DiskFailed
from meshd.machine.disk import FileDisk
from meshd.ports import Disk
from meshd.testing.disk import SECTOR_BYTES, MemoryDisk, PowerLost


@pytest.fixture(params=[FileDisk, MemoryDisk])
def disk(request: pytest.FixtureRequest) -> Disk:
    made: Disk = request.param()
    return made


def test_what_is_added_is_read_in_whole_and_in_part(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "a" / "1.log"
    assert disk.read_part(path, 0, 10) is None
    assert disk.size(path) is None
    file = disk.create(path)
    file.append(b"one")
    file.sync()
    file.append(b"two")
    assert file.size_bytes == disk.size(path) == 6
    assert disk.read(path) == b"onetwo"
    assert disk.read_part(path, 2, 2) == b"et"
    assert disk.read_part(path, 4, 100) == b"wo"
    assert disk.read_part(path, 6, 100) == b""
    file.close()
    file.close()


def test_a_file_that_is_there_is_not_made_again(disk: Disk, tmp_path: Path) -> None:
    disk.create(tmp_path / "1.log").close()
    with pytest.raises(DiskFailed, match=r"cannot make .*: it is there already"):
        disk.create(tmp_path / "1.log")


def test_a_file_goes_on_under_its_new_name_in_place_of_the_old_one(
    disk: Disk, tmp_path: Path
) -> None:
    disk.write(tmp_path / "log", b"old", private=True)
    file = disk.create(tmp_path / "log.new")
    file.append(b"new")
    disk.rename(tmp_path / "log.new", tmp_path / "log")
    file.append(b"er")
    assert disk.names(tmp_path) == ["log"]
    assert disk.read(tmp_path / "log") == b"newer"


def test_a_folder_is_renamed_with_what_is_in_it(disk: Disk, tmp_path: Path) -> None:
    disk.folder(tmp_path / "journal")
    disk.create(tmp_path / "journal" / "1.log").append(b"x")
    disk.rename(tmp_path / "journal", tmp_path / "aside")
    assert disk.names(tmp_path) == ["aside"]
    assert disk.names(tmp_path / "aside") == ["1.log"]
    assert disk.names(tmp_path / "journal") == []
    with pytest.raises(DiskFailed, match=r"cannot rename .*: it is not there"):
        disk.rename(tmp_path / "journal", tmp_path / "elsewhere")


def test_there_is_room(disk: Disk, tmp_path: Path) -> None:
    assert disk.free_bytes(tmp_path) > 1000


def test_a_growing_file_is_private(tmp_path: Path) -> None:
    FileDisk().create(tmp_path / "1.log").close()
    assert stat.S_IMODE((tmp_path / "1.log").stat().st_mode) == 0o600


def test_a_link_is_not_followed_to_make_a_file(tmp_path: Path) -> None:
    (tmp_path / "1.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DiskFailed):
        FileDisk().create(tmp_path / "1.log")
    assert not (tmp_path / "elsewhere").exists()


class Mac:
    """A Mac's fcntl, as far as it matters here."""

    F_FULLFSYNC = 51

    def __init__(self, error: int | None) -> None:
        self.error = error
        self.calls: list[str] = []

    def fcntl(self, descriptor: int, command: int) -> None:
        assert command == self.F_FULLFSYNC
        self.calls.append("full")
        if self.error is not None:
            raise OSError(self.error, "no")

    def fsync(self, descriptor: int) -> None:
        self.calls.append("fsync")


@pytest.mark.parametrize(
    ("error", "calls"), [(None, ["full"]), (errno.ENOTSUP, ["full", "fsync"]), (errno.EIO, None)]
)
def test_a_mac_is_told_to_empty_the_drives_cache_and_an_error_is_not_tried_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None, calls: list[str] | None
) -> None:
    mac = Mac(error)
    file = FileDisk().create(tmp_path / "1.log")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", Mac.F_FULLFSYNC, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", mac.fcntl)
    monkeypatch.setattr(os, "fsync", mac.fsync)
    if calls is None:
        with pytest.raises(DiskFailed, match=r"cannot make durable .*: the disk reports an error"):
            file.sync()
        assert mac.calls == ["full"]
    else:
        file.sync()
        assert mac.calls == calls


# --- how the disk in memory loses


def fail_at(disk: MemoryDisk, name: str, error: BaseException) -> None:
    """Let the next step of that name fail, once."""

    def on_step(step: str, path: object) -> None:
        if step == name:
            disk.on_step = None
            raise error

    disk.on_step = on_step


def io_error() -> DiskFailed:
    return DiskFailed(errno.EIO, "the disk reports an error")


LOG, ASIDE = Path("/j/1.log"), Path("/j/1.new")


def grown(disk: MemoryDisk, synced: bytes, rest: bytes) -> None:
    file = disk.create(ASIDE)
    file.append(synced)
    file.sync()
    disk.rename(ASIDE, LOG)
    file.append(rest)


def test_a_power_loss_takes_what_was_not_synced() -> None:
    disk = MemoryDisk()
    grown(disk, b"safe", b"gone")
    disk.lose_power()
    assert disk.files == {LOG: b"safe"}


def test_a_process_that_ends_takes_nothing_with_it() -> None:
    disk = MemoryDisk()
    grown(disk, b"safe", b"seen")
    disk.release()
    assert disk.files == {LOG: b"safeseen"}
    disk.lose_power()
    assert disk.files == {LOG: b"safe"}


def test_what_is_left_of_what_was_not_synced_is_left_to_chance() -> None:
    rest = bytes(range(1, 251)) * 10
    seen = set()
    for seed in range(200):
        disk = MemoryDisk(chance=random.Random(seed))
        grown(disk, b"safe", rest)
        disk.lose_power()
        left = bytes(disk.files[LOG])
        assert left.startswith(b"safe")
        whole = b"safe" + rest
        sectors = [
            whole[at : at + SECTOR_BYTES] == left[at : at + SECTOR_BYTES]
            for at in range(0, len(left), SECTOR_BYTES)
        ]
        if left == whole:
            seen.add("all")
        elif left == b"safe":
            seen.add("nothing")
        elif whole.startswith(left):
            seen.add("a beginning")
        elif False in sectors and True in sectors[sectors.index(False) :]:
            seen.add("a later sector without an earlier one")
    assert seen == {
        "all", "nothing", "a beginning", "a later sector without an earlier one",
    }  # fmt: skip


def test_after_a_failed_sync_the_data_is_read_and_yet_lost() -> None:
    disk = MemoryDisk()
    grown(disk, b"safe", b"")
    file = disk.create(ASIDE)
    file.append(b"lost")
    fail_at(disk, "sync", io_error())
    with pytest.raises(DiskFailed):
        file.sync()
    file.append(b"kept")
    file.sync()
    disk.rename(ASIDE, LOG)
    assert disk.read(LOG) == b"lostkept"
    disk.lose_power()
    assert disk.read(LOG) == b"\0\0\0\0kept"


def test_a_full_disk_takes_the_beginning_of_what_is_added() -> None:
    disk = MemoryDisk(capacity_bytes=6)
    file = disk.create(LOG)
    file.append(b"1234")
    with pytest.raises(DiskFailed, match="the disk is full") as caught:
        file.append(b"5678")
    assert caught.value.errno == errno.ENOSPC
    assert disk.read(LOG) == b"123456"
    assert disk.free_bytes(Path("/j")) == 0


def test_a_name_is_the_old_file_or_the_new_one_when_power_goes_within_a_rename() -> None:
    left = set()
    for seed in range(50):
        disk = MemoryDisk(chance=random.Random(seed))
        grown(disk, b"old", b"")
        file = disk.create(ASIDE)
        file.append(b"new")
        file.sync()
        fail_at(disk, "sync folder", PowerLost())
        with pytest.raises(PowerLost):
            disk.rename(ASIDE, LOG)
        assert disk.files == {LOG: b"new"}
        disk.lose_power()
        left.add(tuple(sorted((path.name, bytes(data)) for path, data in disk.files.items())))
    assert left == {
        (("1.log", b"old"),),
        (("1.log", b"old"), ("1.new", b"new")),
        (("1.log", b"new"),),
    }


def test_a_name_that_was_never_made_durable_goes_with_the_power() -> None:
    disk = MemoryDisk()
    disk.create(ASIDE).sync()
    disk.lose_power()
    assert disk.files == {}


def test_a_deletion_within_which_power_goes_may_not_have_been() -> None:
    left = set()
    for seed in range(20):
        disk = MemoryDisk(chance=random.Random(seed))
        grown(disk, b"old", b"")
        fail_at(disk, "sync folder", PowerLost())
        with pytest.raises(PowerLost):
            disk.delete(LOG)
        disk.lose_power()
        left.add(LOG in disk.files)
    assert left == {False, True}


def test_a_failed_addition_leaves_a_part() -> None:
    left = set()
    for seed in range(50):
        disk = MemoryDisk(chance=random.Random(seed))
        file = disk.create(LOG)
        fail_at(disk, "append", io_error())
        with pytest.raises(DiskFailed):
            file.append(b"123")
        left.add(disk.read(LOG))
    assert left == {b"", b"1", b"12", b"123"}


def test_a_file_ends_with_the_process_that_had_it_open() -> None:
    disk = MemoryDisk()
    file = disk.create(LOG)
    disk.release()
    with pytest.raises(AssertionError, match="not open any more"):
        file.append(b"x")


def test_a_file_may_be_read_wrongly() -> None:
    disk = MemoryDisk()
    disk.write(LOG, b"abc", private=True)
    disk.misread = lambda path, data: data.replace(b"b", b"c")
    assert disk.read(LOG) == b"acc"
    assert disk.read_part(LOG, 1, 1) == b"c"
    disk.misread = None
    assert disk.read(LOG) == b"abc"


def test_the_same_seed_loses_the_same() -> None:
    """Wherever the program has put its objects in memory."""

    def left_after_power_loss(elsewhere: int) -> dict[str, bytes]:
        kept = [bytearray(100) for _ in range(elsewhere)]
        disk = MemoryDisk(chance=random.Random(5))
        for number in range(20):
            disk.create(LOG.with_name(f"{number}")).append(bytes([number]) * 3000)
            disk.write(LOG, b"", private=True)
        disk.lose_power()
        assert len(kept) == elsewhere
        return {path.name: bytes(data) for path, data in disk.files.items()}

    first = left_after_power_loss(0)
    assert len({len(data) for data in first.values()}) > 2
    assert all(left_after_power_loss(elsewhere) == first for elsewhere in range(1, 20))
