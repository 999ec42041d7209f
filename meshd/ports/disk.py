"""Files: small ones replaced whole, and one kind that grows at its end."""

from __future__ import annotations

from pathlib import PurePath
from typing import Protocol


class AppendFile(Protocol):
    """A file that grows at its end, open for the one who made it.

    Errors are `DiskFailed`.  After one, of `append` or of `sync`, how much of what was added since
    the last good `sync` is on the medium is unknown, and nothing finds it out: a second `sync` may
    succeed without having written what the first one could not.  Give the file up.
    """

    @property
    def size_bytes(self) -> int:
        """What was added so far."""
        ...

    def append(self, data: bytes) -> None:
        """Add all of it to the end; a failed one may have added a part."""
        ...

    def sync(self) -> None:
        """Wait until all that was added survives a power loss (F_FULLFSYNC on macOS)."""
        ...

    def close(self) -> None:
        """Without a sync; idempotent."""
        ...


class Disk(Protocol):
    """Files: config, keys, lists, the journal.  Paths are absolute.

    Errors are `meshd.errors.DiskFailed`, which is an OSError and a sentence for the reader.  Calls
    block; those that write wait for the disk.  They may be made from several threads at a time, as
    long as no two concern the same file.
    """

    @property
    def is_quick(self) -> bool:
        """Whether calls return at once, as of a disk in memory: no thread is worth it."""
        ...

    def read(self, path: PurePath) -> bytes | None:
        """The file's bytes, None if there is no such file."""
        ...

    def read_part(self, path: PurePath, offset: int, size_bytes: int) -> bytes | None:
        """Its bytes from `offset` on, fewer at its end; None if there is no such file."""
        ...

    def size(self, path: PurePath) -> int | None:
        """The file's size in bytes, None if there is no such file."""
        ...

    def names(self, folder: PurePath) -> list[str]:
        """What is in the folder, sorted; empty if there is no such folder."""
        ...

    def free_bytes(self, folder: PurePath) -> int:
        """Room for this user on the disk that has this folder."""
        ...

    def write(self, path: PurePath, data: bytes, *, private: bool) -> None:
        """Replace the file whole and durably: aside, fsync, rename, fsync the folder.

        Makes missing folders.  `private` files are 0600 from their first byte on.
        """
        ...

    def append(self, path: PurePath, data: bytes) -> None:
        """Add to the end of a private file; after a power loss a part of it may be missing."""
        ...

    def create(self, path: PurePath) -> AppendFile:
        """A new private file (0600), empty; it must not be there already.

        Its name may be gone after a power loss, whatever was synced, until `rename` gives it
        another or something else in its folder is made durable: write aside, sync, rename.
        """
        ...

    def rename(self, source: PurePath, target: PurePath) -> None:
        """Give a file or a folder another name on the same disk, durably.

        In place of a file that has it already: after a power loss that name means the old file or
        the new one.  An `AppendFile` goes on under the new name.
        """
        ...

    def delete(self, path: PurePath) -> None:
        """No error if it is not there."""
        ...

    def folder(self, path: PurePath) -> None:
        """Make this folder and those above it, 0700; no error if it is there.

        Raises OSError if it is somebody else's, or others may write in it.
        """
        ...

    def lock(self, path: PurePath) -> int | None:
        """Take the data directory's lock for the life of this process.

        None when taken; else the pid of the holder (0 if it is not known).  It ends with the
        process, however that ends, or with `unlock`.
        """
        ...

    def unlock(self, path: PurePath) -> None:
        """Give up a lock that this process took; no error if it did not."""
        ...

    def remove_unlocked(self, path: PurePath) -> bool:
        """Delete the file of a lock that nobody holds; False if somebody does.

        Safe against somebody who is about to take that lock.
        """
        ...
