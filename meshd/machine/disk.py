"""Files that survive a power cut, and say so when they cannot be written."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from meshd.errors import DiskFailed
from meshd.ports import AppendFile

PRIVATE = 0o600
PUBLIC = 0o644
FOLDER = 0o700

_WHY = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "this user's disk quota is used up; free some space",
    errno.EFBIG: "the system limits the size of files (ulimit -f)",
    errno.EACCES: "this user may not; see who owns it",
    errno.EPERM: "this user may not; see who owns it",
    errno.EROFS: "the disk is read-only",
    errno.ENOTDIR: "something on the way to it is not a folder",
    errno.EISDIR: "it is a folder",
    errno.EIO: "the disk reports an error",
    errno.EMFILE: "too many open files (ulimit -n)",
    errno.ENFILE: "too many open files on this machine",
    errno.ELOOP: "it is a symbolic link, or links in a circle",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EEXIST: "it is there already",
    errno.ENOENT: "it is not there",
}

_NO_FULL_SYNC = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY}
"""What file systems without F_FULLFSYNC answer, such as network disks."""


class _AppendFile:
    """`meshd.ports.AppendFile`, real."""

    def __init__(self, path: PurePath, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def append(self, data: bytes) -> None:
        with _explained("cannot add to", self._path):
            _write_all(self._descriptor, data)
        self._size_bytes += len(data)

    def sync(self) -> None:
        with _explained("cannot make durable", self._path):
            _sync_data(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FileDisk:
    """`meshd.ports.Disk`, real."""

    is_quick = False

    def __init__(self) -> None:
        self._locks: dict[PurePath, int] = {}
        """Open descriptors that hold the locks; the system lets go of them with the process."""
        self._numbers = itertools.count()

    def read(self, path: PurePath) -> bytes | None:
        with _explained("cannot read", path):
            try:
                return Path(path).read_bytes()
            except FileNotFoundError:
                return None

    def read_part(self, path: PurePath, offset: int, size_bytes: int) -> bytes | None:
        with _explained("cannot read", path):
            try:
                with open(path, "rb", buffering=0) as file:
                    return _read_all(file.fileno(), offset, size_bytes)
            except FileNotFoundError:
                return None

    def size(self, path: PurePath) -> int | None:
        with _explained("cannot look at", path):
            try:
                return os.stat(path).st_size
            except FileNotFoundError:
                return None

    def names(self, folder: PurePath) -> list[str]:
        with _explained("cannot look into", folder):
            try:
                return sorted(os.listdir(folder))
            except FileNotFoundError:
                return []

    def free_bytes(self, folder: PurePath) -> int:
        with _explained("cannot look at", folder):
            found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize

    def write(self, path: PurePath, data: bytes, *, private: bool) -> None:
        self.folder_of(path)
        aside = path.with_name(f".{path.name}.{os.getpid()}.{next(self._numbers)}.new")
        with _explained("cannot write", path, "what was in it is unchanged"):
            try:
                with suppress(FileNotFoundError):
                    os.unlink(aside)  # of a process long gone that had this pid
                descriptor = os.open(
                    aside,
                    os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW,
                    PRIVATE if private else PUBLIC,
                )
                with os.fdopen(descriptor, "wb", buffering=0) as file:
                    _write_all(file.fileno(), data)
                    _sync(file.fileno())
                os.rename(aside, path)
            except BaseException:  # also an interrupt: no half file stays; raised again
                with suppress(OSError):
                    os.unlink(aside)
                raise
            _sync_folder(path.parent)

    def append(self, path: PurePath, data: bytes) -> None:
        self.folder_of(path)
        with _explained("cannot add to", path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE)
            try:
                _write_all(descriptor, data)
            finally:
                os.close(descriptor)

    def create(self, path: PurePath) -> AppendFile:
        self.folder_of(path)
        with _explained("cannot make", path):
            how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW
            return _AppendFile(path, os.open(path, how, PRIVATE))

    def rename(self, source: PurePath, target: PurePath) -> None:
        with _explained("cannot rename", source, f"to {target.name}"):
            os.rename(source, target)
            _sync_folder(target.parent)
            if source.parent != target.parent:
                _sync_folder(source.parent)

    def delete(self, path: PurePath) -> None:
        with _explained("cannot delete", path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                return
            _sync_folder(path.parent)

    def folder(self, path: PurePath) -> None:
        with _explained("cannot make the folder", path):
            missing = [path]
            while not os.path.isdir(missing[-1]):
                missing.append(missing[-1].parent)
            for folder in reversed(missing[:-1]):
                with suppress(FileExistsError):
                    os.mkdir(folder, FOLDER)
                _sync_folder(folder.parent)
            found = os.stat(path)
        if found.st_uid not in (os.geteuid(), 0):
            raise DiskFailed(
                errno.EACCES,
                f"{path} belongs to another user (uid {found.st_uid}): run meshd as that user, "
                "or name another --data-dir",
            )
        if stat.S_IMODE(found.st_mode) & 0o022:
            raise DiskFailed(
                errno.EACCES,
                f"others may write into {path}: type chmod go-w {path}",
            )

    def folder_of(self, path: PurePath) -> None:
        """Make the folder of a file if it is missing; whose it is does not matter here."""
        if not os.path.isdir(path.parent):
            self.folder(path.parent)

    def lock(self, path: PurePath) -> int | None:
        if path in self._locks:
            return os.getpid()
        self.folder_of(path)
        with _explained("cannot lock", path):
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, PRIVATE)
                try:
                    if not _lock(descriptor):
                        holder = os.read(descriptor, 32).strip()
                        os.close(descriptor)
                        return int(holder) if holder.isdigit() else 0
                    if os.fstat(descriptor).st_nlink:
                        break
                except BaseException:  # also an interrupt: it is closed; raised again
                    os.close(descriptor)
                    raise
                os.close(descriptor)  # it was removed just now: another one is there, or none
            # The file stays: deleting it would let two processes lock two files, unless all look
            # again, as above and in `remove_unlocked`.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
            self._locks[path] = descriptor
        return None

    def unlock(self, path: PurePath) -> None:
        descriptor = self._locks.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)

    def remove_unlocked(self, path: PurePath) -> bool:
        with _explained("cannot remove", path):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            except FileNotFoundError:
                return True
            try:
                if not _lock(descriptor):
                    return False
                # While the lock is held, and only if what is locked is what is there.
                if os.fstat(descriptor).st_nlink and os.path.samestat(
                    os.fstat(descriptor), os.lstat(path)
                ):
                    os.unlink(path)
                return True
            except FileNotFoundError:
                return True
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the lock of that file is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _explained(what: str, path: PurePath, rest: str = "") -> Iterator[None]:
    """Turn the system's error into a sentence."""
    try:
        yield
    except DiskFailed:
        raise
    except OSError as error:
        number = error.errno or 0
        why = _WHY.get(number) or error.strerror or str(error)
        sentence = f"{what} {path}: {why}" + (f" ({rest})" if rest else "")
        raise DiskFailed(number, sentence) from error


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all of it: a write cut short (a full disk, a size limit) fails at the next try."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _read_all(descriptor: int, offset: int, size_bytes: int) -> bytes:
    """That part of the file, or up to its end; one `pread` may give less."""
    parts = []
    while size_bytes and (part := os.pread(descriptor, size_bytes, offset)):
        parts.append(part)
        offset += len(part)
        size_bytes -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _sync(descriptor: int) -> None:
    """Wait until it is on the medium.  On macOS fsync only reaches the drive's own cache.

    Never a second try by other means after an error: it might succeed, and the data be lost all the
    same.
    """
    if sys.platform == "darwin":
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in _NO_FULL_SYNC:
                raise
    os.fsync(descriptor)


def _sync_data(descriptor: int) -> None:
    """The same for data and size of a file: without its times, which nobody needs after a crash."""
    if sys.platform == "darwin":
        _sync(descriptor)
    else:
        os.fdatasync(descriptor)


def _sync_folder(path: PurePath) -> None:
    """Make a rename, a new file or a deletion in this folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _sync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)
