"""API keys of clients that are not on this machine: made once, kept as hashes.  Pure.

A key is 160 random bits, so a plain hash of it keeps it: there is nothing to guess.  The keys of a
mesh are on its record; each node keeps a copy in a private file (JSON), so that it knows them
before it knows a quorum.  There are also keys that were made here and have yet to get on record.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from meshd import limits
from meshd.errors import ConfigError, Refused

PREFIX = "sk-meshd-"
SECRET_BYTES = 20
_ID_CHARS = 8


class ApiKey(msgspec.Struct, frozen=True):
    """One key, as it is kept."""

    id: str
    """The first characters of the hash: names the key without giving it away."""
    name: str
    sha256: str
    created_unix_s: float
    on_record: bool = False
    """The record had it; False: it has yet to be told."""


class _File(msgspec.Struct, frozen=True):
    version: int = 1
    keys: list[ApiKey] = []
    mesh: str = ""
    index: int = 0


def new_key(secret: bytes, name: str, now_unix_s: float) -> tuple[str, ApiKey]:
    """A new key from `SECRET_BYTES` random bytes: its text (shown once), and its entry."""
    if len(secret) != SECRET_BYTES:
        raise ValueError("an API key is made of SECRET_BYTES random bytes")
    text = PREFIX + base64.b32encode(secret).decode().lower()
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text, ApiKey(digest[:_ID_CHARS], name, digest, now_unix_s)


class ApiKeys:
    """The keys that open a node.  Immutable: changes make a new one, to be written, then used."""

    def __init__(self, keys: tuple[ApiKey, ...] = (), mesh: str = "", index: int = 0) -> None:
        """Those on record are these as of that `index` of that mesh's record; 0: none was read."""
        self.keys = keys
        self.mesh = mesh
        self.index = index

    @classmethod
    def parse(cls, data: bytes | None, path: object) -> ApiKeys:
        """Read the file (None: there is none).  Raises ConfigError naming it.

        A file that cannot be read admits nobody: its daemon does not start, rather than start open.
        """
        if data is None:
            return cls()
        try:
            file = msgspec.json.decode(data, type=_File)
        except msgspec.MsgspecError as error:
            raise ConfigError(
                f"{path} is not a list of API keys ({error}); delete it and make new keys "
                "with: meshd key create"
            ) from None
        if file.version != 1:
            raise ConfigError(f"{path} is of a newer meshd (version {file.version})")
        return cls(tuple(file.keys[: 2 * limits.API_KEYS]), file.mesh, file.index)

    def dump(self) -> bytes:
        """The file that `parse` reads."""
        file = _File(keys=list(self.keys), mesh=self.mesh, index=self.index)
        return msgspec.json.format(msgspec.json.encode(file), indent=1)

    @property
    def pending(self) -> tuple[ApiKey, ...]:
        """Those that the record has yet to be told of."""
        return tuple(key for key in self.keys if not key.on_record)

    def with_key(self, key: ApiKey) -> ApiKeys:
        """With one more.  Raises Refused if there are too many, or one has its name."""
        if len(self.keys) >= limits.API_KEYS:
            raise Refused(
                f"there are {limits.API_KEYS} API keys already; "
                "revoke one first: meshd key revoke ID"
            )
        if key.name and any(other.name == key.name for other in self.keys):
            raise Refused(f"there is a key called {key.name!r} already; give this one another name")
        return ApiKeys((*self.keys, key), self.mesh, self.index)

    def without(self, key: ApiKey) -> ApiKeys:
        """All others."""
        left = tuple(other for other in self.keys if other.id != key.id)
        return ApiKeys(left, self.mesh, self.index)

    def in_mesh(self, mesh: str) -> ApiKeys:
        """What a node in that mesh makes of them: those of another mesh's record are new to it."""
        if mesh == self.mesh:
            return self
        return ApiKeys(tuple(replace(key, on_record=False) for key in self.keys), mesh)

    def as_on_record(self, recorded: Iterable[ApiKey], index: int) -> ApiKeys:
        """What opens this node when these are the keys on record: they, and the pending ones.

        A key that was on record and is no more opens nothing.
        """
        recorded = tuple(recorded)
        known = {key.id for key in recorded}
        pending = tuple(key for key in self.pending if key.id not in known)
        return ApiKeys((*recorded, *pending), self.mesh, index)

    def find(self, which: str) -> ApiKey:
        """The key of that id (or a beginning of it) or name.  Raises Refused."""
        found = [key for key in self.keys if which in (key.id, key.name)]
        if not found and which:
            found = [key for key in self.keys if key.id.startswith(which)]
        if not found:
            raise Refused(f"no API key is called {which!r}; see: meshd key list")
        if len(found) > 1:
            ids = ", ".join(key.id for key in found)
            raise Refused(f"{which!r} could be any of {ids}; name one by its id")
        return found[0]

    def check(self, presented: str) -> str | None:
        """The id of the key that this is, or None.  Takes the same time for each wrong one."""
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for key in self.keys:
            if hmac.compare_digest(digest, key.sha256):
                found = key.id
        return found
