"""OpenAI's error bodies: `{"error": {"message", "type", "param", "code"}}`.  Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from meshd.api.body import BadField
from meshd.api.dialect import DialectError, HeaderPair, retry_headers
from meshd.inference import Failure, FailureKind

JSON_HEADERS: Final[list[HeaderPair]] = [(b"content-type", b"application/json")]

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",  # what OpenAI itself says, with code model_not_found
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_CODES: Final[dict[str, str]] = {
    FailureKind.NOT_FOUND: "model_not_found",
    FailureKind.CONTEXT_OVERFLOW: "context_length_exceeded",
    FailureKind.DEADLINE: "timeout",
}


def error_object(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> bytes:
    """The error as JSON, for a body or an SSE event."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": param, "code": code}
    return msgspec.json.encode({"error": error})


def failure_object(failure: Failure) -> bytes:
    """A failure as that JSON; its kind is the code, where OpenAI has no word of its own."""
    code = _CODES.get(failure.kind, failure.kind)
    param = "model" if failure.kind == FailureKind.NOT_FOUND else None
    return error_object(failure.status, failure.message, param=param, code=code)


def error_body(failure: Failure) -> tuple[int, list[HeaderPair], bytes]:
    """Status, headers and body that tell a client of a failure before any answer went out."""
    headers = [*JSON_HEADERS, *retry_headers(failure)]
    return failure.status, headers, failure_object(failure)


def refusal(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> DialectError:
    """A DialectError with that error as its body."""
    body = error_object(status, message, param=param, code=code)
    return DialectError(status, body, JSON_HEADERS, message)


def bad_field(error: BadField) -> DialectError:
    """The 400 that names the field."""
    return refusal(400, error.message, param=error.param or None, code="invalid_value")
