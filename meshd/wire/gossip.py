"""What members tell each other about members: messages <-> canonical msgpack.  Pure.

A packet is an array of messages, each `[type, map]`.  It travels sealed in a datagram
(`envelope.py`), or bare inside the peer link when two members exchange all they know.  Types and
keys are only ever appended: an unknown type is counted and skipped, an unknown key is ignored, and
inside a word it is kept, because words are passed on byte for byte as their author signed them.

| type | message | map |
|---|---|---|
| 1 | `Ping`       | q sequence, n the node that is meant |
| 2 | `PingReq`    | q, n, a addresses of n |
| 3 | `Ack`        | q |
| 4 | `Nack`       | q |
| 5 | `Word`       | p payload (packed map), s signature over p |
| 6 | `Suspect`    | n node, g generation, i incarnation, b who says so |
| 7 | `Failed`     | n, g, i, b |
| 8 | `Ask`        | n, g, i |

A word's payload: k kind, n node, g generation, i incarnation, h name, a addresses `[host, port]`,
p protocol `[least, most, current]`, r inventory revision, l load `[running, queued, slots,
draining]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Final

import msgspec

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError
from meshd.ids import Address, NodeId, is_key_id
from meshd.wire.codec import pack, unpack

WORD_CONTEXT: Final = b"meshd word 1"
"""What a word is signed in (`identity.PrivateKey.sign`): no other signature passes for one."""
SEQUENCE_END: Final = 2**32
VERSION_END: Final = 2**63
_COUNT_END: Final = 2**31
_HOST = re.compile(r"[0-9A-Za-z:._-]{1,64}\Z")

Version = tuple[int, int]
"""(generation, incarnation): the generation grows by one per start, the incarnation with each
word of that start.  Later words have greater versions; nobody but the node itself makes them."""


class WordKind(IntEnum):
    """What a node can say of itself."""

    ALIVE = 0
    ASLEEP = 1
    LEFT = 2


class Load(msgspec.Struct, frozen=True):
    """How busy a node was when it spoke: old by the time it is read, so only a first guess."""

    running: int = 0
    queued: int = 0
    slots: int = 0
    draining: bool = False


class Profile(msgspec.Struct, frozen=True):
    """What a node says of itself besides that it lives."""

    name: str
    addresses: tuple[Address, ...]
    """Where it listens (TCP and UDP), the one to try first in front."""
    protocol: tuple[int, int, int] = (1, 1, 1)
    """The versions it can speak, and the one it speaks: least, most, current."""
    inventory: int = 0
    """Grows when its models change; the list itself travels over the peer link."""
    load: Load = Load()


class Word(msgspec.Struct, frozen=True):
    """A node's own signed statement.  Passed on byte for byte: `payload` is what was signed."""

    node: NodeId
    version: Version
    kind: WordKind
    profile: Profile
    payload: bytes
    signature: bytes


class Suspect(msgspec.Struct, frozen=True):
    """`by` could not reach `node`, whose last word it knows is `version`.  An opinion: unsigned."""

    node: NodeId
    version: Version
    by: NodeId


class Failed(msgspec.Struct, frozen=True):
    """`by` holds `node` for gone: nobody refuted the suspicion in time."""

    node: NodeId
    version: Version
    by: NodeId


class Ping(msgspec.Struct, frozen=True):
    """Are you there?  Whoever is not `target` keeps silent: the address has a new owner."""

    sequence: int
    target: NodeId


class PingReq(msgspec.Struct, frozen=True):
    """Ping `target` for me, and pass on its ack, or a nack when there is none in time."""

    sequence: int
    target: NodeId
    addresses: tuple[Address, ...] = ()


class Ack(msgspec.Struct, frozen=True):
    """The answer to a ping, with its sequence number."""

    sequence: int


class Nack(msgspec.Struct, frozen=True):
    """I am well, but the target of your ping request has not answered me so far."""

    sequence: int


class Ask(msgspec.Struct, frozen=True):
    """I am about to hold `node` for failed, and `version` is its last word I know.

    Whoever knows a later one sends it; nobody else answers.
    """

    node: NodeId
    version: Version


Message = Ping | PingReq | Ack | Nack | Word | Suspect | Failed | Ask


class Packet(msgspec.Struct, frozen=True):
    """What one datagram or exchange held."""

    messages: tuple[Message, ...]
    unknown: int = 0
    """How many messages of types that this version does not know were skipped."""


_TYPES: Final[dict[type, int]] = {
    Ping: 1,
    PingReq: 2,
    Ack: 3,
    Nack: 4,
    Word: 5,
    Suspect: 6,
    Failed: 7,
    Ask: 8,
}


# --- writing


def encode_claim(node: NodeId, version: Version, kind: WordKind, profile: Profile) -> bytes:
    """The payload of a word, ready to be signed."""
    load = profile.load
    fields: dict[str, Any] = {
        "a": _addresses_out(profile.addresses),
        "g": version[0],
        "h": profile.name,
        "i": version[1],
        "k": int(kind),
        "l": [load.running, load.queued, load.slots, load.draining],
        "n": node,
        "p": list(profile.protocol),
        "r": profile.inventory,
    }
    return pack(fields)


def make_word(
    node: NodeId,
    version: Version,
    kind: WordKind,
    profile: Profile,
    sign: Callable[[bytes], bytes],
) -> Word:
    """Say something of oneself, signed.

    Leaves out the last addresses if the word would be over `limits.GOSSIP_WORD_BYTES`, which a
    datagram always has room for.
    """
    while True:
        payload = encode_claim(node, version, kind, profile)
        if len(payload) <= limits.GOSSIP_WORD_BYTES or not profile.addresses:
            break
        profile = msgspec.structs.replace(profile, addresses=profile.addresses[:-1])
    return Word(node, version, kind, profile, payload, sign(payload))


def encode(message: Message) -> bytes:
    """One message, as it stands in a packet."""
    fields: dict[str, Any]
    if isinstance(message, Word):
        fields = {"p": message.payload, "s": message.signature}
    elif isinstance(message, Suspect | Failed):
        generation, incarnation = message.version
        fields = {"b": message.by, "g": generation, "i": incarnation, "n": message.node}
    elif isinstance(message, Ask):
        generation, incarnation = message.version
        fields = {"g": generation, "i": incarnation, "n": message.node}
    elif isinstance(message, Ping):
        fields = {"n": message.target, "q": message.sequence}
    elif isinstance(message, PingReq):
        fields = {
            "a": _addresses_out(message.addresses),
            "n": message.target,
            "q": message.sequence,
        }
    else:
        fields = {"q": message.sequence}
    return pack([_TYPES[type(message)], fields])


def join(encoded: Sequence[bytes]) -> bytes:
    """A packet of messages that are encoded already."""
    count = len(encoded)
    if count < 16:
        head = bytes((0x90 | count,))
    elif count < 2**16:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        raise LimitExceeded(f"A packet cannot hold {count} messages.")
    return head + b"".join(encoded)


def encode_packet(messages: Sequence[Message]) -> bytes:
    """A packet of these messages.  Sizes are the caller's business (`limits.DATAGRAM_BYTES`)."""
    return join([encode(message) for message in messages])


PACKET_HEAD_BYTES: Final = 3
"""What a packet needs besides its messages, at most."""


def _addresses_out(addresses: Sequence[Address]) -> list[list[str | int]]:
    return [[address.host, address.port] for address in addresses]


# --- reading


def decode_packet(data: bytes, *, max_bytes: int) -> Packet:
    """Read a packet.  Raises ProtocolError (LimitExceeded): then nothing of it is to be used.

    Signatures are not checked here: most words have been heard before.
    """
    items = unpack(data, max_bytes=max_bytes)
    if not isinstance(items, list):
        raise ProtocolError("A packet of gossip is not an array.")
    messages: list[Message] = []
    unknown = 0
    for item in items:
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[1], dict):
            raise ProtocolError("A message of gossip is not a pair of type and map.")
        reader = _READERS.get(_integer(item[0], 2**16))
        if reader is None:
            unknown += 1
        else:
            messages.append(reader(item[1]))
    return Packet(tuple(messages), unknown)


def decode_word(payload: bytes, signature: bytes) -> Word:
    """Read a word from what its author signed.  Raises ProtocolError."""
    if len(signature) > limits.GOSSIP_SIGNATURE_BYTES:
        raise LimitExceeded(f"A signature of {len(signature)} bytes is over the limit.")
    fields = unpack(payload, max_bytes=limits.GOSSIP_WORD_BYTES)
    if not isinstance(fields, dict):
        raise ProtocolError("A member's word is not a map.")
    kind = _integer(fields.get("k"), 3)
    name = fields.get("h")
    if not isinstance(name, str) or len(name) > limits.NAME_CHARS or not name.isprintable():
        raise ProtocolError("A member's name is not a short printable text.")
    load, protocol = fields.get("l"), fields.get("p")
    # Longer lists are later versions of the same: what is known stands in front.
    if not isinstance(load, list) or len(load) < 4 or not isinstance(load[3], bool):
        raise ProtocolError("A member's load is not [running, queued, slots, draining].")
    if not isinstance(protocol, list) or len(protocol) < 3:
        raise ProtocolError("A member's protocol is not [least, most, current].")
    profile = Profile(
        name=name,
        addresses=_addresses_in(fields.get("a")),
        protocol=(
            _integer(protocol[0], 2**16),
            _integer(protocol[1], 2**16),
            _integer(protocol[2], 2**16),
        ),
        inventory=_integer(fields.get("r"), VERSION_END),
        load=Load(
            _integer(load[0], _COUNT_END),
            _integer(load[1], _COUNT_END),
            _integer(load[2], _COUNT_END),
            load[3],
        ),
    )
    return Word(
        _node(fields.get("n")), _version(fields), WordKind(kind), profile, payload, signature
    )


def _read_ping(fields: dict[str, Any]) -> Ping:
    return Ping(_integer(fields.get("q"), SEQUENCE_END), _node(fields.get("n")))


def _read_ping_req(fields: dict[str, Any]) -> PingReq:
    return PingReq(
        _integer(fields.get("q"), SEQUENCE_END),
        _node(fields.get("n")),
        _addresses_in(fields.get("a")),
    )


def _read_ack(fields: dict[str, Any]) -> Ack:
    return Ack(_integer(fields.get("q"), SEQUENCE_END))


def _read_nack(fields: dict[str, Any]) -> Nack:
    return Nack(_integer(fields.get("q"), SEQUENCE_END))


def _read_word(fields: dict[str, Any]) -> Word:
    payload, signature = fields.get("p"), fields.get("s")
    if not isinstance(payload, bytes) or not isinstance(signature, bytes):
        raise ProtocolError("A member's word or its signature is not bytes.")
    return decode_word(payload, signature)


def _read_suspect(fields: dict[str, Any]) -> Suspect:
    return Suspect(_node(fields.get("n")), _version(fields), _node(fields.get("b")))


def _read_failed(fields: dict[str, Any]) -> Failed:
    return Failed(_node(fields.get("n")), _version(fields), _node(fields.get("b")))


def _read_ask(fields: dict[str, Any]) -> Ask:
    return Ask(_node(fields.get("n")), _version(fields))


_READERS: Final[dict[int, Callable[[dict[str, Any]], Message]]] = {
    1: _read_ping,
    2: _read_ping_req,
    3: _read_ack,
    4: _read_nack,
    5: _read_word,
    6: _read_suspect,
    7: _read_failed,
    8: _read_ask,
}


def _integer(value: object, end: int) -> int:
    if type(value) is not int or not 0 <= value < end:
        raise ProtocolError(f"A number of gossip is not one from 0 to {end - 1}.")
    return value


def _version(fields: dict[str, Any]) -> Version:
    return _integer(fields.get("g"), VERSION_END), _integer(fields.get("i"), VERSION_END)


def _node(value: object) -> NodeId:
    if not isinstance(value, str) or not is_key_id(value):
        raise ProtocolError("A node id of gossip is not 26 base32 characters.")
    return NodeId(value)


def _addresses_in(value: object) -> tuple[Address, ...]:
    if not isinstance(value, list) or len(value) > limits.ADDRESSES_PER_NODE:
        raise ProtocolError(f"A member's addresses are not up to {limits.ADDRESSES_PER_NODE}.")
    addresses = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ProtocolError("An address of gossip is not a pair of host and port.")
        host, port = pair
        if not isinstance(host, str) or not _HOST.match(host) or not _integer(port, 65536):
            raise ProtocolError("An address of gossip is not a host and a port.")
        addresses.append(Address(host, port))
    return tuple(addresses)
