"""A disk in memory that can fill up, break, and lose what was not yet durable."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath

from meshd.errors import DiskFailed

SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""

_UNLIMITED_BYTES = 2**40


class PowerLost(BaseException):
    """The machine goes down in the middle of a call; nothing that runs on it may catch this."""


@dataclass(eq=False)
class _Body:
    """What names point to."""

    seen: bytes | bytearray = b""
    """What processes read."""
    medium: bytearray = field(default_factory=bytearray)
    """What a power loss leaves for certain."""
    dirty: list[tuple[int, int]] = field(default_factory=list)
    """Parts (start, end) of `seen` that may or may not be on the medium."""


class MemoryDisk:
    """`meshd.ports.Disk` in memory.  One machine's disk; it outlives the daemons on it.

    `write`, `rename` and `delete` are durable when they return, `append` and `create` are not.  A
    daemon that ends calls `release` (a real process does by ending), one that loses power
    `lose_power`.

    Calls are made of the steps that real ones are made of, and `on_step` is asked before each
    ("append", "sync", "create", "write", "rename", "delete", "sync folder"); it makes the step fail
    by raising `DiskFailed`, or ends the machine with `PowerLost`.  That leaves behind what it
    leaves on a real disk: a part of what was to be added, a name that is changed and not durable;
    after a failed "sync", data that is read as if it were there and that no later sync writes.
    """

    is_quick = True

    def __init__(
        self, *, capacity_bytes: int | None = None, chance: random.Random | None = None
    ) -> None:
        self.files: dict[PurePath, bytes | bytearray] = {}
        """As processes see them."""
        self.private: set[PurePath] = set()
        """Those that would be 0600."""
        self.folders: set[PurePath] = set()
        self.capacity_bytes = capacity_bytes
        """None: it never fills up."""
        self.broken: str | None = None
        """While set, every call fails with this sentence."""
        self.on_step: Callable[[str, PurePath], None] | None = None
        self.misread: Callable[[PurePath, bytes], bytes] | None = None
        """What comes of a file's bytes when they are read."""
        self.chance = chance
        """How much of a failed addition got in, and what a power loss leaves of what was not
        durable; None: nothing."""
        self._bodies: dict[PurePath, _Body] = {}
        self._on_medium: dict[PurePath, _Body] = {}
        """Names that a power loss leaves."""
        self._renaming: list[tuple[PurePath, Callable[[], object]]] = []
        """Changes of names that are seen and not durable: in which folder, and what they do."""
        self._locks: dict[PurePath, int] = {}
        self._pid = 1000
        self._life = 0
        """Counts processes that ended: what they had open is no more."""

    # --- looking

    def read(self, path: PurePath) -> bytes | None:
        self._check("read", path)
        if path not in self.files:
            return None
        data = bytes(self.files[path])
        return self.misread(path, data) if self.misread else data

    def read_part(self, path: PurePath, offset: int, size_bytes: int) -> bytes | None:
        data = self.read(path)
        return None if data is None else data[offset : offset + size_bytes]

    def size(self, path: PurePath) -> int | None:
        self._check("look at", path)
        return len(self.files[path]) if path in self.files else None

    def names(self, folder: PurePath) -> list[str]:
        self._check("look into", folder)
        depth = len(folder.parts)
        inside = (path for path in [*self.files, *self.folders] if folder in path.parents)
        return sorted({path.parts[depth] for path in inside})

    def free_bytes(self, folder: PurePath) -> int:
        self._check("look at", folder)
        return self._room_bytes()

    # --- changing

    def write(self, path: PurePath, data: bytes, *, private: bool) -> None:
        self._check("write", path)
        if len(data) > self._room_bytes(besides=path):
            raise _full(path, " (what was in it is unchanged)")
        self._about_to("write", path)
        self._put(path, _Body(bytes(data), bytearray(data)))
        self._on_medium[path] = self._bodies[path]
        (self.private.add if private else self.private.discard)(path)

    def append(self, path: PurePath, data: bytes) -> None:
        self._check("add to", path)
        if path not in self.files:
            self._create(path)
        self._extend(path, data)

    def create(self, path: PurePath) -> MemoryAppendFile:
        self._check("make", path)
        if path in self.files:
            raise DiskFailed(errno.EEXIST, f"cannot make {path}: it is there already")
        self._about_to("create", path)
        self._create(path)
        return MemoryAppendFile(self, path)

    def rename(self, source: PurePath, target: PurePath) -> None:
        self._check("rename", source)
        whole = source in self.folders
        moved = [path for path in self.files if path == source or source in path.parents]
        if not moved and not whole:
            raise DiskFailed(errno.ENOENT, f"cannot rename {source}: it is not there")
        self._about_to("rename", source)
        names = {path: target / path.relative_to(source) for path in moved}
        for old, new in names.items():
            body = self._body(old)
            self.files.pop(old)
            self._bodies.pop(old)
            self._put(new, body)
            (self.private.add if old in self.private else self.private.discard)(new)
            self.private.discard(old)
        if whole:
            self.folders.discard(source)
            self.folders.add(target)

        def on_medium() -> None:
            for old, new in names.items():
                if old in self._on_medium:
                    self._on_medium[new] = self._on_medium.pop(old)

        self._rename_later(target, on_medium)
        self._sync_folder(target.parent)

    def delete(self, path: PurePath) -> None:
        self._check("delete", path)
        if path not in self.files:
            return
        self._about_to("delete", path)
        self.files.pop(path)
        self._bodies.pop(path, None)
        self.private.discard(path)
        self._rename_later(path, lambda: self._on_medium.pop(path, None))
        self._sync_folder(path.parent)

    def folder(self, path: PurePath) -> None:
        self._check("make the folder", path)
        self.folders.add(path)

    # --- locks, and ends of lives

    def lock(self, path: PurePath) -> int | None:
        self._check("lock", path)
        if path in self._locks:
            return self._locks[path]
        self._pid += 1
        self._locks[path] = self._pid
        return None

    def unlock(self, path: PurePath) -> None:
        self._locks.pop(path, None)

    def remove_unlocked(self, path: PurePath) -> bool:
        self._check("remove", path)
        return path not in self._locks

    def release(self) -> None:
        """The process that held locks and files has ended, however it ended."""
        self._locks.clear()
        self._life += 1

    def lose_power(self, *, kept_of_appends: float = 0.0) -> None:
        """The machine has lost power.

        Of what was appended and not synced, this fraction is left; with `chance`, anything that a
        disk may leave: all, nothing, a beginning, or some of its sectors, the others being zeros.
        """
        kept = len(self._renaming) if kept_of_appends else 0
        if self.chance is not None:
            kept = self.chance.randint(0, len(self._renaming))
        for _, on_medium in self._renaming[:kept]:
            on_medium()
        self._renaming.clear()
        for body in dict.fromkeys(self._on_medium.values()):  # a set has the order of addresses
            if self.chance is None:
                size = sum(end - start for start, end in body.dirty)
                body.medium = _beginning(body, int(size * kept_of_appends))
            else:
                body.medium = _by_chance(body, self.chance)
            body.seen, body.dirty = bytearray(body.medium), []
        self._bodies = dict(self._on_medium)
        self.files = {path: body.seen for path, body in self._bodies.items()}
        self.release()

    # --- within

    def _check(self, what: str, path: PurePath) -> None:
        if self.broken is not None:
            raise DiskFailed(errno.EIO, f"cannot {what} {path}: {self.broken}")
        if not path.is_absolute():
            raise AssertionError(f"not an absolute path: {path}")

    def _about_to(self, name: str, path: PurePath) -> None:
        if self.on_step is not None:
            self.on_step(name, path)

    def _room_bytes(self, besides: PurePath | None = None) -> int:
        if self.capacity_bytes is None:
            return _UNLIMITED_BYTES
        used = sum(len(data) for path, data in self.files.items() if path != besides)
        return max(0, self.capacity_bytes - used)

    def _body(self, path: PurePath) -> _Body:
        """The body of a name; tests may have put other bytes in its place."""
        body, seen = self._bodies.get(path), self.files[path]
        if body is None or body.seen is not seen:
            body = self._bodies[path] = _Body(seen, bytearray(seen))
        return body

    def _put(self, path: PurePath, body: _Body) -> None:
        self._bodies[path] = body
        self.files[path] = body.seen

    def _create(self, path: PurePath) -> None:
        body = _Body(bytearray())
        self._put(path, body)
        self.private.add(path)

        def on_medium() -> None:
            self._on_medium[path] = body

        self._rename_later(path, on_medium)

    def _rename_later(self, path: PurePath, on_medium: Callable[[], object]) -> None:
        self._renaming.append((path.parent, on_medium))

    def _sync_folder(self, folder: PurePath) -> None:
        self._about_to("sync folder", folder)
        for where, on_medium in self._renaming:
            if where == folder:
                on_medium()
        self._renaming = [change for change in self._renaming if change[0] != folder]

    def _extend(self, path: PurePath, data: bytes) -> None:
        body = self._body(path)
        if not isinstance(body.seen, bytearray):
            body.seen = bytearray(body.seen)
            self.files[path] = body.seen
        with self._failing_midway(body, data):
            self._about_to("append", path)
            if len(data) > self._room_bytes():
                raise _full(path)

    @contextmanager
    def _failing_midway(self, body: _Body, data: bytes) -> Iterator[None]:
        """Add the data to the end, or a part of it if there is an error."""
        size = len(data)
        try:
            yield
        except BaseException as error:  # a power loss by a test too: it is raised on
            full = isinstance(error, DiskFailed) and error.errno == errno.ENOSPC
            size = min(size, self._room_bytes()) if full else 0
            if self.chance is not None:
                size = self.chance.randint(0, min(len(data), self._room_bytes()))
            raise
        finally:
            assert isinstance(body.seen, bytearray)
            start = len(body.seen)
            body.seen += data[:size]
            body.dirty.append((start, start + size))

    def _sync(self, path: PurePath) -> None:
        body = self._body(path)
        try:
            self._about_to("sync", path)
        except DiskFailed:
            body.dirty = []
            raise
        for start, end in body.dirty:
            _lay(body.medium, start, body.seen[start:end])
        body.dirty = []


class MemoryAppendFile:
    """`meshd.ports.AppendFile` of a `MemoryDisk`; ends with the process that opened it."""

    def __init__(self, disk: MemoryDisk, path: PurePath) -> None:
        self._disk = disk
        self._body = disk._bodies[path]
        self._life = disk._life
        self._closed = False

    @property
    def size_bytes(self) -> int:
        return len(self._body.seen)

    def append(self, data: bytes) -> None:
        self._disk._extend(self._path("add to"), data)

    def sync(self) -> None:
        self._disk._sync(self._path("make durable"))

    def close(self) -> None:
        self._closed = True

    def _path(self, what: str) -> PurePath:
        """Under which name it goes now."""
        if self._closed or self._life != self._disk._life:
            raise AssertionError("the file is not open any more")
        path = next(p for p, body in self._disk._bodies.items() if body is self._body)
        self._disk._check(what, path)
        return path


def _full(path: PurePath, rest: str = "") -> DiskFailed:
    return DiskFailed(errno.ENOSPC, f"cannot write {path}: the disk is full; free some space{rest}")


def _beginning(body: _Body, size_bytes: int) -> bytearray:
    """The medium with so much of what is not durable, in the order in which it was added."""
    left = bytearray(body.medium)
    for start, end in body.dirty:
        part = min(size_bytes, end - start)
        size_bytes -= part
        if part:
            _lay(left, start, body.seen[start : start + part])
    return left


def _by_chance(body: _Body, chance: random.Random) -> bytearray:
    size_bytes = sum(end - start for start, end in body.dirty)
    match chance.randrange(4):
        case 0:
            return bytearray(body.medium)
        case 1:
            return _beginning(body, size_bytes)
        case 2:
            return _beginning(body, chance.randint(0, size_bytes))
    left = bytearray(body.medium)
    for start, end in body.dirty:
        for sector in range(start // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
            first = max(start, sector * SECTOR_BYTES)
            last = min(end, (sector + 1) * SECTOR_BYTES)
            if chance.random() < 0.5:
                _lay(left, first, body.seen[first:last])
    if body.dirty and chance.random() < 0.5:  # the size got through, whatever became of the data
        _lay(left, body.dirty[-1][1], b"")
    return left


def _lay(left: bytearray, start: int, part: bytes | bytearray) -> None:
    """Put a part at its place; what was never written before it reads as zeros."""
    left.extend(bytes(max(0, start - len(left))))
    left[start : start + len(part)] = part
