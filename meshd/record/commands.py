"""Commands: what is written into the log for the record, and how it is read back.  Pure.

A command is the canonical msgpack of

    [version, client, epoch, seq, ack_below, kind, body]

`version` is of the whole language: what a command of version N does never changes, and a change of
what any kind means is version N + 1, allowed from the moment that a `RaiseFeature` to N + 1 is
applied.  Kinds are only ever appended.  `client`, `epoch` and `seq` make it take effect once
(sessions.py); a command that is harmless when repeated may go without, with `client` "" and
zeros.  `body` is the map of the kind's fields; a field that has its default is missing.

Two ways in which a command can be bad, and they must not be mixed up:

- `Malformed`: no version that this node knows could mean anything by it.  All nodes see the same,
  so it is refused, and changes nothing.
- `UnknownCommand`: of a later version.  This node cannot know what it does to the others' states,
  so the applier stops before it.  It is never skipped.
"""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshd import limits
from meshd.errors import MeshdError, ProtocolError
from meshd.record import commands_jobs as jobs
from meshd.record import commands_registry as registry
from meshd.record.commands_registry import Command
from meshd.record.fields import Count, NodeOrNone
from meshd.record.table import encode_row

VERSION: Final = 1
"""The newest version of commands that this software applies."""


class UnknownCommand(MeshdError):
    """A committed command of a later version: the applier stops here until it is updated."""


class Malformed(ProtocolError):
    """Bytes that are no command of any version known here."""


KINDS: Final = MappingProxyType[int, type[Command]](
    {
        # ONLY APPEND.  A number that was given out is never given to another command.
        1: registry.Found,
        2: registry.Adopt,
        3: registry.Admit,
        4: registry.Remove,
        5: registry.ChangeNode,
        6: registry.Certify,
        7: registry.HoldCa,
        8: registry.RotateCa,
        9: registry.RotateKeyring,
        10: registry.CreateToken,
        11: registry.RevokeToken,
        12: registry.SetAlias,
        13: registry.SetPolicy,
        14: registry.AddApiKey,
        15: registry.RevokeApiKey,
        16: registry.Started,
        17: registry.EndSession,
        18: registry.Tick,
        19: registry.ConfirmClock,
        20: registry.RaiseFeature,
        21: registry.Trace,
        32: jobs.Accept,
        33: jobs.Submit,
        34: jobs.Claim,
        35: jobs.ClaimNext,
        36: jobs.Renew,
        37: jobs.Complete,
        38: jobs.Fail,
        39: jobs.Release,
        40: jobs.Expire,
        41: jobs.Cancel,
        42: jobs.Retry,
        43: jobs.LetGo,
        44: jobs.Notified,
        45: jobs.Move,
    }
)
_NUMBERS: Final = {kind: number for number, kind in KINDS.items()}
_RAISE_FEATURE: Final = _NUMBERS[registry.RaiseFeature]
_DECODERS: Final = {number: msgspec.msgpack.Decoder(kind) for number, kind in KINDS.items()}


class _Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    version: Annotated[int, Meta(ge=1, le=127)]
    client: str
    """See `_require_client`."""
    epoch: Count
    seq: Count
    ack_below: Count
    kind: Annotated[int, Meta(ge=1, le=1023)]
    body: msgspec.Raw


_envelope: Final = msgspec.msgpack.Decoder(_Envelope)


@lru_cache(maxsize=limits.MEMBERS)
def _require_client(text: str) -> None:
    """Raise msgspec.ValidationError unless it is a node or "".

    Each command has one, and they are always the same few: looking for the pattern each time would
    take half of the time that reading a command takes.
    """
    msgspec.convert(text, NodeOrNone)


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A command with whose it is: what `decode` gives and `encode` takes."""

    body: Command
    client: str = ""
    """The node in whose session it is; "": in none."""
    epoch: int = 0
    seq: int = 0
    """From 1 on, each once within a session."""
    ack_below: int = 0
    """The client has the results of all its commands below this number."""
    version: int = VERSION


def encode(entry: Entry) -> bytes:
    """The bytes to propose.  Raises Malformed for what `decode` would refuse: a bug on this side.

    A bound that was not kept shows here, where it is made, and not at every node.
    """
    data = _pack(entry)
    _read(data)
    return data


def decode(data: bytes) -> Entry:
    """Read a command.  Raises Malformed or UnknownCommand."""
    entry = _read(data)
    if _pack(entry) != data:
        raise Malformed("A command is not in the canonical form.")
    return entry


def _read(data: bytes) -> Entry:
    """What a command says, in whatever form."""
    if len(data) > limits.COMMAND_BYTES:
        raise Malformed(
            f"A command of {len(data)} bytes is over the limit of {limits.COMMAND_BYTES}."
        )
    read = _read_envelope(data)
    try:
        entry = Entry(
            body=_DECODERS[read.kind].decode(read.body),
            client=read.client,
            epoch=read.epoch,
            seq=read.seq,
            ack_below=read.ack_below,
            version=read.version,
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"A command is not valid: {error}.") from error
    if bool(entry.client) != bool(entry.seq) or bool(entry.client) != bool(entry.epoch):
        raise Malformed("A command is half in a session.")
    return entry


def require_known(data: bytes) -> None:
    """Raise UnknownCommand for one that whoever applies it would stop at.

    For whoever lets commands into the log; a tenth of what reading one costs.
    """
    try:
        read = _read_envelope(data)
        body = _DECODERS[read.kind].decode(read.body) if read.kind == _RAISE_FEATURE else None
        if isinstance(body, registry.RaiseFeature):
            require_feature(body.version)
    except (Malformed, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # it is refused when it is applied, by all alike


def require_feature(version: int) -> None:
    """Raise UnknownCommand if this meshd cannot follow where commands go on to that version."""
    if version > VERSION:
        raise UnknownCommand(
            f"The mesh goes on to commands of version {version}, this meshd knows "
            f"{VERSION}: update it."
        )


def _read_envelope(data: bytes) -> _Envelope:
    """Whose it is, and of which kind, without the body.  Raises Malformed or UnknownCommand."""
    # The version comes first and is one byte, in every version there will ever be.
    if len(data) < 2 or data[0] & 0xF0 != 0x90 or not 0 < data[1] < 0x80:
        raise Malformed("A command does not begin as one.")
    if data[1] > VERSION:
        raise UnknownCommand(
            f"A command is of version {data[1]}, this meshd knows {VERSION}: update it."
        )
    try:
        read = _envelope.decode(data)
        _require_client(read.client)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"A command is not valid: {error}.") from error
    if read.kind not in KINDS:
        raise UnknownCommand(f"A command is of the unknown kind {read.kind}: update meshd.")
    return read


def _pack(entry: Entry) -> bytes:
    number = _NUMBERS[type(entry.body)]
    return encode_row(
        [
            entry.version, entry.client, entry.epoch, entry.seq, entry.ack_below, number,
            entry.body,
        ]
    )  # fmt: skip
