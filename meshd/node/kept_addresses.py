"""Members' addresses over a restart: `peers.json`, of use and never needed."""

from __future__ import annotations

from pathlib import PurePath

import msgspec

from meshd import logs
from meshd.peers.addresses import AddressBook, Kept
from meshd.ports import Disk

log = logs.get("mesh")


class KeptAddresses:
    """Keeps what an address book has learned in a file."""

    def __init__(self, disk: Disk, path: PurePath, addresses: AddressBook) -> None:
        self._disk, self._path, self._addresses = disk, path, addresses
        self._saved: dict[str, Kept] = {}

    def restore(self) -> None:
        """Put into the book what was kept; a file that cannot be read is passed over."""
        data = self._disk.read(self._path)
        if data is None:
            return
        try:
            saved = msgspec.json.decode(data, type=dict[str, Kept])
        except msgspec.MsgspecError as e:
            log.warning(f"{self._path.name} is not readable and not needed", why=str(e))
            return
        self._addresses.restore(saved)

    def save(self) -> None:
        """Keep what is in the book now, if it changed."""
        known = self._addresses.export()
        if known == self._saved:
            return
        try:
            self._disk.write(self._path, msgspec.json.encode(known), private=True)
        except OSError as e:
            log.warning("addresses not kept", why=str(e))
        else:
            self._saved = known
