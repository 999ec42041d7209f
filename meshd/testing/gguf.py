"""The GGUF container, version 3, as far as a generated model needs it: F32 tensors.  Pure."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Type(IntEnum):
    """GGUF's numbers for the types of metadata values."""

    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9


Value = int | float | bool | str | list[str] | list[int]
_ALIGNMENT: Final = 32
_F32_TENSOR: Final = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named block of weights."""

    name: str
    shape: tuple[int, ...]
    """As GGUF has it: the contiguous dimension first."""
    values: array[float]


def encode(metadata: Mapping[str, tuple[Type, Value]], tensors: Sequence[Tensor]) -> bytes:
    """The whole file: header, metadata, tensor table, aligned data."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, (kind, value) in metadata.items():
        head += _string(key) + struct.pack("<I", kind) + _encoded(kind, value)
    data = bytearray()
    for tensor in tensors:
        head += _string(tensor.name) + struct.pack("<I", len(tensor.shape))
        head += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
        head += struct.pack("<IQ", _F32_TENSOR, len(data))
        data += _little_endian(tensor.values)
        data += bytes(-len(data) % _ALIGNMENT)
    return head + bytes(-len(head) % _ALIGNMENT) + bytes(data)


def _little_endian(values: array[float]) -> bytes:
    if sys.byteorder == "big":
        values = array("f", values)
        values.byteswap()
    return values.tobytes()


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _encoded(kind: Type, value: Value) -> bytes:
    if isinstance(value, list):
        strings = isinstance(value[0], str)
        out = struct.pack("<IQ", Type.STRING if strings else Type.I32, len(value))
        items = [_string(x) if isinstance(x, str) else struct.pack("<i", x) for x in value]
        return out + b"".join(items)
    if isinstance(value, str):
        return _string(value)
    return struct.pack({Type.U32: "<I", Type.F32: "<f", Type.BOOL: "<?"}[kind], value)
