"""One node's blobs: crashes at every step of a call, disks that fail, and a real one."""

from __future__ import annotations

import errno
import os
import random
import stat
from pathlib import Path, PurePath

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.errors import DiskFailed, Refused
from meshd.jobs.blob_store import BlobStore, NoRoom, erase
from meshd.machine.disk import FileDisk
from meshd.testing.disk import MemoryDisk, PowerLost
from tests.unit.jobs.blob_nodes import FOLDER, START_MS, node_id, sha

A, B = node_id("a"), node_id("b")
SMALL = b"small " * 1000
LARGE = random.Random(1).randbytes(3 * limits.BLOB_PART_BYTES + 17)
PARTS = range(0, len(LARGE), limits.BLOB_PART_BYTES)


async def opened(disk: MemoryDisk | FileDisk, folder: PurePath = FOLDER) -> BlobStore:
    store = BlobStore(disk, folder)
    await store.open()
    return store


async def send(store: BlobStore, data: bytes, sender: str = "a") -> bool:
    """In parts; whether it is stored."""
    whole = False
    for offset in range(0, len(data), limits.BLOB_PART_BYTES):
        part = data[offset : offset + limits.BLOB_PART_BYTES]
        _, whole = await store.take_part(node_id(sender), sha(data), len(data), offset, part)
    return whole


def bodies(disk: MemoryDisk) -> dict[str, bytes]:
    return {path.name: bytes(data) for path, data in disk.files.items()}


# --- crashes


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("way", ["write", "parts", "again", "collect"])
async def test_a_power_loss_at_any_step_leaves_whole_blobs_and_what_was_said_to_be_stored(
    autojump_clock: MockClock, way: str, seed: int
) -> None:
    """Every step of every call is the last one once."""
    for crash in range(100):
        disk = MemoryDisk(chance=random.Random(f"{seed} {crash}"))
        store = await opened(disk)
        await store.write(sha(SMALL), SMALL)
        stored = {sha(SMALL)}
        steps = 0

        def step(name: str, path: PurePath, crash: int = crash) -> None:
            nonlocal steps
            steps += 1
            if steps > crash:
                raise PowerLost

        disk.on_step = step
        try:
            match way:
                case "write":
                    await store.write(sha(LARGE), LARGE)
                case "parts":
                    assert await send(store, LARGE)
                case "again":
                    await store.looked([sha(SMALL)], START_MS)
                    await store.write(sha(SMALL), SMALL)
                    await store.write(sha(LARGE), LARGE)
                case "collect":
                    await store.write(sha(LARGE), LARGE)
                    await store.looked([sha(SMALL)], START_MS)
                    await trio.sleep(limits.BLOB_GRACE_S + 1)
                    stored.clear()
                    await store.collect(START_MS + limits.BLOB_KEPT_S * 1000)
            stored.add(sha(LARGE))
            over = True
        except PowerLost:
            over = False
        disk.on_step = None
        disk.lose_power()
        again = await opened(disk)
        assert stored <= again.held.keys()
        found = [await again.read(digest) or b"" for digest in again.held]
        assert [sha(data) for data in found] == list(again.held)
        assert again.size_bytes == sum(map(len, found))
        assert not [name for name in bodies(disk) if name.startswith(".")]
        assert await send(again, LARGE)
        if over:
            return
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize("way", ["write", "parts"])
async def test_a_disk_that_fails_at_any_step_stores_nothing_and_loses_no_room(
    autojump_clock: MockClock, way: str
) -> None:
    for failing in range(100):
        disk = MemoryDisk()
        store = await opened(disk)
        steps = 0

        def step(name: str, path: PurePath, failing: int = failing) -> None:
            nonlocal steps
            steps += 1
            if steps == failing + 1:
                raise DiskFailed(errno.EIO, f"cannot {name} {path}: the disk reports an error")

        disk.on_step = step
        try:
            await (store.write(sha(LARGE), LARGE) if way == "write" else send(store, LARGE))
        except DiskFailed:
            assert not store.held
            assert store.size_bytes == 0
            assert not store.is_any_coming
            assert await send(store, LARGE)
        else:
            assert failing >= steps
            return
        assert await store.read(sha(LARGE)) == LARGE
        assert store.size_bytes == len(LARGE)
    raise AssertionError("it never came to an end")


async def test_a_disk_that_fills_up_midway_is_left_as_it_was(autojump_clock: MockClock) -> None:
    disk = MemoryDisk()
    store = await opened(disk)
    await send(store, LARGE[: limits.BLOB_PART_BYTES])
    before = bodies(disk)
    part = LARGE[: limits.BLOB_PART_BYTES]
    assert not (await store.take_part(A, sha(LARGE), len(LARGE), 0, part))[1]
    disk.capacity_bytes = sum(len(data) for data in disk.files.values()) + 10
    with pytest.raises(DiskFailed, match="the disk is full"):
        await store.take_part(A, sha(LARGE), len(LARGE), len(part), part)
    assert bodies(disk) == before
    assert store.size_bytes == len(part)
    with pytest.raises(NoRoom, match="nearly full"):
        await store.write(sha(b"x"), b"x")


async def test_what_is_begun_counts_as_if_it_were_there(autojump_clock: MockClock) -> None:
    store = BlobStore(MemoryDisk(), FOLDER, max_bytes=len(LARGE) + len(SMALL) - 1)
    await store.open()
    part = LARGE[: limits.BLOB_PART_BYTES]
    await store.take_part(A, sha(LARGE), len(LARGE), 0, part)
    with pytest.raises(NoRoom):
        await store.write(sha(SMALL), SMALL)
    await trio.sleep(limits.BLOB_STALL_S)
    await store.forget_stalled()
    await store.write(sha(SMALL), SMALL)


async def test_two_senders_of_one_blob_make_one(autojump_clock: MockClock) -> None:
    disk = MemoryDisk()
    store = await opened(disk)
    said = []
    for offset in PARTS:
        part = LARGE[offset : offset + limits.BLOB_PART_BYTES]
        for sender in (A, B):
            said.append(await store.take_part(sender, sha(LARGE), len(LARGE), offset, part))
    assert said[-2:] == [(len(LARGE), True)] * 2
    assert list(bodies(disk)) == [sha(LARGE).hex()]
    assert store.size_bytes == len(LARGE)
    assert not store.is_any_coming


async def test_foreign_files_go_and_a_damaged_list_of_times_is_begun_anew(
    autojump_clock: MockClock,
) -> None:
    disk = MemoryDisk()
    store = await opened(disk)
    await store.write(sha(SMALL), SMALL)
    disk.write(FOLDER / ".left.part", b"x", private=True)
    disk.write(FOLDER / "unnamed", b"no such thing", private=True)
    store = await opened(disk)
    assert set(bodies(disk)) == {sha(SMALL).hex(), "unnamed"}
    await store.looked([sha(SMALL)], START_MS)
    await trio.sleep(limits.BLOB_GRACE_S + 1)
    assert await store.collect(START_MS + limits.BLOB_KEPT_S * 1000 - 1) == 0
    assert await store.collect(START_MS + limits.BLOB_KEPT_S * 1000) == 1
    erase(disk, FOLDER)
    assert not disk.files


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_comes_in_whatever_order_the_account_is_right(
    autojump_clock: MockClock, seed: int
) -> None:
    """Parts of a few blobs, right and wrong, from several nodes, with failures in between."""
    dice = random.Random(seed)
    blobs = [dice.randbytes(dice.choice([10, 65_536, 65_537, 200_000])) for _ in range(3)]
    disk = MemoryDisk(chance=random.Random(seed))
    store = await opened(disk)
    said: set[bytes] = set()

    def fail_now_and_then(name: str, path: PurePath) -> None:
        if dice.random() < 0.03:
            raise DiskFailed(errno.EIO, f"cannot {name} {path}: the disk reports an error")

    for _ in range(150):
        data = dice.choice(blobs)
        disk.on_step = fail_now_and_then
        try:
            match dice.randrange(12):
                case 0:
                    await store.write(sha(data), data)
                    said.add(sha(data))
                case 1:
                    await trio.sleep(limits.BLOB_STALL_S)
                    await store.forget_stalled()
                case 2:
                    size = dice.choice([len(data), len(data) + 1, 5])
                    offset = dice.choice([0, 5, 65_536])
                    await store.take_part(A, sha(data), size, offset, dice.randbytes(5))
                case 3:
                    disk.on_step = None
                    disk.lose_power()
                    store = await opened(disk)
                case _:
                    sender = dice.choice([A, B])
                    coming = store._coming.get((sender, sha(data)))
                    offset = coming.upto if coming else 0
                    part = data[offset : offset + limits.BLOB_PART_BYTES]
                    _, whole = await store.take_part(sender, sha(data), len(data), offset, part)
                    if whole:
                        said.add(sha(data))
        except (DiskFailed, Refused):
            pass
        disk.on_step = None
        assert said <= store.held.keys() <= {sha(blob) for blob in blobs}
        coming_bytes = sum(coming.size_bytes for coming in store._coming.values())
        held_bytes = sum(held.size_bytes for held in store.held.values())
        assert store.size_bytes == held_bytes + coming_bytes
    assert said
    for digest in store.held:
        assert await store.read(digest) is not None


# --- a real disk


async def test_on_a_real_disk_files_are_private_and_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "record" / "mesh.blobs"
    disk = FileDisk()
    store = await opened(disk, folder)
    blobs = [os.urandom(size) for size in (1, 70_000, 300_000, 2**20)]
    async with trio.open_nursery() as nursery:
        for data in blobs[:2]:
            nursery.start_soon(store.write, sha(data), data)
        for data in blobs[2:]:
            for sender in "ab":
                nursery.start_soon(send, store, data, sender)
    again = await opened(disk, folder)
    assert {digest: held.size_bytes for digest, held in again.held.items()} == {
        sha(data): len(data) for data in blobs
    }
    for data in blobs:
        assert await again.read(sha(data)) == data
        path = folder / sha(data).hex()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(list(folder.iterdir())) == len(blobs)
    size, part = await again.read_part(sha(blobs[3]), 2**20 - 5)
    assert (size, part) == (2**20, blobs[3][-5:])
    (folder / sha(blobs[1]).hex()).write_bytes(b"x")
    assert await again.read(sha(blobs[1])) is None
    assert await again.read_part(sha(blobs[1]), 0) == (0, b"")
    erase(disk, folder)
    assert not list(folder.iterdir())
