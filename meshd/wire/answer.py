"""The frames of a forwarded request's answer (ALPN `http/1.1`).  Pure.

The answer to a `serve.ServeRequest` is a chunked body of frames: a u32 (big-endian) length, then
the msgpack of `[seq, kind, payload]`.  Deltas, usage and embeddings are *items*: numbered from 1
without a gap, so that a broken link can be resumed and a repeat is seen for what it is.  Everything
else carries the number of the last item before it.  proto/peer.md is the specification.

This is the path of every token, so msgspec writes and reads it: its sorted encoder writes the same
canonical bytes as `codec.pack` (the vectors hold it to that), but what is read may be in any form
of msgpack, since nothing here is signed.  Readers ignore keys they do not know, and skip kinds they
do not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, Final, TypeVar

import msgspec

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError
from meshd.inference import (
    Delta,
    Embedding,
    Failure,
    Load,
    ToolCall,
    Usage,
    known_kind,
)
from meshd.wire.fields import one_line

_HEAD_BYTES: Final = 4
_RETRY_MAX_S: Final = 86_400.0
_FLOAT_BYTES: Final = 9  # a float64 and its head
_PIECE_CHARS: Final = limits.STREAM_FRAME_BYTES // 8  # of text; 4 bytes a character at most

_encoder = msgspec.msgpack.Encoder(order="sorted")
_encode = _encoder.encode


class FrameKind(IntEnum):
    """What a frame of an answer says.  ONLY APPEND."""

    DELTA = 1
    """A str: text and nothing else; or a map of `inference.Delta`."""
    USAGE = 2
    LOAD = 3
    BEAT = 4
    """Nothing: the holder is alive and at it."""
    END = 5
    """The answer is whole, and this is its last frame."""
    ERROR = 6
    """There will be no more, and why; the last frame."""
    EMBEDDING = 7
    """Some of the vectors; the one with `more` false has the last."""
    BEGUN = 8
    """A beat that says more: the request has left the queue, an engine has it."""


AnswerItem = Delta | Usage | Embedding

_ITEM_KINDS: Final = frozenset({FrameKind.DELTA, FrameKind.USAGE, FrameKind.EMBEDDING})
_LAST_KINDS: Final = frozenset({FrameKind.END, FrameKind.ERROR})
_KINDS: Final = dict(enumerate([None, *FrameKind]))


class End(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a whole answer ended."""

    reason: str = ""
    """Its finish_reason, for logs; the delta that carried it is what counts."""


class EmbeddingPart(msgspec.Struct, frozen=True):
    """As many vectors as fit into a frame."""

    vectors: list[list[float]]
    prompt_tokens: int
    """Of the whole; the same in each part."""
    more: bool


class AnswerFrame(msgspec.Struct, frozen=True, gc=False):
    """One frame, read."""

    seq: int
    kind: FrameKind
    items: tuple[AnswerItem, ...] = ()
    """What it adds to the answer: one item, or none.  An embedding comes whole, with its last."""
    load: Load | None = None
    failure: Failure | None = None
    reason: str = ""


# --- writing


class AnswerWriter:
    """Numbers and encodes one answer.  All its methods return whole frames, ready to be sent."""

    __slots__ = ("seq",)

    def __init__(self, seq: int = 0) -> None:
        """`seq` is the number of the last item that the reader has."""
        self.seq = seq

    def items(self, items: Sequence[AnswerItem]) -> bytes:
        """The frames of these items, in order.

        What is too large for a frame is cut into several items.  Raises LimitExceeded for what
        cannot be cut: one vector, or one token's log-probabilities, over a frame.
        """
        seq = self.seq
        out = bytearray()
        for item in items:
            if isinstance(item, Delta):
                if (
                    item.finish_reason is None
                    and not item.reasoning
                    and not item.tool_calls
                    and not item.logprobs
                ):
                    body = _encode((seq + 1, 1, item.text))
                else:
                    body = _encode((seq + 1, 1, item))
                if len(body) > limits.STREAM_FRAME_BYTES:
                    self.seq = seq
                    out += b"".join(self._large(item))
                    seq = self.seq
                    continue
            elif isinstance(item, Usage):
                body = _encode((seq + 1, 2, item))
            else:
                self.seq = seq
                out += b"".join(self._embedding(item))
                seq = self.seq
                continue
            seq += 1
            out += len(body).to_bytes(_HEAD_BYTES, "big")
            out += body
        self.seq = seq
        return bytes(out)

    def load(self, load: Load) -> bytes:
        """How busy this node is now."""
        return self._frame(FrameKind.LOAD, load)

    def beat(self) -> bytes:
        """A sign of life."""
        return self._frame(FrameKind.BEAT, None)

    def begun(self) -> bytes:
        """A sign of life: the request queues no more."""
        return self._frame(FrameKind.BEGUN, None)

    def end(self, reason: str = "") -> bytes:
        """The answer is whole."""
        return self._frame(FrameKind.END, End(reason))

    def error(self, failure: Failure) -> bytes:
        """The answer cannot be had, or not be completed."""
        if len(failure.message) > limits.TEXT_CHARS:
            cut = failure.message[: limits.TEXT_CHARS - 1] + "…"
            failure = msgspec.structs.replace(failure, message=cut)
        return self._frame(FrameKind.ERROR, failure)

    def _frame(self, kind: FrameKind, payload: object) -> bytes:
        body = _encode((self.seq, kind, payload))
        if len(body) > limits.STREAM_FRAME_BYTES:
            raise LimitExceeded(
                f"A frame of an answer with {len(body)} bytes is over the limit of "
                f"{limits.STREAM_FRAME_BYTES}."
            )
        return len(body).to_bytes(_HEAD_BYTES, "big") + body

    def _item(self, kind: FrameKind, payload: object) -> bytes:
        self.seq += 1
        return self._frame(kind, payload)

    def _large(self, delta: Delta) -> Iterator[bytes]:
        for piece in _pieces(delta):
            yield self._item(FrameKind.DELTA, piece)

    def _embedding(self, embedding: Embedding) -> Iterator[bytes]:
        part: list[list[float]] = []
        room = full = limits.STREAM_FRAME_BYTES - 128  # for all that is not a vector
        for vector in embedding.vectors:
            size = len(vector) * _FLOAT_BYTES + 5
            if part and size > room:
                yield self._part(part, embedding, more=True)
                part, room = [], full
            part.append(vector)
            room -= size
        yield self._part(part, embedding, more=False)

    def _part(self, vectors: list[list[float]], whole: Embedding, *, more: bool) -> bytes:
        part = EmbeddingPart(vectors, whole.prompt_tokens, more)
        return self._item(FrameKind.EMBEDDING, part)


def frames_after(data: bytes, before: int, after: int) -> bytes:
    """Of frames of items that follow item `before`: those that follow item `after`."""
    at = 0
    while before < after and at < len(data):
        at += _HEAD_BYTES + int.from_bytes(data[at : at + _HEAD_BYTES], "big")
        before += 1
    return data[at:]


def _pieces(delta: Delta) -> Iterator[Delta]:
    """The same content in deltas that fit into frames, its finish_reason on the last."""
    for piece in _cut(delta.reasoning):
        yield Delta(reasoning=piece)
    for piece in _cut(delta.text):
        yield Delta(text=piece)
    for call in delta.tool_calls:
        first, *rest = [*_cut(call.arguments)] or [""]
        yield Delta(tool_calls=[msgspec.structs.replace(call, arguments=first)])
        for piece in rest:
            yield Delta(tool_calls=[ToolCall(index=call.index, arguments=piece)])
    for logprob in delta.logprobs:
        yield Delta(logprobs=[logprob])
    if delta.finish_reason is not None:
        yield Delta(finish_reason=delta.finish_reason)


def _cut(text: str) -> Iterator[str]:
    for at in range(0, len(text), _PIECE_CHARS):
        yield text[at : at + _PIECE_CHARS]


# --- reading

_T = TypeVar("_T")
_decode_frame = msgspec.msgpack.Decoder(tuple[int, int, Any]).decode


class AnswerReader:
    """Reads the frames of one answer from a stream of bytes, and checks their numbering.

    It holds at most one incomplete frame and, of an embedding, the parts so far.  After an error it
    has lost its place: the stream is to be aborted.
    """

    __slots__ = ("_embedding", "_embedding_bytes", "_held", "_need", "_over", "seq", "unknown")

    def __init__(self, seq: int = 0) -> None:
        """`seq` is the number of the last item that was already read (of an earlier stream)."""
        self.seq = seq
        self.unknown = 0
        """Frames of kinds that this version does not know, skipped."""
        self._held = bytearray()
        self._need = _HEAD_BYTES
        self._over = False
        self._embedding: list[list[float]] = []
        self._embedding_bytes = 0

    def feed(self, data: bytes) -> list[AnswerFrame]:
        """Take what arrived; the frames that are complete now, in order.

        Raises LimitExceeded as soon as a frame announces more than `limits.STREAM_FRAME_BYTES`, and
        ProtocolError for a gap or a repeat in the numbers, a frame after the last, or garbage.
        """
        if self._held:
            self._held += data
            if len(self._held) < self._need:
                return []
            data = bytes(self._held)
            self._held.clear()
        frames: list[AnswerFrame] = []
        at, size = 0, len(data)
        self._need = _HEAD_BYTES
        while size - at >= _HEAD_BYTES:
            start = at + _HEAD_BYTES
            length = int.from_bytes(data[at:start], "big")
            if not 0 < length <= limits.STREAM_FRAME_BYTES:
                raise _bad_length(length)
            end = start + length
            if end > size:
                self._need = end - at
                break
            frame = self._frame(data[start:end])
            if frame is not None:
                frames.append(frame)
            at = end
        if at < size:
            self._held += data[at:]
        return frames

    def on_another_link(self) -> None:
        """The bytes come from another link now, from the item after `seq` on."""
        self._held.clear()
        self._need = _HEAD_BYTES

    @property
    def complete(self) -> bool:
        """Whether the last frame was read: an end of the stream before that is a cut."""
        return self._over

    def _frame(self, body: bytes) -> AnswerFrame | None:
        try:
            seq, number, payload = _decode_frame(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(
                f"A frame of an answer is not [seq, kind, payload]: {error}."
            ) from error
        if self._over:
            raise ProtocolError("A frame follows the last frame of an answer.")
        if number == 1 and type(payload) is str:  # the hot path: one token's text
            if seq != self.seq + 1:
                raise self._misnumbered(seq)
            self.seq = seq
            return AnswerFrame(seq, FrameKind.DELTA, (Delta(payload),))
        kind = _KINDS.get(number)
        if kind is None:
            self.unknown += 1
            return None
        if seq != (self.seq + 1 if kind in _ITEM_KINDS else self.seq):
            raise self._misnumbered(seq)
        self.seq = seq
        self._over = kind in _LAST_KINDS
        return self._typed(seq, kind, payload, len(body))

    def _typed(self, seq: int, kind: FrameKind, payload: Any, size: int) -> AnswerFrame:
        match kind:
            case FrameKind.DELTA:
                return AnswerFrame(seq, kind, (_convert(payload, Delta),))
            case FrameKind.USAGE:
                return AnswerFrame(seq, kind, (_convert(payload, Usage),))
            case FrameKind.LOAD:
                return AnswerFrame(seq, kind, load=_convert(payload, Load))
            case FrameKind.END:
                return AnswerFrame(seq, kind, reason=_convert(payload, End).reason)
            case FrameKind.ERROR:
                return AnswerFrame(seq, kind, failure=_checked(_convert(payload, Failure)))
            case FrameKind.EMBEDDING:
                return AnswerFrame(seq, kind, self._joined(_convert(payload, EmbeddingPart), size))
            case FrameKind.BEAT | FrameKind.BEGUN:
                return AnswerFrame(seq, kind)

    def _joined(self, part: EmbeddingPart, size: int) -> tuple[AnswerItem, ...]:
        self._embedding_bytes += size
        if self._embedding_bytes > limits.ENGINE_BODY_BYTES:
            raise LimitExceeded(
                f"The embeddings of an answer are over the limit of {limits.ENGINE_BODY_BYTES}."
            )
        self._embedding += part.vectors
        if part.more:
            return ()
        whole = Embedding(self._embedding, part.prompt_tokens)
        self._embedding, self._embedding_bytes = [], 0
        return (whole,)

    def _misnumbered(self, seq: int) -> ProtocolError:
        return ProtocolError(f"A frame of an answer has number {seq} after item {self.seq}.")


def _bad_length(length: int) -> ProtocolError:
    if length == 0:
        return ProtocolError("A frame of an answer is empty.")
    return LimitExceeded(
        f"A frame of an answer with {length} bytes is over the limit of "
        f"{limits.STREAM_FRAME_BYTES}."
    )


def _checked(failure: Failure) -> Failure:
    """Another node's word on a failure, made fit to be acted on and shown to a client."""
    wait_s = failure.retry_after_s
    if wait_s is not None and not 0.0 <= wait_s <= _RETRY_MAX_S:
        wait_s = None
    return Failure(
        known_kind(failure.kind),
        one_line(failure.message),
        failure.status if 400 <= failure.status <= 599 else 502,
        wait_s,
    )


def _convert(payload: Any, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(payload, kind, builtin_types=(bytes,))
    except (msgspec.ValidationError, RecursionError) as error:
        raise ProtocolError(f"A {kind.__name__} in an answer is malformed: {error}.") from error
