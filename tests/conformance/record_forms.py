"""How commands and states of the record are decoded and encoded (proto/record.md)."""

from __future__ import annotations

from typing import Any

import msgspec

from meshd.errors import MeshdError, ProtocolError
from meshd.record.commands import KINDS, Entry, decode, encode
from meshd.record.reducers import Reducers, empty_tables
from meshd.record.state import RecordState
from meshd.record.table import Row
from tests.conformance.jsonform import from_json, to_json

ROWS: dict[str, type[Row]] = {name: table.kind for name, table in empty_tables().items()}
_NUMBERS = {kind: number for number, kind in KINDS.items()}


def read_command(data: bytes, vector: dict[str, Any]) -> Any:
    try:
        entry = decode(data)
    except MeshdError as error:  # Malformed, UnknownCommand: both stop a reader
        raise ProtocolError(str(error)) from error
    return {
        "version": entry.version,
        "client": entry.client,
        "epoch": entry.epoch,
        "seq": entry.seq,
        "ack_below": entry.ack_below,
        "kind": _NUMBERS[type(entry.body)],
        "body": to_json(msgspec.to_builtins(entry.body, builtin_types=(bytes,))),
    }


def write_command(decoded: Any, vector: dict[str, Any]) -> bytes:
    fields = from_json(decoded)
    kind = KINDS[fields.pop("kind")]
    body = msgspec.convert(fields.pop("body"), kind, builtin_types=(bytes,))
    return encode(Entry(body, **fields))


def read_state(data: bytes, vector: dict[str, Any]) -> Any:
    state = RecordState()
    try:
        state.restore(data)
    except MeshdError as error:
        raise ProtocolError(str(error)) from error
    state.check()
    tables = {
        name: to_json(msgspec.to_builtins(table.rows(), builtin_types=(bytes,)))
        for name, table in state._tables.items()
        if len(table)
    }
    return {
        "index": state.index,
        "feature": state.feature,
        "digest": to_json(state.digest()),
        "tables": tables,
    }


def write_state(decoded: Any, vector: dict[str, Any]) -> bytes:
    fields = from_json(decoded)
    tables = empty_tables()
    for name, rows in fields["tables"].items():
        for row in rows:
            tables[name].put(msgspec.convert(row, ROWS[name], builtin_types=(bytes,)))
    state = RecordState()
    reducers = Reducers(tables)
    for _ in reducers.indexing():
        pass
    state._become(tables, reducers, fields["index"])
    return state.freeze()
