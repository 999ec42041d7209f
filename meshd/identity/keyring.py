"""The keyring: the symmetric keys of the mesh's datagrams.  Pure.

One key (the primary) seals; all of them open, so that a rotation needs no moment at which everybody
changes at once: add the new key everywhere, make it the primary, drop the old one.  Every change
makes a higher version, and the higher version wins wherever two keyrings meet.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from meshd import limits
from meshd.errors import ProtocolError, Refused

GOSSIP_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class GossipKey:
    """One key.  Its id (a u32 from its hash) names it in datagrams, the same at every node."""

    id: int
    secret: bytes

    @classmethod
    def of(cls, secret: bytes) -> GossipKey:
        """The key with that secret.  Raises ProtocolError for a wrong size."""
        if len(secret) != GOSSIP_KEY_BYTES:
            raise ProtocolError(f"A gossip key has {GOSSIP_KEY_BYTES} bytes, not {len(secret)}.")
        digest = hashlib.sha256(b"meshd gossip key 1\0" + secret).digest()
        return cls(int.from_bytes(digest[:4], "big"), secret)

    def __repr__(self) -> str:
        return f"GossipKey({self.id:08x})"


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys in order, the primary first.  Changes give a new keyring with the next version."""

    version: int
    keys: tuple[GossipKey, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.keys) <= limits.KEYRING_KEYS:
            raise ProtocolError(
                f"A keyring holds 1 to {limits.KEYRING_KEYS} keys, not {len(self.keys)}."
            )
        if len({key.id for key in self.keys}) != len(self.keys):
            raise ProtocolError("A keyring has the same key twice.")
        if not 0 < self.version < 2**63:
            raise ProtocolError("A keyring's version is a positive number.")

    @classmethod
    def generate(cls, secret: bytes) -> Keyring:
        """A new mesh's keyring, from `GOSSIP_KEY_BYTES` random bytes."""
        return cls(1, (GossipKey.of(secret),))

    @classmethod
    def of(cls, version: int, secrets: list[bytes]) -> Keyring:
        """A keyring that came over the wire or from disk.  Raises ProtocolError."""
        return cls(version, tuple(GossipKey.of(secret) for secret in secrets))

    @property
    def primary(self) -> GossipKey:
        """The key that seals."""
        return self.keys[0]

    @property
    def secrets(self) -> list[bytes]:
        """What `of` takes."""
        return [key.secret for key in self.keys]

    def get(self, key_id: int) -> GossipKey | None:
        """The key with that id, to open a datagram that names it."""
        return next((key for key in self.keys if key.id == key_id), None)

    def add(self, secret: bytes) -> Keyring:
        """With one more key that opens but does not seal yet.

        Raises Refused if there are `limits.KEYRING_KEYS` already.
        """
        if len(self.keys) >= limits.KEYRING_KEYS:
            raise Refused(f"The keyring holds {len(self.keys)} keys: remove an old one first.")
        return Keyring(self.version + 1, (*self.keys, GossipKey.of(secret)))

    def use(self, key_id: int) -> Keyring:
        """With that key as the primary.  Raises Refused if it is not there."""
        chosen = self.get(key_id)
        if chosen is None:
            raise Refused(f"The keyring has no key {key_id:08x}.")
        others = tuple(key for key in self.keys if key is not chosen)
        return Keyring(self.version + 1, (chosen, *others))

    def remove(self, key_id: int) -> Keyring:
        """Without that key.  Raises Refused if it is not there, or is the primary."""
        if self.primary.id == key_id:
            raise Refused(f"Key {key_id:08x} is the primary: make another one the primary first.")
        if self.get(key_id) is None:
            raise Refused(f"The keyring has no key {key_id:08x}.")
        return Keyring(self.version + 1, tuple(key for key in self.keys if key.id != key_id))

    def rotate(self, secret: bytes, version: int | None = None) -> Keyring:
        """With a new primary; the former one still opens, older ones are dropped.

        `version` is the one that the record has given out, the next one if None.  A member that has
        not heard of it yet can still read what others seal only until it fetches this version.
        """
        return Keyring(
            self.version + 1 if version is None else version, (GossipKey.of(secret), self.primary)
        )
