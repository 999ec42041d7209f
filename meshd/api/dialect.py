"""What every client dialect offers the rest of the daemon.  Pure.

A dialect is two halves: `decode` turns a request's bytes into a `Call` (the internal `Request` and
the encoder that is to answer it), and the `AnswerEncoder` turns deltas back into the dialect's
bytes.  Neither knows engines, nodes or sockets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from meshd.errors import MeshdError
from meshd.inference import Delta, Embedding, Failure, FailureKind, Request, Usage
from meshd.wire.serve import AnswerForm

HeaderPair = tuple[bytes, bytes]
"""Name (lower case) and value, as `meshd.http` takes them."""

HeaderOf = Callable[[bytes], bytes | None]
"""Looks a request header up by its lower-case name."""

RETRY_AFTER_MAX_S: Final = 120
"""openai-python does not retry at all when Retry-After is above this."""


class DialectError(MeshdError):
    """A request that is answered with this status and body, and goes no further."""

    def __init__(
        self, status: int, body: bytes, headers: Sequence[HeaderPair] = (), reason: str = ""
    ) -> None:
        super().__init__(reason or body.decode("utf-8", "replace"))
        self.status = status
        self.body = body
        self.headers = list(headers)


ATTEMPTS: Final = b"x-meshd-attempts"
"""The header, and the field of a body or of a stream's last chunk, that says how many runs an
answer took."""
SPENT: Final = "x-meshd-spent"
"""The field beside an answer's usage that has the tokens of all its runs together."""


class AnswerEncoder(Protocol):
    """Writes one answer in one dialect.  One per request; it keeps state, so it is used once.

    Streaming: `start`, then `delta` for each delta, then `end`, or `error` at any point instead of
    the rest.  Not streaming: `whole` alone, or `embedding` alone.  Nothing that a client takes for
    the end of an answer leaves before `end`: a delta's finish_reason is kept until then.
    """

    content_type_stream: bytes
    content_type_whole: bytes
    attempts: int
    """How many runs the answer took; more than one is said where a stream ends, as a field
    `x-meshd-attempts` (its headers left before that was known)."""

    def start(self) -> bytes:
        """What precedes the first delta (may be empty).  It carries nothing of the answer."""
        ...

    def delta(self, delta: Delta) -> bytes:
        """The delta's bytes; empty if the client is shown nothing of it (or not yet)."""
        ...

    def end(self, usage: Usage | None) -> bytes:
        """The end of a whole answer, after the delta that carried finish_reason.

        It is the dialect's error instead if no finish_reason was seen, or if what the model
        produced has no form in this dialect (`toolcalls.py`).
        """
        ...

    def error(self, failure: Failure) -> bytes:
        """The in-stream error: the last bytes of a stream that cannot go on."""
        ...

    def keep_alive(self) -> bytes:
        """Bytes that mean nothing, against idle timeouts; empty where the dialect has none."""
        ...

    def comment(self, text: str) -> bytes:
        """That, as bytes that mean nothing; empty where the dialect has none."""
        ...

    def whole(self, deltas: Sequence[Delta], usage: Usage | None) -> bytes:
        """The body of an answer that is not streamed.  Raises DialectError as `end` would."""
        ...

    def embedding(self, result: Embedding) -> bytes:
        """The body of the answer to an EMBED request."""
        ...


class VectorEncoder:
    """What all encoders of embeddings share: their answers are never streamed, and are no text."""

    attempts = 1

    def start(self) -> bytes:
        return b""

    def delta(self, delta: Delta) -> bytes:
        raise TypeError("this encoder answers with vectors")

    def end(self, usage: Usage | None) -> bytes:
        raise TypeError("this encoder answers with vectors")

    def keep_alive(self) -> bytes:
        return b""

    def comment(self, text: str) -> bytes:
        return b""

    def whole(self, deltas: Sequence[Delta], usage: Usage | None) -> bytes:
        raise TypeError("this encoder answers with vectors")


class Call(msgspec.Struct, frozen=True):
    """A decoded request: what to do, and who writes the answer."""

    request: Request
    stream: bool
    encoder: AnswerEncoder
    form: AnswerForm
    """What that encoder was made of."""
    deadline_s: float | None = None
    """How long the client waits without a byte before it gives up (its SDK's read timeout); None
    if it did not say.  Of a request that does not stream this is the deadline of the whole."""


def client_deadline_s(header: HeaderOf) -> float | None:
    """The read timeout that OpenAI's SDKs announce (Python the first, Node the second header)."""
    for name in (b"x-stainless-read-timeout", b"x-stainless-timeout"):
        value = header(name)
        if value is None:
            continue
        try:
            seconds = float(value)
        except ValueError:
            continue
        if 0 < seconds < float("inf"):
            return seconds
    return None


def retry_headers(failure: Failure) -> list[HeaderPair]:
    """Retry-After where a later try may succeed, and a plain no where it cannot.

    OpenAI's SDKs repeat any 5xx by themselves unless `x-should-retry` says otherwise.
    """
    if failure.retry_after_s is not None:
        seconds = min(max(1, -int(-failure.retry_after_s // 1)), RETRY_AFTER_MAX_S)
        return [(b"retry-after", str(seconds).encode())]
    if failure.status >= 500 and failure.kind in _PERMANENT:
        return [(b"x-should-retry", b"false")]
    return []


_PERMANENT: Final = frozenset(
    {
        FailureKind.BAD_REQUEST,
        FailureKind.UNSUPPORTED,
        FailureKind.CONTEXT_OVERFLOW,
        FailureKind.CANCELLED,
        FailureKind.DEADLINE,
    }
)


def not_found(model: str, near: Sequence[str] = ()) -> Failure:
    """No node has that model.  The first words are Ollama's, which its clients look for."""
    message = f"model '{model}' not found on any node of this mesh"
    if near:
        message += "; did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
    return Failure(FailureKind.NOT_FOUND, message, status=404)


def away(model: str, nodes: Sequence[str]) -> Failure:
    """Only these have that model, and neither they nor their engines can be asked now."""
    message = f"every node that has model '{model}' is away, or its engine is: {_few(nodes)}"
    return Failure(FailureKind.UNREACHABLE, message, 503, retry_after_s=2.0)


def unheard(model: str, nodes: Sequence[str]) -> Failure:
    """This node has just started, and these may have that model."""
    message = (
        f"this node has just started, and the nodes that it knows of do not have model '{model}'; "
        f"not heard yet: {_few(nodes)}"
    )
    return Failure(FailureKind.UNREACHABLE, message, 503, retry_after_s=2.0)


def _few(names: Sequence[str]) -> str:
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join([*names[:_NAMED], *more])


_NAMED: Final = 8
"""Nodes that a refusal names."""

NO_FINISH: Final = Failure(
    FailureKind.BROKEN, "the answer ended before the model said that it was finished", status=502
)
"""For encoders that are asked to end an answer that did not end."""


def call_id(request_id: str, index: int) -> str:
    """The id of a tool call whose engine gave none: the same however often it is asked for."""
    digest = hashlib.sha256(f"{request_id}/{index}".encode()).hexdigest()
    return f"call_{digest[:24]}"


def spent_object(usage: Usage) -> dict[str, int] | None:
    """What all runs of an answer took together; None if it was one."""
    if not usage.spent_completion_tokens:
        return None
    return {
        "prompt_tokens": usage.spent_prompt_tokens,
        "completion_tokens": usage.spent_completion_tokens,
    }
