"""The files that hold the CA's key, at a node that has it.

    MESH-ID/ca.key        the key of the mesh's CA (private)
    MESH-ID/ca-next.key   one that is to take its place, until the record says which one does

Which of them is the mesh's is for the record to say (`peers/custody.py`).
"""

from __future__ import annotations

from pathlib import PurePath

from meshd.errors import MeshdError
from meshd.identity.keys import KeyDamaged, PrivateKey
from meshd.ports import Disk


class CaKeyDamaged(MeshdError):
    """A file of the CA's key cannot be read: says which, why, and what to do."""


class CaKeyFiles:
    """Reads and writes the files above.  Errors of the disk itself are OSError."""

    def __init__(self, disk: Disk, folder: PurePath) -> None:
        """`folder` is that of the mesh.  Raises CaKeyDamaged."""
        self._disk = disk
        self._path = folder / "ca.key"
        self._next_path = folder / "ca-next.key"
        self.key = self._read(self._path)
        """What is in `ca.key`; None: there is none."""
        self.next = self._read(self._next_path)
        """What is in `ca-next.key`."""

    def keep(self, key: PrivateKey) -> None:
        """Have it in `ca.key`, whatever was there."""
        self._disk.write(self._path, key.pem(), private=True)
        self.key = key

    def drop(self) -> None:
        """Have nothing in `ca.key` any more."""
        self._disk.delete(self._path)
        self.key = None

    def prepare(self, key: PrivateKey) -> None:
        """Have it in `ca-next.key`: before anybody is told of it."""
        self._disk.write(self._next_path, key.pem(), private=True)
        self.next = key

    def drop_next(self) -> None:
        """Have nothing in `ca-next.key` any more."""
        self._disk.delete(self._next_path)
        self.next = None

    def promote(self) -> None:
        """Have in `ca.key` what is in `ca-next.key`."""
        assert self.next is not None, "there is a key that was prepared"
        self.keep(self.next)
        self.drop_next()

    def _read(self, path: PurePath) -> PrivateKey | None:
        pem = self._disk.read(path)
        if pem is None:
            return None
        try:
            return PrivateKey.from_pem(pem)
        except KeyDamaged as error:
            raise CaKeyDamaged(
                f"{path} cannot be used: {str(error).rstrip('.')}. Put it back from a backup; or, "
                "if another node of the mesh has a vote, delete it: that one gives it again."
            ) from None
