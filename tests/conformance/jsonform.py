"""Values of the wire as JSON, and the vectors that are written in it.

Bytes are `{"$bin": "hex"}`.  A number with a point or an exponent is a float, any other an integer
(of up to 64 bits).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PROTO = Path(__file__).parents[2] / "proto"
VALID = PROTO / "vectors" / "valid"
INVALID = PROTO / "vectors" / "invalid"
DERIVED = PROTO / "vectors" / "derived"
TRANSCRIPTS = PROTO / "vectors" / "transcripts"
SCHEMA = PROTO / "schema"


def to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bin": value.hex()}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$bin"}:
            return bytes.fromhex(value["$bin"])
        return {key: from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_json(item) for item in value]
    return value


def load(folder: Path) -> list[dict[str, Any]]:
    """All vectors of a folder, in order."""
    return [
        vector
        for path in sorted(folder.glob("*.json"))
        for vector in json.loads(path.read_text())["vectors"]
    ]


def write(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=True) + "\n")
