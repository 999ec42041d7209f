"""Canonical msgpack: one value, one row of bytes.  Pure.

Everything that nodes say to each other on control links, in joins and in gossip is msgpack in one
canonical form, so that a signature over a message can be checked after decoding, a second
implementation can be held to golden vectors byte for byte, and no two readers can see two
meanings in one message.  The form (proto/frame.md has it for implementers):

- integers, lengths and counts in the shortest form there is; an integer that is not negative in
  the unsigned forms;
- maps have `str` keys only, each once, in ascending order of their UTF-8 bytes (for Python's `str`
  that is plain `sorted`);
- `bin` is bytes and `str` is UTF-8 text, and neither stands in for the other;
- floats are float64 and finite (a NaN has many encodings and equals nothing, itself included);
- no extension types.

Reading is in two steps.  `_survey` walks the heads without building anything and enforces the form
and the limits; only what passed is handed to the msgpack library, which then cannot be made to
allocate more than a small multiple of the bytes that arrived.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final

import msgpack

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError

_packer = msgpack.Packer(use_bin_type=True, use_single_float=False, autoreset=True)
_AS_IT_IS: Final = frozenset({str, bytes, int, bool, type(None)})  # floats have to be looked at
_float64 = struct.Struct(">d")

_FIX_MAP: Final = 0x80
_FIX_ARRAY: Final = 0x90
_FIX_STR: Final = 0xA0
_FLOAT32: Final = 0xCA
_FLOAT64: Final = 0xCB


def pack(value: object) -> bytes:
    """Write a value in the canonical form.

    Takes None, bool, int, float, str, bytes, list, tuple and dict with str keys, nested.  Raises
    TypeError or ValueError for what the form cannot express (a bug on this side), LimitExceeded
    for more than `limits.MSGPACK_DEPTH` levels or `limits.MSGPACK_ITEMS` items.
    """
    items_left = [limits.MSGPACK_ITEMS]
    try:
        packed: bytes = _packer.pack(_ordered(value, 1, items_left))
    except OverflowError as error:
        raise ValueError("an integer does not fit into 64 bits") from error
    return packed


def unpack(data: bytes, *, max_bytes: int) -> Any:
    """Read one value that fills `data` whole and is in the canonical form.

    Raises LimitExceeded for more than `max_bytes`, `limits.MSGPACK_DEPTH` levels or
    `limits.MSGPACK_ITEMS` items, and ProtocolError for anything but one canonical value.  Nothing
    is allocated before the limits are checked.
    """
    if len(data) > max_bytes:
        raise LimitExceeded(f"A message of {len(data)} bytes is over the limit of {max_bytes}.")
    _survey(data)
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, max_ext_len=0)
    except UnicodeDecodeError as error:
        raise ProtocolError("A text in a message is not UTF-8.") from error
    except (ValueError, msgpack.UnpackException) as error:  # the survey leaves nothing for this
        raise ProtocolError(f"A message is not msgpack: {error}.") from error


def _ordered(value: Any, depth: int, items_left: list[int]) -> Any:
    """The value with its maps in order; `items_left` is one counter shared by all levels."""
    is_map = isinstance(value, dict)
    if not is_map and not isinstance(value, (list, tuple)):
        return _checked_scalar(value)
    if depth > limits.MSGPACK_DEPTH:
        raise _too_deep()
    items_left[0] -= 2 * len(value) if is_map else len(value)
    if items_left[0] < 0:
        raise _too_many()
    if not is_map:
        return [
            item if type(item) in _AS_IT_IS else _ordered(item, depth + 1, items_left)
            for item in value
        ]
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"a map key must be text, not {type(key).__name__}")
    ordered: dict[str, Any] = {}
    for key in sorted(value):
        item = value[key]
        if type(item) not in _AS_IT_IS:
            item = _ordered(item, depth + 1, items_left)
        ordered[key] = item
    return ordered


def _checked_scalar(value: Any) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
    elif value is not None and not isinstance(value, (str, bytes, int)):  # or a subclass: StrEnum
        raise TypeError(f"the canonical form has no place for a {type(value).__name__}")
    return value


def _too_deep() -> LimitExceeded:
    return LimitExceeded(f"A message is nested deeper than {limits.MSGPACK_DEPTH} levels.")


def _too_many() -> LimitExceeded:
    return LimitExceeded(f"A message has more than {limits.MSGPACK_ITEMS} items.")


# --- reading: the survey


def _whole_sizes() -> list[int]:
    """For each first byte: the value's size in bytes if the byte alone tells it, else 0."""
    sizes = [0] * 256
    for head in [*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3]:
        sizes[head] = 1  # small integers, nil, false, true
    for length in range(32):
        sizes[_FIX_STR + length] = 1 + length
    return sizes


_WHOLE_SIZES: Final = _whole_sizes()

# First byte -> (size of the number that follows, the smallest and the largest value that have no
# shorter form).
_INTS: Final = {
    0xCC: (1, 2**7, 2**8 - 1),
    0xCD: (2, 2**8, 2**16 - 1),
    0xCE: (4, 2**16, 2**32 - 1),
    0xCF: (8, 2**32, 2**64 - 1),
    0xD0: (1, -(2**7), -(2**5) - 1),
    0xD1: (2, -(2**15), -(2**7) - 1),
    0xD2: (4, -(2**31), -(2**15) - 1),
    0xD3: (8, -(2**63), -(2**31) - 1),
}
# First byte -> (size of the length that follows, the smallest length that has no shorter form).
_TEXTS: Final = {0xD9: (1, 32), 0xDA: (2, 2**8), 0xDB: (4, 2**16)}
_BINS: Final = {0xC4: (1, 0), 0xC5: (2, 2**8), 0xC6: (4, 2**16)}
_ARRAYS: Final = {0xDC: (2, 16), 0xDD: (4, 2**16)}
_MAPS: Final = {0xDE: (2, 16), 0xDF: (4, 2**16)}


def _survey(data: bytes) -> None:
    """Raise ProtocolError or LimitExceeded unless `data` is one canonical value, without building.

    UTF-8 is left to the library.  A position past the end shows up as an IndexError (a head that is
    not there) or in the last check (a text that is cut).
    """
    try:
        end, _ = _survey_value(data, 0, 0, 1)
    except IndexError:
        raise ProtocolError("A message is cut: it ends before its last value does.") from None
    if end > len(data):
        raise ProtocolError("A message is cut: it ends before its last value does.")
    if end < len(data):
        raise ProtocolError(f"{len(data) - end} bytes follow the end of a message.")


def _survey_value(data: bytes, at: int, items: int, depth: int) -> tuple[int, int]:
    """Check the value at `at`.  Returns where the next one starts, and the items so far."""
    head = data[at]
    if size := _WHOLE_SIZES[head]:
        return at + size, items
    if head < _FIX_ARRAY:
        return _survey_map(data, at + 1, head - _FIX_MAP, items, depth)
    if head < _FIX_STR:
        return _survey_array(data, at + 1, head - _FIX_ARRAY, items, depth)
    if head in _INTS:
        size, least, most = _INTS[head]
        value = _number(data, at + 1, size, signed=least < 0)
        if not least <= value <= most:
            raise _not_canonical(at, "an integer has a shorter form")
        return at + 1 + size, items
    if head == _FLOAT64:
        if len(data) < at + 9:
            raise IndexError
        if not math.isfinite(_float64.unpack_from(data, at + 1)[0]):
            raise _not_canonical(at, "a float is not finite")
        return at + 9, items
    if form := _TEXTS.get(head) or _BINS.get(head):
        start, length = _length(data, at, form)
        return start + length, items
    if head in _ARRAYS:
        start, length = _length(data, at, _ARRAYS[head])
        return _survey_array(data, start, length, items, depth)
    if head in _MAPS:
        start, length = _length(data, at, _MAPS[head])
        return _survey_map(data, start, length, items, depth)
    if head == _FLOAT32:
        raise _not_canonical(at, "a float is not a float64")
    raise _not_canonical(at, f"the type 0x{head:02x} is not used")


def _survey_array(data: bytes, at: int, count: int, items: int, depth: int) -> tuple[int, int]:
    items = _enter(items + count, depth)
    sizes = _WHOLE_SIZES
    for _ in range(count):
        if size := sizes[data[at]]:  # most values; spares a call
            at += size
        else:
            at, items = _survey_value(data, at, items, depth + 1)
    return at, items


def _survey_map(data: bytes, at: int, count: int, items: int, depth: int) -> tuple[int, int]:
    items = _enter(items + 2 * count, depth)
    sizes = _WHOLE_SIZES
    previous = b""
    for index in range(count):
        start, end = _text_bounds(data, at)
        key = data[start:end]
        if key <= previous and index:
            raise _not_canonical(at, "map keys are not in ascending order, each once")
        previous = key
        at = end
        if size := sizes[data[at]]:
            at += size
        else:
            at, items = _survey_value(data, at, items, depth + 1)
    return at, items


def _enter(items: int, depth: int) -> int:
    """Check the limits at the head of a container, before its contents are looked at."""
    if depth > limits.MSGPACK_DEPTH:
        raise _too_deep()
    if items > limits.MSGPACK_ITEMS:
        raise _too_many()
    return items


def _text_bounds(data: bytes, at: int) -> tuple[int, int]:
    """Where the text of the map key at `at` starts and ends."""
    head = data[at]
    if _FIX_STR <= head < _FIX_STR + 32:
        return at + 1, at + 1 + head - _FIX_STR
    if head not in _TEXTS:
        raise _not_canonical(at, "a map key is not text")
    start, length = _length(data, at, _TEXTS[head])
    return start, start + length


def _length(data: bytes, at: int, form: tuple[int, int]) -> tuple[int, int]:
    """The length or count behind the head at `at`: where its contents start, and how many."""
    size, least = form
    length = _number(data, at + 1, size, signed=False)
    if length < least:
        raise _not_canonical(at, "a length has a shorter form")
    return at + 1 + size, length


def _number(data: bytes, at: int, size: int, *, signed: bool) -> int:
    if len(data) < at + size:
        raise IndexError
    return int.from_bytes(data[at : at + size], "big", signed=signed)


def _not_canonical(at: int, what: str) -> ProtocolError:
    return ProtocolError(f"A message is not canonical msgpack: at byte {at}, {what}.")
