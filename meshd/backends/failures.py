"""What an engine's error means.  Pure.

Engines disagree on statuses (Ollama answers a wrong option with 500, llama.cpp a missing projector
too, old Ollamas any error with 200), so the words count first where they are known.  Words are
those of llama.cpp (tools/server), Ollama (server/routes.go, sched.go), vLLM, LM Studio and mlx-lm.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from meshd.inference import Failure, FailureKind

NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises: for nonsense, for text that is no UTF-8, for brackets without end."""

_SHOWN_CHARS: Final = 500
_BUSY_RETRY_S: Final = 1.0

# In this order: the first that is found says what it is.
_WORDS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), kind, status)
    for pattern, kind, status in (
        (
            r"exceed_context_size|exceeds? the (available |maximum )?context|context length"
            r"|context the overflows|context size has been exceeded|prompt is too long"
            r"|too large to process",
            FailureKind.CONTEXT_OVERFLOW,
            400,
        ),
        (
            r"does not support|not supported|is unsupported|not_supported_error|not implemented"
            r"|requires a vision|image input|no multimodal|mmproj",
            FailureKind.UNSUPPORTED,
            400,
        ),
        (
            r"model ['\"].{0,512}['\"] not found|model_not_found|no such model"
            r"|the model .{0,512} does not exist|try pulling it first|no models loaded",
            FailureKind.NOT_FOUND,
            404,
        ),
        (
            r"server busy|maximum pending requests|loading model|no slot available|overloaded",
            FailureKind.BUSY,
            503,
        ),
        (
            # the process behind the server died under this request
            r"runner process has terminated|runner has unexpectedly stopped|unexpected EOF"
            r"|connection refused|forcibly closed|model has crashed|model crashed",
            FailureKind.BROKEN,
            502,
        ),
        (
            r"invalid format:|option \".{0,64}\" must be|invalid (message|input|duration|options)"
            r"|failed to parse|unable to (make llava|load image)|invalid image|illegal base64"
            r"|invalid_request_error",
            FailureKind.BAD_REQUEST,
            400,
        ),
    )
)
_MISSING_PATH: Final = re.compile(
    r"file not found|page not found|unexpected endpoint|^not found$", re.I
)


def failure_of(status: int, body: bytes, *, retry_after: bytes | None = None) -> Failure:
    """An answer with another status than 200."""
    message, words = _read(body)
    shown = message or f"status {status} and no reason"
    if status in (401, 403):
        # The daemon's own credentials, not the client's.
        return Failure(
            FailureKind.BACKEND,
            f"the engine refuses this node ({status}: {shown}); "
            "set api_key for this backend, and check its own list of allowed hosts",
            502,
        )
    if status == 404 and _MISSING_PATH.search(message):
        return Failure(FailureKind.UNSUPPORTED, "this engine has no such endpoint", 400)
    if (known := _known(words)) is not None:
        kind, known_status = known
        return _failure(kind, shown, known_status, retry_after)
    if status in (429, 503):
        return _failure(FailureKind.BUSY, shown, 503, retry_after)
    if status == 404:
        return Failure(FailureKind.NOT_FOUND, shown, 404)
    if status == 501:
        return Failure(FailureKind.UNSUPPORTED, shown, 400)
    if status == 413 or (400 <= status < 500 and status not in (408, 499)):
        return Failure(FailureKind.BAD_REQUEST, shown, 400)
    return Failure(FailureKind.BACKEND, f"the engine failed ({status}): {shown}", 502)


def failure_in_stream(error: Any) -> Failure:
    """An error object (or text) inside an answer that began with 200."""
    status, message, words = 500, "", ""
    if isinstance(error, dict):
        code = error.get("code", error.get("status"))
        if isinstance(code, int) and 400 <= code < 600:
            status = code
        message = _text(error.get("message")) or _text(error)
        words = f"{message} {error.get('type', '')} {code}"
    else:
        message = words = _text(error)
    if (known := _known(words)) is not None:
        return _failure(known[0], message, known[1], None)
    if status in (429, 503):
        return _failure(FailureKind.BUSY, message, 503, None)
    if 400 <= status < 500:
        return Failure(FailureKind.BAD_REQUEST, message, 400)
    return Failure(FailureKind.BACKEND, f"the engine failed: {message}", 502)


def _known(words: str) -> tuple[FailureKind, int] | None:
    for pattern, kind, status in _WORDS:
        if pattern.search(words):
            return kind, status
    return None


def _failure(kind: FailureKind, message: str, status: int, retry_after: bytes | None) -> Failure:
    if kind is not FailureKind.BUSY:
        return Failure(kind, message, status)
    try:
        retry_s = min(120.0, max(0.0, float(retry_after or b"")))
    except ValueError:  # not given, or a date
        retry_s = _BUSY_RETRY_S
    return Failure(kind, f"the engine is busy: {message}", status, retry_s)


def _read(body: bytes) -> tuple[str, str]:
    """The message, and all the words that may say what it is."""
    try:
        data: Any = msgspec.json.decode(body)
    except NOT_JSON:
        text = _text(body.decode("utf-8", "replace"))
        return text, text
    if not isinstance(data, dict):
        return _text(data), _text(data)
    error = data.get("error", data)  # vLLM's old form has the fields at the top
    if isinstance(error, str):
        return _text(error), _text(error)
    if not isinstance(error, dict):
        return _text(data), _text(data)
    message = _text(error.get("message") or error.get("detail") or error)
    return message, f"{message} {error.get('type', '')} {error.get('code', '')}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return " ".join(text.split())[:_SHOWN_CHARS]
