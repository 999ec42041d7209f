"""Tool calls between dialects: fragments on one side, whole calls on the other.  Pure.

OpenAI's form is a stream of fragments per index, arguments as JSON text; Ollama's is whole calls,
arguments as an object.  Internally calls are fragments (`inference.ToolCall`): a whole call is one
fragment.  `index` says which call a fragment belongs to; backends number whole calls themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from meshd.api.dialect import call_id
from meshd.inference import Failure, FailureKind, ToolCall

_decode_object: Final = msgspec.json.Decoder(dict[str, Any]).decode
_SHOWN_CHARS: Final = 200


class Collector:
    """Puts the fragments of one answer together."""

    __slots__ = ("_calls", "_request_id")

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._calls: dict[int, _Parts] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, fragments: Iterable[ToolCall]) -> None:
        """Take the fragments of a delta.  The first id and name given for an index stand."""
        for fragment in fragments:
            parts = self._calls.get(fragment.index)
            if parts is None:
                parts = self._calls[fragment.index] = _Parts()
            parts.id = parts.id or fragment.id
            parts.name = parts.name or fragment.name
            if fragment.arguments:
                parts.arguments.append(fragment.arguments)

    def calls(self) -> list[ToolCall]:
        """The calls by first appearance, numbered from 0, each with an id."""
        return [
            ToolCall(
                number,
                parts.id or call_id(self._request_id, index),
                parts.name,
                "".join(parts.arguments),
            )
            for number, (index, parts) in enumerate(self._calls.items())
        ]


class _Parts:
    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []


def arguments_object(call: ToolCall) -> dict[str, Any] | Failure:
    """The call's arguments as Ollama's clients get them.

    None at all is the call of a function without parameters.  Text that is no JSON object has no
    form in that dialect: it is a failure, since clients pass what they get straight to functions,
    and made-up arguments would be worse than none.
    """
    if not call.arguments.strip():
        return {}
    try:
        return _decode_object(call.arguments)
    except (ValueError, RecursionError):
        shown = call.arguments[:_SHOWN_CHARS]
        return Failure(
            FailureKind.BACKEND,
            f"the model called the tool {call.name!r} with arguments that are not a JSON object: "
            f"{shown}",
            status=502,
        )
