"""Messages of the control link (ALPN `meshd/1`).  Pure.

Each frame's payload is the canonical msgpack of `[type, request id, body]`.  Only the side that
dialled asks; the other answers under the same id; id 0 marks what wants no answer.  proto/peer.md
has the meaning of each message, proto/schema/ its form.

How the protocol grows: type numbers are only ever appended to `MESSAGES`; a type that a reader does
not know comes out as `Unknown`, to be counted, and refused if it asked something; keys that a
reader does not know are kept in `extra` and written again, so that a message survives a relay that
is older than both its ends.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Any, Final, Self, TypeVar, get_type_hints

import msgspec
from msgspec import Meta

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError
from meshd.inference import Inventory, Load
from meshd.wire import short_form
from meshd.wire.codec import pack, unpack
from meshd.wire.control_mesh import (
    AdmitReply,
    AdmitRequest,
    Approve,
    CaKeyReply,
    CaKeyRequest,
    KeyringPush,
    KeyringRequest,
    Leave,
    MemberListPush,
    MemberListRequest,
    PendingReply,
    PendingRequest,
    Renewed,
    RenewRequest,
)
from meshd.wire.control_record import (
    BlobData,
    BlobHeld,
    BlobPart,
    BlobRequest,
    Ending,
    EndingRequest,
    MachineReply,
    MachineRequest,
    RecordMessage,
)
from meshd.wire.fields import (
    INTEGER_MAX,
    AttemptId,
    Count,
    KeyId,
    Line,
    Name,
    ShortLine,
    one_line,
)
from meshd.wire.message import Message as Message

PROTOCOL_MIN: Final = 1
PROTOCOL_MAX: Final = 1
"""The versions of the peer protocol that this node speaks (proto/README.md says what a version
promises)."""


class Unknown(Message, frozen=True):
    """A message of a later version.  Count it; refuse it if it has a request id."""

    type: int
    body: dict[str, Any]


class Hello(Message, frozen=True):
    """First on a link, in both directions."""

    protocol_min: Count
    protocol_max: Count
    version: ShortLine
    """Of the software, for people."""
    node: KeyId
    generation: Count
    mesh: KeyId
    name: Name
    members_version: Count
    """The version of the member list that this side holds."""

    def protocol_with(self, other: Hello) -> int | None:
        """The highest protocol version that both sides speak, None if there is none."""
        common = min(self.protocol_max, other.protocol_max)
        return common if common >= max(self.protocol_min, other.protocol_min) else None


class Refusal(Message, frozen=True):
    """An answer: no, and why.  With id 0 it is about the link, which is closed after it."""

    code: ShortLine
    """For programs: `refused`, `unknown`, ...; see proto/peer.md."""
    message: Line
    """For people; what does not fit into one line of `limits.TEXT_CHARS` is cut when made."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "message", one_line(self.message))


class Ping(Message, frozen=True):
    """Are you there?  Answered by `Pong`."""


class Pong(Message, frozen=True):
    """Yes."""


class Done(Message, frozen=True):
    """An answer: it was carried out."""

    message: Line
    """For people, as in `Refusal`."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "message", one_line(self.message))


class InventoryPush(Message, frozen=True):
    """What a node offers: told when it changes, and the answer to `InventoryRequest`."""

    inventory: dict[str, Any]

    @classmethod
    def of(cls, inventory: Inventory) -> Self:
        """The message; without the models' `details`, which are an engine's own, if too large."""
        push = cls(inventory=msgspec.to_builtins(inventory))
        try:
            encode(push)
        except LimitExceeded:
            return cls(inventory=msgspec.to_builtins(_without_details(inventory)))
        return push

    def read(self) -> Inventory:
        """The inventory.  Raises ProtocolError."""
        inventory = _convert(self.inventory, Inventory)
        if len(inventory.backends) > limits.BACKENDS:
            raise LimitExceeded(f"An inventory has more than {limits.BACKENDS} backends.")
        for backend in inventory.backends:
            if len(backend.models) > limits.MODELS_PER_BACKEND:
                raise LimitExceeded(
                    f"A backend in an inventory has more than {limits.MODELS_PER_BACKEND} models."
                )
        return inventory


def _without_details(inventory: Inventory) -> Inventory:
    replace = msgspec.structs.replace
    return replace(
        inventory,
        backends=[
            replace(backend, models=[replace(model, details={}) for model in backend.models])
            for backend in inventory.backends
        ],
    )


class LoadPush(Message, frozen=True):
    """How busy a node is."""

    load: dict[str, Any]

    @classmethod
    def of(cls, load: Load) -> Self:
        return cls(load=msgspec.to_builtins(load))

    def read(self) -> Load:
        """The load.  Raises ProtocolError."""
        return _convert(self.load, Load)


class InventoryRequest(Message, frozen=True):
    """Asks for `InventoryPush`."""


class PushPull(Message, frozen=True):
    """Membership's full state (proto/gossip.md); answered by `PushPullReply`."""

    state: Annotated[bytes, Meta(max_length=limits.GOSSIP_STATE_BYTES)]


class PushPullReply(Message, frozen=True):
    """The answering side's full state, with what the other's brought about."""

    state: Annotated[bytes, Meta(max_length=limits.GOSSIP_STATE_BYTES)]


class Cancel(Message, frozen=True):
    """Nobody waits for that forwarded request any more: stop it."""

    request: AttemptId


MESSAGES: Final = MappingProxyType[int, type[Message]](
    {
        # ONLY APPEND.  A number that was given out is never given to another message.
        1: Hello,
        2: Refusal,
        3: Ping,
        4: Pong,
        5: Done,
        6: InventoryPush,
        7: LoadPush,
        8: InventoryRequest,
        9: MemberListPush,
        10: MemberListRequest,
        11: PushPull,
        12: PushPullReply,
        13: AdmitRequest,
        14: AdmitReply,
        # 15 and 16 were orders for tokens, 20 one to drain: they are commands to the record now.
        17: PendingRequest,
        18: PendingReply,
        19: Approve,
        21: Leave,
        22: KeyringRequest,
        23: KeyringPush,
        24: Cancel,
        25: RenewRequest,
        26: Renewed,
        27: RecordMessage,
        28: MachineRequest,
        29: MachineReply,
        30: BlobPart,
        31: BlobHeld,
        32: BlobRequest,
        33: BlobData,
        34: CaKeyRequest,
        35: CaKeyReply,
        36: EndingRequest,
        37: Ending,
    }
)
_NUMBERS: Final = {kind: number for number, kind in MESSAGES.items()}
_FIELDS: Final = {
    kind: tuple(name for name in kind.__struct_fields__ if name != "extra")
    for kind in MESSAGES.values()
}
_FLOAT_FIELDS: Final = {
    kind: tuple(name for name, hint in get_type_hints(kind).items() if hint is float)
    for kind in MESSAGES.values()
}

_T = TypeVar("_T")


def encode(message: Message, request_id: int = 0) -> bytes:
    """The payload of one frame.

    Raises LimitExceeded if it would not fit into one, ValueError if a field breaks the bounds that
    the other side checks (so that a mistake shows on the side that makes it).
    """
    if type(message) is RecordMessage and not request_id and not message.extra:
        short = short_form.write(message.data)
        if short is not None:
            return short
    if isinstance(message, Unknown):
        number, body = message.type, message.body
    else:
        kind = type(message)
        number = _NUMBERS[kind]
        body = {
            name: value for name in _FIELDS[kind] if (value := getattr(message, name)) is not None
        }
        body |= {name: float(body[name]) for name in _FLOAT_FIELDS[kind] if name in body}
        if clash := message.extra.keys() & set(_FIELDS[kind]):
            raise ValueError(f"extra keys of a {kind.__name__} message hide its own: {clash}")
        try:
            msgspec.convert(body, kind, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise ValueError(f"this {kind.__name__} message is malformed: {error}") from error
        body |= message.extra
    payload = pack([number, request_id, body])
    if len(payload) > limits.CONTROL_FRAME_BYTES:
        raise LimitExceeded(
            f"A {type(message).__name__} message of {len(payload)} bytes is over the limit of "
            f"{limits.CONTROL_FRAME_BYTES}."
        )
    return payload


def decode(payload: bytes) -> tuple[Message, int]:
    """The message in a frame's payload, and its request id.

    Raises ProtocolError that names the message and the field.  `Unknown` is not an error.
    """
    if (data := short_form.read(payload)) is not None:
        return RecordMessage(data=data), 0
    value = unpack(payload, max_bytes=limits.CONTROL_FRAME_BYTES)
    match value:
        case [int(number), int(request_id), dict(body)]:
            pass
        case _:
            raise ProtocolError("A control frame is not [type, request id, body].")
    if isinstance(number, bool) or isinstance(request_id, bool):
        raise ProtocolError("A control frame's type and request id must be integers.")
    if not (0 < number <= INTEGER_MAX and 0 <= request_id <= INTEGER_MAX):
        raise ProtocolError("A control frame's type or request id is out of range.")
    kind = MESSAGES.get(number)
    if kind is None:
        return Unknown(type=number, body=body), request_id
    return _read(kind, body), request_id


def _read(kind: type[Message], body: dict[str, Any]) -> Message:
    fields = _FIELDS[kind]
    known: dict[str, Any] = {name: body[name] for name in fields if name in body}
    for name in known:
        if known[name] is None:
            raise ProtocolError(f"A {kind.__name__} message is malformed: {name} is nil.")
    for name in _FLOAT_FIELDS[kind]:
        if isinstance(known.get(name), int):  # msgspec would let it pass
            raise ProtocolError(f"A {kind.__name__} message is malformed: {name} is no float.")
    known["extra"] = {name: body[name] for name in body if name not in fields}
    return _convert(known, kind)


def _convert(value: object, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(value, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise ProtocolError(f"A {kind.__name__} message is malformed: {error}.") from error
