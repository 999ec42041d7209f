"""What an entry asks of a holder, over HTTP between members (ALPN `http/1.1`).  Pure.

`POST /mesh/v1/serve` carries a `ServeRequest`; the frames of its answer are in `answer`.  Like
them, bodies are written canonically and read in any form of msgpack, and keys that a reader does
not know are ignored.  proto/peer.md is the specification.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError
from meshd.inference import Request

SERVE_PATH: Final = "/mesh/v1/serve"
CANCEL_PATH: Final = "/mesh/v1/cancel"
SHOW_PATH: Final = "/mesh/v1/show"
RESUME_PATH: Final = "/mesh/v1/resume"
FORWARDED_HEADER: Final = b"x-meshd-forwarded"
"""On every forwarded request, with the value 1: it is served or refused here, never forwarded."""

# What an answer's headers and dates are made of is bounded here: a form that nobody could write an
# answer in would be found only when its entry is gone.
_FormPath = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^/(v1/(chat/completions|completions|embeddings)"
        r"|api/(chat|generate|embed|embeddings))(?![\s\S])"
    ),
]
_FormRequestId = Annotated[
    str,
    msgspec.Meta(min_length=1, max_length=limits.REQUEST_ID_CHARS, pattern=r"^[!-~]+(?![\s\S])"),
]
_FormUnixS = Annotated[float, msgspec.Meta(ge=0, le=2**40)]
_FormModel = Annotated[str, msgspec.Meta(max_length=limits.MODEL_NAME_CHARS)]

_T = TypeVar("_T")
_encode = msgspec.msgpack.Encoder(order="sorted").encode


class AnswerForm(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How an answer is written for its client: with it any node writes the same bytes."""

    path: _FormPath
    """Of the request: its dialect, and its kind."""
    request_id: _FormRequestId
    """The entry's, which ids in the answer are made of."""
    unix_s: _FormUnixS
    """When the request came: `created`, `created_at`."""
    model: _FormModel
    """As the client named it."""
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    base64: bool = False
    """Vectors are wanted so."""


class KeyedClaim(msgspec.Struct, frozen=True):
    """Which run of which keyed request it is, and how its answer is written.

    Should the entry be gone, the holder goes on in its place (proto/peer.md).
    """

    job: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    fence: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    form: AnswerForm


class ServeRequest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The body of `POST /mesh/v1/serve`: one attempt at one request."""

    request_id: str
    """Names this attempt at the holder, for `cancel`."""
    attempt: int = 1
    deadline_s: float | None = None
    """How long the answer may take from now on; None: as long as it takes."""
    wait_s: float = 0.0
    """How long it may wait for a slot; 0: a busy holder refuses at once."""
    backend: str
    """Which of the holder's engines; "" leaves it to the holder."""
    model: str
    """As that engine lists it."""
    request: Request
    keyed: KeyedClaim | None = None
    """Of a keyed request, if this attempt makes the whole answer; not if it goes on with one."""


class CancelRequest(msgspec.Struct, frozen=True):
    """The body of `POST /mesh/v1/cancel`: nobody waits for that attempt any more."""

    request_id: str


class ResumeRequest(msgspec.Struct, frozen=True):
    """The body of `POST /mesh/v1/resume`: the link that brought this answer broke."""

    request_id: str
    after_seq: int
    """The last item that was read."""


class ShowRequest(msgspec.Struct, frozen=True):
    """The body of `POST /mesh/v1/show`, answered with the JSON of Ollama's /api/show."""

    backend: str
    model: str


_show_decoder = msgspec.msgpack.Decoder(ShowRequest)
_serve_decoder = msgspec.msgpack.Decoder(ServeRequest)
_resume_decoder = msgspec.msgpack.Decoder(ResumeRequest)
_cancel_decoder = msgspec.msgpack.Decoder(CancelRequest)


def encode_serve(asked: ServeRequest) -> bytes:
    """The body that asks a holder to serve."""
    return _encode(asked)


def decode_serve(body: bytes) -> ServeRequest:
    """Read it.

    Raises ProtocolError, also for a form that no answer has; LimitExceeded for lists over their
    limits.
    """
    asked = _decode_body(_serve_decoder, body)
    _check_request_id(asked.request_id)
    request = asked.request
    for what, count, most in (
        ("messages", len(request.messages), limits.MESSAGES),
        ("tools", len(request.tools), limits.TOOLS),
        ("inputs", len(request.inputs), limits.EMBED_INPUTS),
    ):
        if count > most:
            raise LimitExceeded(f"A forwarded request has {count} {what}; the limit is {most}.")
    said = len(request.partial) + len(request.partial_reasoning)
    if said > limits.SPLICE_CHARS:
        raise LimitExceeded(
            f"A forwarded request is to go on after {said} characters; the limit is "
            f"{limits.SPLICE_CHARS}."
        )
    return asked


def encode_cancel(order: CancelRequest) -> bytes:
    """The body that cancels."""
    return _encode(order)


def decode_cancel(body: bytes) -> CancelRequest:
    """Read it.  Raises ProtocolError."""
    order = _decode_body(_cancel_decoder, body)
    _check_request_id(order.request_id)
    return order


def encode_resume(asked: ResumeRequest) -> bytes:
    """The body that asks for the rest of an answer."""
    return _encode(asked)


def decode_resume(body: bytes) -> ResumeRequest:
    """Read it.  Raises ProtocolError."""
    asked = _decode_body(_resume_decoder, body)
    _check_request_id(asked.request_id)
    if asked.after_seq < 0:
        raise ProtocolError(f"There is no item {asked.after_seq} of an answer.")
    return asked


def encode_show(asked: ShowRequest) -> bytes:
    """The body that asks for a model's description."""
    return _encode(asked)


def decode_show(body: bytes) -> ShowRequest:
    """Read it.  Raises ProtocolError."""
    return _decode_body(_show_decoder, body)


def _decode_body(decoder: msgspec.msgpack.Decoder[_T], body: bytes) -> _T:
    if len(body) > limits.HTTP_BODY_BYTES:
        raise LimitExceeded(
            f"A forwarded request of {len(body)} bytes is over the limit of "
            f"{limits.HTTP_BODY_BYTES}."
        )
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"A forwarded request is malformed: {error}.") from error


def _check_request_id(request_id: str) -> None:
    if not 0 < len(request_id) <= limits.REQUEST_ID_CHARS:
        raise ProtocolError(
            f"A forwarded request's id has {len(request_id)} characters; it must have 1 to "
            f"{limits.REQUEST_ID_CHARS}."
        )
