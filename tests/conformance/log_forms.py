"""How messages about the log are decoded and encoded (proto/log.md)."""

from __future__ import annotations

from typing import Any, get_args

from meshd.consensus import messages
from tests.conformance.jsonform import from_json, to_json

LOG_MESSAGES: dict[int, type[messages.Message]] = {
    kind.__struct_config__.tag: kind for kind in get_args(messages.Message)
}
_NUMBERS = {kind: number for number, kind in LOG_MESSAGES.items()}


def read_log(data: bytes, vector: dict[str, Any]) -> Any:
    message = messages.decode(data)
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    return {"type": _NUMBERS[type(message)], "body": to_json(fields)}


def write_log(decoded: Any, vector: dict[str, Any]) -> bytes:
    return messages.encode(LOG_MESSAGES[decoded["type"]](**from_json(decoded["body"])))
