"""Ollama's error bodies: `{"error": "text"}`.  Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from meshd.api.body import BadField
from meshd.api.dialect import DialectError, HeaderPair, retry_headers
from meshd.inference import Failure

JSON_HEADERS: Final[list[HeaderPair]] = [(b"content-type", b"application/json; charset=utf-8")]


def error_object(message: str) -> bytes:
    """The error as JSON, for a body or a stream's last line."""
    return msgspec.json.encode({"error": message})


def error_body(failure: Failure) -> tuple[int, list[HeaderPair], bytes]:
    """Status, headers and body that tell a client of a failure before any answer went out."""
    headers = [*JSON_HEADERS, *retry_headers(failure)]
    return failure.status, headers, error_object(failure.message)


def refusal(status: int, message: str) -> DialectError:
    """A DialectError with that message as its body."""
    return DialectError(status, error_object(message), JSON_HEADERS, message)


def bad_field(error: BadField) -> DialectError:
    """The 400 for a body that is not what the endpoint takes."""
    return refusal(400, error.message)
