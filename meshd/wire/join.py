"""Messages of the join protocol (ALPN `meshd-join/1`).  Pure.

Each frame's payload is the canonical msgpack of `[type, body]`; the two sides take turns, so there
are no request ids.  proto/join.md has the order of the messages and what each side checks.  Keys
that a reader does not know are passed over; a type that it does not know ends the conversation,
since every message here is needed.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self, TypeVar

import msgspec
from msgspec import Meta

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError
from meshd.ids import Address
from meshd.wire.codec import pack, unpack
from meshd.wire.fields import Count, KeyId, Line, Name, ShortLine, SmallBytes, one_line

JOIN_PROTOCOL_MIN: Final = 1
JOIN_PROTOCOL_MAX: Final = 1

PART_BYTES: Final = limits.JOIN_FRAME_BYTES - 64
"""How much of the answer goes into one `Part`; the rest of the frame is its head."""

Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
Nonce = Annotated[bytes, Meta(min_length=32, max_length=32)]
Certificate = Annotated[bytes, Meta(min_length=1, max_length=limits.CERTIFICATE_BYTES)]
Host = Annotated[str, Meta(min_length=1, max_length=limits.HOST_CHARS)]
PortNumber = Annotated[int, Meta(ge=1, le=65535)]
Addresses = Annotated[list[tuple[Host, PortNumber]], Meta(max_length=limits.ADDRESSES_PER_NODE)]
Pause = Annotated[int, Meta(ge=0, le=3_600_000)]


class Reason(StrEnum):
    """Why somebody is not let in.  ONLY APPEND; a reader takes one it does not know as FAILED."""

    FAILED = "failed"
    """Something went wrong at the mesh's side."""
    VERSION = "version"
    MALFORMED = "malformed"
    BUSY = "busy"
    """Too many are joining at once, or this address asks too often: wait and try again."""
    WRONG_TOKEN = "wrong token"
    EXPIRED_TOKEN = "expired token"
    USED_TOKEN = "used token"
    OTHER_MESH = "other mesh"
    UNDECIDED = "undecided"
    """The mesh cannot let anybody in now: too few of its machines are there."""
    PAIRING_REFUSED = "pairing refused"
    WRONG_DIGITS = "wrong digits"
    TIMED_OUT = "timed out"
    TOO_MANY_PENDING = "too many pending"
    REMOVED = "removed"
    MESH_FULL = "mesh full"


class JoinMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What all messages of a join have."""

    def __repr__(self) -> str:  # some carry what must not end up in a log
        return f"{type(self).__name__}(...)"


class JoinHello(JoinMessage, frozen=True):
    """The newcomer speaks first; nothing in it depends on what it is going to ask for."""

    protocol_min: Count
    protocol_max: Count


class Welcome(JoinMessage, frozen=True):
    """The member says who it speaks for; nothing of it is secret."""

    protocol: Count
    mesh: KeyId
    mesh_name: Name
    ca_certificate: Certificate
    nonce: Nonce
    """The member's nonce for a token's proof."""


class Prove(JoinMessage, frozen=True):
    """Way in by token: the newcomer's key, and the proof that it holds the token's secret."""

    token: ShortLine
    """The token's id."""
    public_key: SmallBytes
    nonce: Nonce
    proof: Hash
    name: Name
    addresses: Addresses


class Commit(JoinMessage, frozen=True):
    """Way in by pairing: a hash over the newcomer's key and nonce, which stay closed."""

    commitment: Hash
    name: Name


class MemberNonce(JoinMessage, frozen=True):
    """The member's nonce for the digits, made after the commitment came."""

    nonce: Nonce


class Reveal(JoinMessage, frozen=True):
    """The newcomer opens its commitment; from here on both sides know the digits."""

    public_key: SmallBytes
    nonce: Nonce
    addresses: Addresses


class Agree(JoinMessage, frozen=True):
    """A person at the newcomer has seen the same digits at the other end."""


class Part(JoinMessage, frozen=True):
    """A piece of the answer: canonical msgpack of `Admitted`, cut to fit."""

    data: Annotated[bytes, Meta(min_length=1, max_length=PART_BYTES)]
    last: bool


class JoinRefusal(JoinMessage, frozen=True):
    """Either side ends it, and says why."""

    reason: ShortLine
    """A `Reason`."""
    message: Line = ""
    """For a person; only worth showing once its sender is proven."""
    retry_after_ms: Pause = 0

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "message", one_line(self.message))

    @property
    def known_reason(self) -> Reason:
        """The reason, FAILED if it is of a later version."""
        try:
            return Reason(self.reason)
        except ValueError:
            return Reason.FAILED

    def __repr__(self) -> str:
        return f"JoinRefusal({self.reason!r}, {self.message!r})"

    def to_fields(self) -> dict[str, Any]:
        """As a map, to travel inside another message."""
        return _to_fields(self)

    @classmethod
    def from_fields(cls, fields: object) -> Self:
        """Raises ProtocolError."""
        return _from_fields(fields, cls)


JOIN_MESSAGES: Final = MappingProxyType[int, type[JoinMessage]](
    {
        # ONLY APPEND.  A number that was given out is never given to another message.
        1: JoinHello,
        2: Welcome,
        3: Prove,
        4: Commit,
        5: MemberNonce,
        6: Reveal,
        7: Agree,
        8: Part,
        9: JoinRefusal,
    }
)
_T = TypeVar("_T", bound=JoinMessage)
_NUMBERS: Final = {kind: number for number, kind in JOIN_MESSAGES.items()}


def encode_join(message: JoinMessage) -> bytes:
    """The payload of one frame.

    Raises ValueError if a field breaks the bounds that the other side checks, LimitExceeded if it
    does not fit into `limits.JOIN_FRAME_BYTES`.
    """
    body = _to_fields(message)
    try:
        msgspec.convert(body, type(message), builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise ValueError(f"this {type(message).__name__} is malformed: {error}") from error
    payload = pack([_NUMBERS[type(message)], body])
    if len(payload) > limits.JOIN_FRAME_BYTES:
        raise LimitExceeded(
            f"A {type(message).__name__} of {len(payload)} bytes is over the limit of "
            f"{limits.JOIN_FRAME_BYTES}."
        )
    return payload


def decode_join(payload: bytes) -> JoinMessage:
    """The message in a frame's payload.  Raises ProtocolError that names the message and field."""
    value = unpack(payload, max_bytes=limits.JOIN_FRAME_BYTES)
    match value:
        case [int(number), dict(body)] if not isinstance(number, bool):
            pass
        case _:
            raise ProtocolError("A join frame is not [type, body].")
    kind = JOIN_MESSAGES.get(number)
    if kind is None:
        raise ProtocolError(f"A join message has the type {number}, which is not known here.")
    return _from_fields(body, kind)


# --- what goes between the member at the door and the node that admits


class JoinRequest(JoinMessage, frozen=True):
    """A newcomer's request, as the member at the door passes it on (see `control.AdmitRequest`)."""

    way: Literal["token", "pairing"]
    public_key: SmallBytes
    name: Name
    addresses: Addresses
    server_certificate: Certificate
    """The certificate that the member showed to the newcomer."""
    token: ShortLine = ""
    newcomer_nonce: Annotated[bytes, Meta(max_length=32)] = b""
    member_nonce: Annotated[bytes, Meta(max_length=32)] = b""
    proof: Annotated[bytes, Meta(max_length=32)] = b""

    def to_fields(self) -> dict[str, Any]:
        """As a map, to travel inside another message."""
        return _to_fields(self)

    @classmethod
    def from_fields(cls, fields: object) -> Self:
        """Raises ProtocolError."""
        return _from_fields(fields, cls)


class Admitted(JoinMessage, frozen=True):
    """All that a new member needs."""

    certificate: Certificate
    ca_certificate: Certificate
    members: Annotated[bytes, Meta(max_length=limits.MEMBER_LIST_BYTES + 256)]
    """The signed member list, the newcomer in it."""
    keyring_version: Count
    keyring: Annotated[list[SmallBytes], Meta(min_length=1, max_length=limits.KEYRING_KEYS)]

    def to_fields(self) -> dict[str, Any]:
        """As a map, to travel inside another message."""
        return _to_fields(self)

    @classmethod
    def from_fields(cls, fields: object) -> Self:
        """Raises ProtocolError."""
        return _from_fields(fields, cls)

    def to_parts(self) -> list[Part]:
        """Cut into what fits into frames."""
        data = pack(self.to_fields())
        starts = range(0, len(data), PART_BYTES)
        return [
            Part(data=data[at : at + PART_BYTES], last=at + PART_BYTES >= len(data))
            for at in starts
        ]

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what the parts' data make together.  Raises ProtocolError."""
        return cls.from_fields(unpack(data, max_bytes=limits.JOIN_ANSWER_BYTES))


def to_pairs(addresses: list[Address]) -> list[tuple[str, int]]:
    """Addresses as they travel."""
    return [(address.host, address.port) for address in addresses]


def from_pairs(pairs: list[tuple[str, int]]) -> list[Address]:
    """Addresses as the rest of meshd has them."""
    return [Address(host, port) for host, port in pairs]


def _to_fields(message: JoinMessage) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(message, builtin_types=(bytes,))
    return fields


def _from_fields(fields: object, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(fields, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise ProtocolError(f"A {kind.__name__} message is malformed: {error}.") from error
