"""API keys: made, listed, revoked, and checked.  Only hashes are kept.

A key is `mk-ID-SECRET`.  The id finds the row, so that a check hashes once and compares once; the
secret is 32 random bytes, so a plain SHA-256 of the key is as good as a slow hash.  The file is
private (0600) and replaced whole; a file that cannot be read is an error and never "no keys".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from pathlib import PurePath
from typing import Final

import msgspec

from meshd import limits
from meshd.errors import Refused
from meshd.ports import Clock, Disk, Entropy

_PREFIX: Final = "mk"
_ID_BYTES: Final = 5  # eight characters
_SECRET_BYTES: Final = 32
_KEY: Final = re.compile(rb"mk-([a-z2-7]{8})-[a-z2-7]{52}\Z")
_VERSION: Final = 1
_NOBODY: Final = "0" * 64


class ApiKey(msgspec.Struct, frozen=True):
    """What is kept of a key."""

    id: str
    name: str
    sha256: str
    """Of the whole key, in hex."""
    created_unix_s: float


class _File(msgspec.Struct, frozen=True):
    version: int
    keys: list[ApiKey]


class KeyStore:
    """The keys of one node, in memory and in its file."""

    def __init__(self, disk: Disk, path: PurePath, entropy: Entropy, clock: Clock) -> None:
        """Reads the file.  Raises Refused if there is one that cannot be used."""
        self._disk = disk
        self._path = path
        self._entropy = entropy
        self._clock = clock
        self._keys: dict[str, ApiKey] = {}
        self.reload()

    def __len__(self) -> int:
        return len(self._keys)

    def create(self, name: str) -> tuple[ApiKey, str]:
        """Make a key for that purpose, keep its hash, return it: it is never seen again.

        Raises Refused: the name is empty, too long or taken, or there are too many.
        """
        name = name.strip()
        if not name or len(name) > limits.NAME_CHARS or not name.isprintable():
            raise Refused(f"a key needs a name of 1 to {limits.NAME_CHARS} printable characters")
        if any(key.name == name for key in self._keys.values()):
            raise Refused(f"there is a key named {name!r} already; revoke it or take another name")
        if len(self._keys) >= limits.API_KEYS:
            raise Refused(f"there are {limits.API_KEYS} keys already; revoke some")
        key_id = self._text(_ID_BYTES)
        while key_id in self._keys:
            key_id = self._text(_ID_BYTES)
        shown = f"{_PREFIX}-{key_id}-{self._text(_SECRET_BYTES)}"
        row = ApiKey(key_id, name, _hash(shown.encode()), self._clock.wall())
        self._save({**self._keys, key_id: row})
        return row, shown

    def list(self) -> list[ApiKey]:
        """All keys, oldest first."""
        return sorted(self._keys.values(), key=lambda key: (key.created_unix_s, key.id))

    def revoke(self, wanted: str) -> ApiKey:
        """Delete the key of that id or name.  Raises Refused if there is none."""
        for key in self._keys.values():
            if wanted in (key.id, key.name):
                rest = {key_id: row for key_id, row in self._keys.items() if key_id != key.id}
                self._save(rest)
                return key
        raise Refused(f"no key has the id or name {wanted!r}; `meshd key list` shows them")

    def check(self, presented: bytes) -> str | None:
        """The id of that key, None if it is not valid.  In the same time for any wrong secret."""
        match = _KEY.match(presented)
        row = self._keys.get(match[1].decode()) if match else None
        expected = row.sha256 if row else _NOBODY
        if hmac.compare_digest(_hash(presented), expected) and row is not None:
            return row.id
        return None

    def reload(self) -> None:
        """Read the file anew, after another process changed it.

        Raises Refused if it cannot be used; what was known stays in force.
        """
        data = self._disk.read(self._path)
        if data is None:
            self._keys = {}
            return
        try:
            file = msgspec.json.decode(data, type=_File)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Refused(f"{self._path} is not a file of API keys: {error}") from None
        if file.version != _VERSION:
            raise Refused(
                f"{self._path} was written by a newer meshd (version {file.version} of the file)"
            )
        self._keys = {key.id: key for key in file.keys}

    def _save(self, keys: dict[str, ApiKey]) -> None:
        data = msgspec.json.format(msgspec.json.encode(_File(_VERSION, list(keys.values()))))
        self._disk.write(self._path, data + b"\n", private=True)
        self._keys = keys

    def _text(self, size_bytes: int) -> str:
        token = self._entropy.token(size_bytes)
        return base64.b32encode(token).decode().lower().rstrip("=")


def _hash(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()
