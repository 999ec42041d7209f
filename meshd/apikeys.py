"""API keys of clients that are not on this machine: made once, kept as hashes.  Pure.

A key is 160 random bits, so a plain hash of it keeps it: there is nothing to guess.  The file is
JSON, private, and read again by the daemon when `meshd key` has changed it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

import msgspec

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


class _File(msgspec.Struct, frozen=True):
    version: int = 1
    keys: list[ApiKey] = []


class ApiKeys:
    """The keys of one node.  Immutable: changes make a new one, to be written, then used."""

    def __init__(self, keys: tuple[ApiKey, ...] = ()) -> None:
        self.keys = keys

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
        return cls(tuple(file.keys[: limits.API_KEYS]))

    def dump(self) -> bytes:
        """The file that `parse` reads."""
        return msgspec.json.format(msgspec.json.encode(_File(keys=list(self.keys))), indent=1)

    def create(self, secret: bytes, name: str, now_unix_s: float) -> tuple[str, ApiKey, ApiKeys]:
        """A new key from `SECRET_BYTES` random bytes: its text (shown once), its entry, the keys.

        Raises Refused if there are too many.
        """
        if len(secret) != SECRET_BYTES:
            raise ValueError("an API key is made of SECRET_BYTES random bytes")
        if len(self.keys) >= limits.API_KEYS:
            raise Refused(
                f"there are {limits.API_KEYS} API keys already; "
                "revoke one first: meshd key revoke ID"
            )
        text = PREFIX + base64.b32encode(secret).decode().lower()
        digest = hashlib.sha256(text.encode()).hexdigest()
        key = ApiKey(digest[:_ID_CHARS], name, digest, now_unix_s)
        return text, key, ApiKeys((*self.keys, key))

    def revoke(self, which: str) -> tuple[ApiKey, ApiKeys]:
        """Without the key of that id (or a beginning of it) or name.  Raises Refused."""
        found = [key for key in self.keys if which in (key.id, key.name)]
        if not found and which:
            found = [key for key in self.keys if key.id.startswith(which)]
        if not found:
            raise Refused(f"no API key is called {which!r}; see: meshd key list")
        if len(found) > 1:
            ids = ", ".join(key.id for key in found)
            raise Refused(f"{which!r} could be any of {ids}; name one by its id")
        return found[0], ApiKeys(tuple(key for key in self.keys if key is not found[0]))

    def check(self, presented: str) -> str | None:
        """The id of the key that this is, or None.  Takes the same time for each wrong one."""
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for key in self.keys:
            if hmac.compare_digest(digest, key.sha256):
                found = key.id
        return found
