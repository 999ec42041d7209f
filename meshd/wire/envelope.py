"""Sealed datagrams: AES-GCM under the mesh's keyring, replays refused.  Pure.

    version u8 | key id u32 | sender 26 bytes | generation u64 | counter u64 | ciphertext, tag

Each sender has a key of its own for each of its starts: HKDF-SHA256(gossip key; sender,
generation).  So the counter alone, from 0, is a nonce that never comes twice under a key, as long
as a generation is never used twice: it must be on disk before the first datagram leaves.  The mesh
id and the head are associated data.

A gossip key is shared by all members: it proves that a datagram comes from *a* member, and nothing
about which.  What a node says of itself is therefore signed (see `gossip.Word`).

A stranger's bytes create no state: sessions are made only after the tag was right, and a datagram
that names an unknown key, sender or generation is refused before any decryption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError
from meshd.ids import MeshId, NodeId, is_key_id

VERSION: Final = 1
KEY_BYTES: Final = 32
_SENDER_BYTES: Final = 26
_TAG_BYTES: Final = 16
_HEAD_BYTES: Final = 1 + 4 + _SENDER_BYTES + 8 + 8
OVERHEAD_BYTES: Final = _HEAD_BYTES + _TAG_BYTES
PAYLOAD_BYTES: Final = limits.DATAGRAM_BYTES - OVERHEAD_BYTES
"""How much one datagram can carry."""
_COUNTER_END: Final = 2**64
_NONCE_PAD: Final = bytes(4)


class EnvelopeRefused(ProtocolError):
    """A datagram that is dropped; `counter` names the count it belongs to."""

    counter = "datagrams_refused"


class BadEnvelope(EnvelopeRefused):
    """Too short, too long, or its head is not of this form: not meshd's, or cut."""

    counter = "datagrams_garbage"


class BadVersion(EnvelopeRefused):
    """Sealed by a version of meshd that this one cannot read."""

    counter = "datagrams_wrong_version"


class UnknownKey(EnvelopeRefused):
    """Sealed with a key that is not in the keyring: another mesh, or one rotation apart."""

    counter = "datagrams_unknown_key"


class UnknownSender(EnvelopeRefused):
    """The node it claims to be from is no member."""

    counter = "datagrams_unknown_sender"


class Replayed(EnvelopeRefused):
    """Opened before, older than the window, or from an earlier start of its sender."""

    counter = "datagrams_replayed"


class Unauthenticated(EnvelopeRefused):
    """The tag is wrong: changed on the way, another mesh, or made up."""

    counter = "datagrams_unauthenticated"


class ReplayWindow:
    """Which of the last `limits.REPLAY_WINDOW_PACKETS` counters were seen (as in RFC 4303).

    `fresh` asks, `mark` remembers: in between, the datagram has to prove itself.
    """

    __slots__ = ("_seen", "_top")

    def __init__(self) -> None:
        self._top = -1
        self._seen = 0  # bit i: counter `_top - i`

    def fresh(self, counter: int) -> bool:
        age = self._top - counter
        if age < 0:
            return True
        return age < limits.REPLAY_WINDOW_PACKETS and not self._seen >> age & 1

    def mark(self, counter: int) -> None:
        age = self._top - counter
        if age < 0:
            # Shifting by the whole distance would build a huge number out of one datagram.
            shift = min(-age, limits.REPLAY_WINDOW_PACKETS)
            self._seen = (self._seen << shift | 1) & ((1 << limits.REPLAY_WINDOW_PACKETS) - 1)
            self._top = counter
        else:
            self._seen |= 1 << age


class _Session:
    """What is kept about one start of one member."""

    __slots__ = ("ciphers", "generation", "window")

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.window = ReplayWindow()
        self.ciphers: dict[int, AESGCM] = {}


class Envelope:
    """Seals this node's datagrams, opens the other members'.

    `known` tells whether a node is a member now.  `keys` are the keyring's secrets by key id;
    `primary` seals, all of them open.
    """

    def __init__(
        self,
        mesh: MeshId,
        me: NodeId,
        generation: int,
        keys: Mapping[int, bytes],
        primary: int,
        known: Callable[[NodeId], bool],
    ) -> None:
        self._mesh = mesh.encode()
        self._me = me
        self._known = known
        self._sessions: dict[NodeId, _Session] = {}
        self._keys: dict[int, bytes] = {}
        self._generation = generation
        self._counter = 0
        self.set_keys(keys, primary)

    def set_keys(self, keys: Mapping[int, bytes], primary: int) -> None:
        """Change the keyring.  Counters go on: a key of a session is never started anew."""
        if primary not in keys:
            raise ValueError("the primary key is not in the keyring")
        if any(len(key) != KEY_BYTES for key in keys.values()):
            raise ValueError(f"a gossip key has {KEY_BYTES} bytes")
        gone = [key_id for key_id, key in self._keys.items() if keys.get(key_id) != key]
        self._keys = dict(keys)
        self._primary = primary
        for session in self._sessions.values():
            for key_id in gone:
                session.ciphers.pop(key_id, None)
        self._seal_with_primary()

    def set_generation(self, generation: int) -> None:
        """Begin a new generation of this node: it must be greater, and on disk already."""
        if generation <= self._generation:
            raise ValueError("a generation must be greater than the one before")
        self._generation = generation
        self._counter = 0
        self._seal_with_primary()

    def forget(self, node: NodeId) -> None:
        """Drop what is kept about a node that is no member any more."""
        self._sessions.pop(node, None)

    def seal(self, payload: bytes) -> bytes:
        """A datagram with that payload.  Raises LimitExceeded over `PAYLOAD_BYTES`."""
        if len(payload) > PAYLOAD_BYTES:
            raise LimitExceeded(f"A datagram cannot carry {len(payload)} bytes.")
        counter = self._counter
        if counter >= _COUNTER_END:
            raise LimitExceeded("This generation has sent all the datagrams that it can.")
        self._counter = counter + 1
        tail = counter.to_bytes(8, "big")
        head = self._head + tail
        return head + self._cipher.encrypt(_NONCE_PAD + tail, payload, self._mesh + head)

    def open(self, datagram: bytes) -> tuple[NodeId, bytes]:
        """Who sealed it, and the payload.  Raises an EnvelopeRefused, then nothing has changed."""
        if not OVERHEAD_BYTES <= len(datagram) <= limits.DATAGRAM_BYTES:
            raise BadEnvelope(f"A datagram of {len(datagram)} bytes is not one of meshd's.")
        if datagram[0] != VERSION:
            raise BadVersion(f"A datagram has version {datagram[0]}, this node reads {VERSION}.")
        key_id = int.from_bytes(datagram[1:5], "big")
        key = self._keys.get(key_id)
        if key is None:
            raise UnknownKey(f"A datagram is sealed with key {key_id:08x}, which is not here.")
        sender = self._sender(datagram)
        generation = int.from_bytes(datagram[31:39], "big")
        counter = int.from_bytes(datagram[39:47], "big")
        session = self._session(sender, generation)
        if not session.window.fresh(counter):
            raise Replayed("A datagram was opened before, or is too old to tell.")
        cipher = session.ciphers.get(key_id) or _cipher(key, sender, generation)
        head = datagram[:_HEAD_BYTES]
        try:
            payload = cipher.decrypt(
                _NONCE_PAD + datagram[39:47], datagram[_HEAD_BYTES:], self._mesh + head
            )
        except InvalidTag:
            raise Unauthenticated("A datagram does not carry the tag of this mesh.") from None
        session.window.mark(counter)
        session.ciphers[key_id] = cipher
        self._sessions[sender] = session
        return sender, payload

    def _sender(self, datagram: bytes) -> NodeId:
        try:
            text = datagram[5:31].decode("ascii")
        except UnicodeDecodeError:
            raise BadEnvelope("A datagram's sender is not a node id.") from None
        if not is_key_id(text):
            raise BadEnvelope("A datagram's sender is not a node id.")
        sender = NodeId(text)
        if sender == self._me:
            raise Replayed("A datagram of this node's own came back.")
        if not self._known(sender):
            raise UnknownSender(f"A datagram is from {sender}, which is no member.")
        return sender

    def _session(self, sender: NodeId, generation: int) -> _Session:
        """The session it belongs to: a new one, not kept yet, for a later start."""
        session = self._sessions.get(sender)
        if session is None or generation > session.generation:
            return _Session(generation)
        if generation < session.generation:
            raise Replayed("A datagram is from an earlier start of its sender.")
        return session

    def _seal_with_primary(self) -> None:
        self._cipher = _cipher(self._keys[self._primary], self._me, self._generation)
        self._head = (
            bytes((VERSION,))
            + self._primary.to_bytes(4, "big")
            + self._me.encode()
            + self._generation.to_bytes(8, "big")
        )


def derive_key(key: bytes, sender: NodeId, generation: int) -> bytes:
    """The key of one start of one sender."""
    info = b"meshd gossip 1\0" + sender.encode() + generation.to_bytes(8, "big")
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)


def _cipher(key: bytes, sender: NodeId, generation: int) -> AESGCM:
    return AESGCM(derive_key(key, sender, generation))
