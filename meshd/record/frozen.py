"""The state as bytes: what snapshots and backups hold.  Pure.

A row of frames (u32 length, payload), each payload one value in canonical msgpack: first the head,
then parts `[table, [row, ...]]`, tables in their fixed order, within a table part by part and in
each by key.  Equal states give equal bytes.  The head has the state's hash, which is counted anew
from the rows that were read: a state that was damaged on its way is never used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from meshd.errors import MeshdError, ProtocolError
from meshd.record.commands import VERSION
from meshd.record.fields import Count, Digest
from meshd.record.table import Capture, Table, encode_row

FORM: Final = 1
"""Of the frozen form.  A new field of a row does not make a new one (table.Row)."""

_PART_BYTES_MAX: Final = 1 << 24


class StateDamaged(ProtocolError):
    """Bytes that are no frozen state, or not the one that was frozen."""


class StateUnknown(MeshdError):
    """A frozen state of a later version: meshd is to be updated, nothing is wrong with it."""


class Head(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    form: Annotated[int, Meta(ge=1)]
    feature: Count
    """The newest version of commands that may have been applied to it."""
    index: Count
    """The last command that was applied; 0: none."""
    digest: Digest
    rows: Count
    """In all tables, so that a state that lost its end is found before it is hashed."""


class _Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    table: str
    rows: msgspec.Raw


_head: Final = msgspec.msgpack.Decoder(Head)
_part: Final = msgspec.msgpack.Decoder(_Part)


class FrozenState:
    """The state at one moment, not packed yet.

    Taking one costs next to nothing (see table.py).  `parts` does the work, a millisecond or less
    between two of its items, on any thread: nothing that it reads is ever changed.  A thread has to
    let go of the interpreter after each item, or the others' steps take as long as all of it.
    """

    def __init__(self, head: Head, tables: Sequence[Capture]) -> None:
        self.head: Final = head
        self._tables = tables

    def parts(self) -> Iterator[bytes]:
        """The frozen form, in order."""
        yield _frame(encode_row(self.head))
        for table in self._tables:
            for payload in table.packed():
                yield _frame(payload)

    def to_bytes(self) -> bytes:
        return b"".join(self.parts())


def _frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def read_head(data: bytes) -> Head:
    """The head alone.  Raises StateDamaged or StateUnknown."""
    return _read_head(next(_payloads([data]), b""))


def thaw(pieces: Iterable[bytes], tables: dict[str, Table[Any, Any]]) -> Iterator[Head]:
    """Fill empty tables; gives the head after each part, so that the caller can pause there.

    `pieces` are the frozen form, cut anywhere.

    Raises StateDamaged or StateUnknown; the tables are then of no use.  That the hash is right is
    left to the caller, who knows how it is made.
    """
    payloads = _payloads(pieces)
    head = _read_head(next(payloads, b""))
    yield head
    for payload in payloads:
        try:
            part = _part.decode(payload)
            table = tables.get(part.table)
            if table is None:
                raise StateUnknown(
                    f"The state has a table {part.table!r:.80}, which this meshd does not know: "
                    "it is of a later version."
                )
            table.adopt(part.rows)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StateDamaged(f"A part of the state is not valid: {error}.") from error
        yield head
    rows = sum(len(table) for table in tables.values())
    if rows != head.rows:
        raise StateDamaged(f"The state has {rows} rows instead of {head.rows}.")


def _read_head(payload: bytes) -> Head:
    try:
        fields = msgspec.msgpack.decode(payload, type=dict[str, Any])
        _refuse_later("form", fields, FORM)
        _refuse_later("feature", fields, VERSION)
        return _head.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StateDamaged(f"The head of the state is not valid: {error}.") from error


def _refuse_later(what: str, fields: dict[str, Any], known: int) -> None:
    number = fields.get(what)
    if isinstance(number, int) and number > known:
        raise StateUnknown(
            f"The state is of {what} {number}, this meshd knows {known}: it is of a later version."
        )


def _payloads(pieces: Iterable[bytes]) -> Iterator[bytes]:
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        at = 0
        while (end := _end_of_frame(waiting, at)) <= len(waiting):
            yield bytes(waiting[at + 4 : end])
            at = end
        del waiting[:at]
    if waiting:
        raise StateDamaged("The state is cut, or is none.")


def _end_of_frame(data: bytearray, at: int) -> int:
    """Where the frame that begins there ends, or that of its size if that is not whole."""
    if len(data) < at + 4:
        return at + 4
    size = int.from_bytes(data[at : at + 4], "big")
    if not 0 < size <= _PART_BYTES_MAX:
        raise StateDamaged("The state is cut, or is none.")
    return at + 4 + size
