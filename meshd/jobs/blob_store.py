"""The blobs on this node's own disk: each in a file that is called by its digest (trio shell).

A file gets its name only when it is whole, checked and durable; so what has the name of a blob
after a crash is one.  What the disk has made of it since is checked whenever it is read whole, and
before anybody is told that it is here already.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from types import MappingProxyType
from typing import Final, TypeVar

import trio

from meshd import limits, logs
from meshd.errors import DiskFailed, LimitExceeded, MeshdError, Refused
from meshd.ids import NodeId, short
from meshd.jobs.blob_plan import Unnamed, digest_named, digest_of, file_name
from meshd.ports import AppendFile, Disk

log = logs.get("blobs")

T = TypeVar("T")

_UNNAMED: Final = "unnamed"
"""The file with the times since when nothing names a blob."""
_THREADS: Final = 8
_INLINE_BYTES: Final = 256 * limits.KIB
"""More is hashed in a thread: half a millisecond of the loop."""


class NoRoom(Refused):
    """This node keeps no more blobs: by its bounds, or for want of space on its disk."""


@dataclass(slots=True)
class Held:
    """A blob that is here."""

    size_bytes: int
    stored_at: float
    """When somebody stored it last, or this life of the store began; in trio's time."""


@dataclass(slots=True)
class _Coming:
    """A blob of which a part is here."""

    path: PurePath
    size_bytes: int
    file: AppendFile
    heard_at: float
    upto: int = 0
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)

    def append(self, data: bytes) -> None:
        self.file.append(data)
        self.sha256.update(data)


class BlobStore:
    """One folder.  `open` it first; all else may be called from any task."""

    def __init__(
        self,
        disk: Disk,
        folder: PurePath,
        *,
        max_bytes: int = limits.BLOBS_BYTES,
        max_count: int = limits.BLOBS,
    ) -> None:
        self._disk = disk
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_count = max_count
        self._held: dict[bytes, Held] = {}
        self.held: Mapping[bytes, Held] = MappingProxyType(self._held)
        self._coming: dict[tuple[NodeId, bytes], _Coming] = {}
        self._taken_bytes = 0
        """By what is here and by what is on its way."""
        self._taken = 0
        self._locks: dict[bytes, tuple[trio.Lock, int]] = {}
        self._unnamed = Unnamed()
        self._unnamed_lock = trio.Lock()
        self._threads = trio.CapacityLimiter(_THREADS)
        self._number = 0
        self.counters: Counter[str] = Counter()

    @property
    def size_bytes(self) -> int:
        """Of all blobs that are here, and of those that are on their way."""
        return self._taken_bytes

    # ---------------------------------------------------------------- a life

    async def open(self) -> None:
        """See what is here; what a crash has left half done goes.  Raises DiskFailed."""
        sizes, unnamed = await self._blocking(self._survey)
        now = trio.current_time()
        self._held.clear()
        self._coming.clear()
        self._held.update((digest, Held(size, now)) for digest, size in sizes.items())
        self._taken_bytes, self._taken = sum(sizes.values()), len(sizes)
        self._unnamed = Unnamed(unnamed)

    def _survey(self) -> tuple[dict[bytes, int], bytes]:
        self._disk.folder(self._folder)
        sizes = {}
        for name in self._disk.names(self._folder):
            digest = digest_named(name)
            if digest is not None:
                sizes[digest] = self._disk.size(self._folder / name) or 0
            elif name != _UNNAMED:
                self._disk.delete(self._folder / name)
        return sizes, self._disk.read(self._folder / _UNNAMED) or b""

    # ---------------------------------------------------------------- reading

    async def read(self, digest: bytes) -> bytes | None:
        """The blob, checked; None if it is not here (any more).  Raises DiskFailed."""
        if digest not in self._held:
            return None
        data = await self._sound(digest)
        if data is None:
            async with self._alone_with(digest):
                if digest in self._held and await self._sound(digest) is None:
                    await self._drop(digest)
                    self.counters["blobs_damaged"] += 1
                    log.error("a blob was damaged on this disk; deleted", blob=digest.hex())
        return data

    async def read_part(self, digest: bytes, offset: int) -> tuple[int, bytes]:
        """The size of the whole, and a part of it as it is on the disk; 0 if it is not here.

        Raises DiskFailed.
        """
        held = self._held.get(digest)
        if held is None:
            return 0, b""
        size = min(limits.BLOB_PART_BYTES, max(0, held.size_bytes - offset))
        part = await self._blocking(lambda: self._disk.read_part(self._path(digest), offset, size))
        return (0, b"") if part is None or len(part) != size else (held.size_bytes, part)

    # ---------------------------------------------------------------- storing

    async def write(self, digest: bytes, data: bytes) -> None:
        """Store it whole; durable when this returns.  Raises DiskFailed, NoRoom."""
        async with self._alone_with(digest):
            if not await self._is_here(digest):
                await self._write(digest, data)

    async def take_part(
        self, sender: NodeId, digest: bytes, size_bytes: int, offset: int, data: bytes
    ) -> tuple[int, bool]:
        """Part of a blob that a node sends: up to where it is here, and whether it is stored.

        Raises DiskFailed, NoRoom, LimitExceeded, Refused; then what came of it is forgotten.
        """
        async with self._alone_with(digest):
            if await self._is_here(digest):
                await self._forget(sender, digest)  # another was quicker
                return self._held[digest].size_bytes, True
            coming = self._coming.get((sender, digest))
            if offset + len(data) > size_bytes or (coming and coming.size_bytes != size_bytes):
                await self._forget(sender, digest)
                raise Refused("the parts of this blob do not fit to each other")
            if coming is None and len(data) == size_bytes:
                if await self._off_loop(size_bytes, lambda: digest_of(data)) != digest:
                    raise self._wrong(sender, digest)
                await self._write(digest, data)
                return size_bytes, True
            if coming is None and offset == 0:
                coming = await self._begin(sender, digest, size_bytes)
            if coming is None or coming.upto != offset:
                return coming.upto if coming else 0, False
            try:
                await self._take(sender, digest, coming, data)
            except (MeshdError, trio.Cancelled):
                await self._forget(sender, digest)
                raise
            return coming.upto, coming.upto == size_bytes

    async def _take(self, sender: NodeId, digest: bytes, coming: _Coming, data: bytes) -> None:
        coming.heard_at = trio.current_time()
        await self._blocking(lambda: coming.append(data))
        coming.upto += len(data)
        if coming.upto < coming.size_bytes:
            return
        if coming.sha256.digest() != digest:
            raise self._wrong(sender, digest)

        def finish() -> None:
            coming.file.sync()
            coming.file.close()
            self._disk.rename(coming.path, self._path(digest))

        await self._blocking(finish)
        del self._coming[sender, digest]  # its room is that of the blob now
        self._held[digest] = Held(coming.size_bytes, trio.current_time())

    async def _begin(self, sender: NodeId, digest: bytes, size_bytes: int) -> _Coming:
        of_sender = [node for node, _ in self._coming if node == sender]
        if (
            len(of_sender) >= limits.BLOBS_COMING_PER_NODE
            or len(self._coming) >= limits.BLOBS_COMING
        ):
            raise LimitExceeded("too many blobs are on their way to this node; try again")
        self._reserve(size_bytes)
        self._number += 1
        path = self._folder / f".{file_name(digest)}.{self._number}.part"
        try:
            file = await self._blocking(lambda: self._create(path, size_bytes))
        except BaseException:  # also a cancel: the room is free again
            self._release(size_bytes)
            raise
        coming = _Coming(path, size_bytes, file, trio.current_time())
        self._coming[sender, digest] = coming
        return coming

    def _create(self, path: PurePath, size_bytes: int) -> AppendFile:
        self._check_space(size_bytes)
        self._disk.delete(path)
        return self._disk.create(path)

    async def _write(self, digest: bytes, data: bytes) -> None:
        def write() -> None:
            self._check_space(len(data))
            self._disk.write(self._path(digest), data, private=True)

        self._reserve(len(data))
        try:
            await self._blocking(write)
        except BaseException:  # also a cancel: the room is free again
            self._release(len(data))
            raise
        self._held[digest] = Held(len(data), trio.current_time())

    async def _is_here(self, digest: bytes) -> bool:
        """Whether it is here, whole; its time has not begun then.  What is damaged goes."""
        if digest not in self._held:
            return False
        if await self._sound(digest) is None:
            await self._drop(digest)
            return False
        self._held[digest].stored_at = trio.current_time()
        if self._unnamed.touch(digest):
            await self._save_unnamed()
        return True

    # ---------------------------------------------------------------- forgetting

    async def forget_stalled(self) -> None:
        """Forget what came of blobs that nobody goes on sending."""
        before = trio.current_time() - limits.BLOB_STALL_S
        for sender, digest in list(self._coming):
            async with self._alone_with(digest):
                coming = self._coming.get((sender, digest))
                if coming is not None and coming.heard_at <= before:
                    await self._forget(sender, digest)

    @property
    def is_any_coming(self) -> bool:
        return bool(self._coming)

    async def looked(self, unnamed: Iterable[bytes], now_ms: int) -> None:
        """Nothing names these of those that are here.  Raises DiskFailed."""
        if self._unnamed.look(unnamed, now_ms):
            await self._save_unnamed()

    async def collect(self, now_ms: int) -> int:
        """Delete those that nothing has named for long; how many.  Raises DiskFailed.

        Not those that were stored just now: whoever did is about to name them.
        """
        gone = 0
        for digest in self._unnamed.over(now_ms):
            async with self._alone_with(digest):
                held = self._held.get(digest)
                fresh_from = trio.current_time() - limits.BLOB_GRACE_S
                if held is not None and held.stored_at < fresh_from:
                    await self._drop(digest)
                    gone += 1
        return gone

    # ---------------------------------------------------------------- within

    def _path(self, digest: bytes) -> PurePath:
        return self._folder / file_name(digest)

    async def _sound(self, digest: bytes) -> bytes | None:
        """Its bytes; None if they are not those that were stored, or gone.  Raises DiskFailed."""

        def read() -> bytes | None:
            data = self._disk.read(self._path(digest))
            return data if data is not None and digest_of(data) == digest else None

        return await self._blocking(read)

    async def _drop(self, digest: bytes) -> None:
        await self._blocking(lambda: self._disk.delete(self._path(digest)))
        self._release(self._held.pop(digest).size_bytes)
        self._unnamed.touch(digest)

    async def _forget(self, sender: NodeId, digest: bytes) -> None:
        coming = self._coming.pop((sender, digest), None)
        if coming is None:
            return
        self._release(coming.size_bytes)

        def delete() -> None:
            coming.file.close()
            self._disk.delete(coming.path)

        with trio.CancelScope(shield=True):
            try:
                await self._blocking(delete)
            except DiskFailed as error:
                log.warning("a part of a blob is left until the next start", why=str(error))

    def _wrong(self, sender: NodeId, digest: bytes) -> Refused:
        self.counters["blobs_wrong"] += 1
        log.warning("a node sent another blob than it said", node=short(sender), blob=digest.hex())
        return Refused("the bytes of this blob do not have its digest")

    def _reserve(self, size_bytes: int) -> None:
        if self._taken_bytes + size_bytes > self._max_bytes or self._taken >= self._max_count:
            raise NoRoom(
                "there is no room for more blobs at this node: "
                f"{self._taken} of at most {self._max_count}, {self._taken_bytes} of at most "
                f"{self._max_bytes} bytes; they go a day after their jobs are over"
            )
        self._taken_bytes += size_bytes
        self._taken += 1

    def _release(self, size_bytes: int) -> None:
        self._taken_bytes -= size_bytes
        self._taken -= 1

    def _check_space(self, size_bytes: int) -> None:
        """The journal is on the same disk, and needs what is left more than this."""
        if self._disk.free_bytes(self._folder) - size_bytes < limits.BLOBS_SPARE_BYTES:
            raise NoRoom("the disk is nearly full: there is no room for more blobs at this node")

    async def _save_unnamed(self) -> None:
        async with self._unnamed_lock:
            data = self._unnamed.to_bytes()
            path = self._folder / _UNNAMED
            await self._blocking(lambda: self._disk.write(path, data, private=True))

    @asynccontextmanager
    async def _alone_with(self, digest: bytes) -> AsyncIterator[None]:
        """Nobody else changes what is here of this blob."""
        lock, users = self._locks.get(digest, (trio.Lock(), 0))
        self._locks[digest] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            _, users = self._locks[digest]
            if users == 1:
                del self._locks[digest]
            else:
                self._locks[digest] = lock, users - 1

    async def _blocking(self, call: Callable[[], T]) -> T:
        if self._disk.is_quick:
            await trio.lowlevel.checkpoint()
            return call()
        return await trio.to_thread.run_sync(call, limiter=self._threads)

    async def _off_loop(self, size_bytes: int, call: Callable[[], T]) -> T:
        """What takes the processor for as long as there are bytes."""
        if size_bytes <= _INLINE_BYTES or self._disk.is_quick:
            return call()
        return await trio.to_thread.run_sync(call, limiter=self._threads)


def erase(disk: Disk, folder: PurePath) -> None:
    """Delete all that is in a folder: the node leaves its mesh.  Raises DiskFailed."""
    for name in disk.names(folder):
        disk.delete(folder / name)
