"""How a vector is made of a sample, and names that many samples use."""

from __future__ import annotations

from typing import Any

from tests.conformance.forms import FORMS, Vector

NODE = "a" * 26
OTHER = "b" * 26
MESH = "m" * 26
BIN = {"$bin": "00ff"}


def good(name: str, type_: str, decoded: Any, **more: Any) -> Vector:
    """A vector that meshd's own encoder makes."""
    vector: Vector = {"name": name, "type": type_, "since": 1, **more, "decoded": decoded}
    return vector | {"hex": FORMS[type_].write(decoded, vector).hex()}


def readable(name: str, type_: str, decoded: Any, data: bytes, **more: Any) -> Vector:
    """A vector that readers must understand, though a writer of this version would not make it."""
    return {
        "name": name, "type": type_, "since": 1, "only": "decode", **more,
        "decoded": decoded, "hex": data.hex(),
    }  # fmt: skip


def bad(name: str, type_: str, data: bytes | str, error: str, **more: Any) -> Vector:
    hex_text = data if isinstance(data, str) else data.hex()
    return {"name": name, "type": type_, **more, "hex": hex_text, "error": error}
