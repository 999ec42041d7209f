"""Reading a request's JSON body, whatever the dialect.  Pure.

Types are checked by msgspec against a struct per endpoint; what it says is put into the words of
JSON and tied to the field, so that each dialect can name it in its own error body.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final, TypeVar

import msgspec

from meshd import limits
from meshd.errors import MeshdError

T = TypeVar("T")

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_AT: Final = re.compile(r"(?s)(?P<what>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?\Z")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`\Z")
_EXPECTED: Final = re.compile(r"Expected `(.*)`, got `(.*)`\Z")
_JSON_NAMES: Final = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_MEDIA_TYPES: Final = (
    ("/9j/", "image/jpeg"),
    ("iVBORw0KGgo", "image/png"),
    ("UklGR", "image/webp"),
    ("R0lGOD", "image/gif"),
)
_decode_object: Final = msgspec.json.Decoder(dict[str, Any]).decode


class BadField(MeshdError):
    """A body that is not what the endpoint takes.  `param`: the field, "" for the whole body."""

    def __init__(self, message: str, param: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.param = param


def read_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.  Raises BadField."""
    if not body:
        raise BadField("the request has no body: send a JSON object")
    # Millions of small values would hold up everybody else while they are parsed.
    if len(body) > limits.JSON_COMMAS and body.count(b",") > limits.JSON_COMMAS:
        raise BadField("the body has too many values")
    try:
        return _decode_object(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error), "the body must be a JSON object") from None
    except RecursionError:
        raise BadField("the body is nested too deeply") from None
    except ValueError as error:  # msgspec.DecodeError and UnicodeDecodeError
        raise BadField(f"the body is not valid JSON: {error}") from None


def convert(data: dict[str, Any], shape: type[T]) -> T:
    """The object as that struct; unknown fields are left out.  Raises BadField."""
    try:
        return msgspec.convert(data, shape)
    except msgspec.ValidationError as error:
        raise _explain(str(error), "the body does not fit") from None
    except (RecursionError, OverflowError, ValueError):
        raise BadField("a value in the body is too large or nested too deeply") from None


def _explain(text: str, fallback: str) -> BadField:
    match = _AT.match(text)
    what, path = (match["what"], match["path"] or "") if match else (text, "")
    param = path.removeprefix(".").replace("[...]", "")  # msgspec's way to say "some key"
    if missing := _MISSING.match(what):
        param = f"{param}.{missing[1]}".removeprefix(".")
        return BadField(f"{param} is required", param)
    if expected := _EXPECTED.match(what):
        names = [_JSON_NAMES.get(name, name) for name in expected[1].split(" | ")]
        wanted = " or ".join(name for name in names if name != "null")
        got = _JSON_NAMES.get(expected[2], expected[2])
        if not param:
            return BadField(f"{fallback}: expected {wanted}, got {got}")
        return BadField(f"{param} must be of type {wanted}, not {got}", param)
    return BadField(f"{param}: {what}" if param else f"{fallback}: {what}", param)


def check_free(value: object, param: str) -> None:
    """Bound a value whose form is not ours to know (a schema, tools, options, unknown fields).

    It has to survive every encoding on its way to an engine: nesting within `limits.JSON_DEPTH`,
    integers within 64 bits, and not too many of them.  Raises BadField.
    """
    level: list[object] = [value]
    seen = 0
    for _ in range(limits.JSON_DEPTH):
        seen += len(level)
        if seen > limits.JSON_ITEMS:
            raise BadField(f"{param} has more than {limits.JSON_ITEMS} values", param)
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif type(item) is int and not INT64_MIN <= item <= INT64_MAX:
                raise BadField(f"{param} has an integer that does not fit 64 bits", param)
        if not below:
            return
        level = below
    raise BadField(f"{param} is nested more than {limits.JSON_DEPTH} levels deep", param)


def check_number(
    value: float | None, param: str, low: float = -math.inf, high: float = math.inf
) -> float | None:
    """The number if it lies within [low, high], which are named if it does not."""
    if value is None or low <= value <= high:
        return value
    if high == math.inf:
        raise BadField(f"{param} must be at least {low:g}, not {value:g}", param)
    raise BadField(f"{param} must be between {low:g} and {high:g}, not {value:g}", param)


def check_integer(
    value: int | None, param: str, low: int = INT64_MIN, high: int = INT64_MAX
) -> int | None:
    """The integer if it lies within [low, high]; by default, within 64 bits."""
    if value is None or low <= value <= high:
        return value
    if (low, high) == (INT64_MIN, INT64_MAX):
        raise BadField(f"{param} does not fit 64 bits", param)
    if high == INT64_MAX:
        raise BadField(f"{param} must be at least {low}", param)
    raise BadField(f"{param} must be between {low} and {high}", param)


def check_model(name: str) -> str:
    """The model's name as the client wrote it; it must be there, and short."""
    if not name:
        raise BadField("model is required", "model")
    if len(name) > limits.MODEL_NAME_CHARS:
        raise BadField(f"model is longer than {limits.MODEL_NAME_CHARS} characters", "model")
    return name


def check_stop(stop: str | list[str] | None, param: str = "stop") -> list[str]:
    """Stop strings as a list, empty ones left out (they would stop nothing, or everything)."""
    if not stop:
        return []
    strings = [stop] if isinstance(stop, str) else [text for text in stop if text]
    if len(strings) > limits.STOP_STRINGS:
        raise BadField(f"{param} has more than {limits.STOP_STRINGS} strings", param)
    return strings


def check_base64(data: str, param: str) -> str:
    """The data if it is standard base64 with padding.  One pass in C: images are megabytes."""
    try:
        rest = data.encode("ascii").translate(None, _ALPHABET)
    except UnicodeEncodeError:
        rest = b"?"
    if rest not in (b"", b"=", b"==") or not data.endswith(rest.decode()) or len(data) % 4:
        raise BadField(f"{param} is not valid base64", param)
    if not data:
        raise BadField(f"{param} is empty", param)
    return data


def media_type_of(data: str) -> str:
    """A picture's media type by its first bytes (base64); PNG if they say nothing."""
    for prefix, media_type in _MEDIA_TYPES:
        if data.startswith(prefix):
            return media_type
    return "image/png"


def check_count(count: int, limit: int, param: str) -> None:
    """Refuse a list that is longer than `limit`."""
    if count > limit:
        raise BadField(f"{param} has {count} entries; at most {limit} are taken", param)
