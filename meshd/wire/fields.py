"""What the fields of messages may hold: the bounds that several messages have in common.  Pure.

A message is checked against them when it is read and when it is written, and the schemas in
proto/schema/ are made of them.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from msgspec import Meta

from meshd import limits

INTEGER_MAX: Final = 2**53 - 1
"""No integer of a message is larger, so that every language's numbers can hold it."""

# Patterns are also those of the JSON Schemas, so they are written in what Python and ECMAScript
# have in common; `(?![\s\S])` is the very end, where Python's `$` would let a line feed pass.
_CONTROL_CHARACTERS = r"\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069"
_LINE = rf"^[^{_CONTROL_CHARACTERS}]*(?![\s\S])"
_KEY_ID = r"^[a-z2-7]{26}(?![\s\S])"
_NOT_IN_LINES = re.compile(f"[{_CONTROL_CHARACTERS}]+")

Count = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
KeyId = Annotated[str, Meta(pattern=_KEY_ID)]
Name = Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS, pattern=_LINE)]
Line = Annotated[str, Meta(max_length=limits.TEXT_CHARS, pattern=_LINE)]
"""Text for a person: one line, without characters that could steer a terminal."""
ShortLine = Annotated[str, Meta(max_length=limits.NAME_CHARS, pattern=_LINE)]
AttemptId = Annotated[str, Meta(min_length=1, max_length=limits.REQUEST_ID_CHARS, pattern=_LINE)]
"""Names one attempt at a request, at its holder."""
SmallBytes = Annotated[bytes, Meta(max_length=limits.KEY_MATERIAL_BYTES)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""SHA-256."""
BlobOffset = Annotated[int, Meta(ge=0, le=limits.BLOB_BYTES)]
BlobSize = Annotated[int, Meta(ge=1, le=limits.BLOB_BYTES)]


def one_line(text: str) -> str:
    """Text made fit for a `Line`: control characters become spaces, and too much is cut."""
    text = _NOT_IN_LINES.sub(" ", text.encode(errors="replace").decode())  # no lone surrogates
    return text if len(text) <= limits.TEXT_CHARS else text[: limits.TEXT_CHARS - 1] + "…"
