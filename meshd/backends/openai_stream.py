"""From the SSE of an OpenAI-compatible engine to deltas.  Pure.

A stream is complete when a non-null finish_reason was seen, and only then: `[DONE]` alone proves
nothing (llama-cpp-python sends it after cutting an answer short), nor does a clean end (Ollama's
/v1 when its runner died); and some engines send no `[DONE]` at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from meshd.backends.failures import NOT_JSON, failure_in_stream
from meshd.backends.sse import SseDecoder
from meshd.inference import Delta, Failure, FailureKind, TokenLogprob, ToolCall, Usage
from meshd.limits import ENGINE_LINE_BYTES

_DONE: Final = b"[DONE]"
_SHOWN_BYTES: Final = 80
_NS_PER_MS: Final = 1_000_000


_ABSENT: Final = msgspec.Raw()


def _given(raw: msgspec.Raw) -> bool:
    return len(raw) > 0 and bytes(raw) != b"null"


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    """OpenAI: fragments of JSON text.  Some engines: the object."""


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Piece(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    """llama.cpp, LM Studio, vLLM before 0.12."""
    reasoning: str | None = None
    """Ollama, mlx-lm, newer vLLM."""
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Piece | None = None
    message: _Piece | None = None
    """Where `delta` would be, of an engine that does not stream."""
    text: str | None = None
    """/v1/completions."""
    logprobs: msgspec.Raw = _ABSENT
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Timings(msgspec.Struct, gc=False):
    """llama.cpp's own."""

    prompt_ms: float = 0.0
    predicted_ms: float = 0.0


class _Chunk(msgspec.Struct, gc=False):
    """What is read of a chunk; everything else is skipped without being built."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: msgspec.Raw = _ABSENT
    message: str | None = None
    object: str | None = None


class _TopToken(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Token(_TopToken):
    top_logprobs: list[_TopToken] | None = None


class _Logprobs(msgspec.Struct):
    """The chat form, and (llama.cpp) of completions too; the old completion form beside it."""

    content: list[_Token] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


_chunk: Final = msgspec.json.Decoder(_Chunk).decode
_logprobs: Final = msgspec.json.Decoder(_Logprobs).decode
_json: Final = msgspec.json.Encoder().encode


def _lenient(raw: msgspec.Raw) -> Any:
    """An error object, or its text if it is none (strings that were skipped are not checked)."""
    try:
        return msgspec.json.decode(raw)
    except NOT_JSON:
        return bytes(raw).decode("utf-8", "replace")


class OpenAIStream:
    """Feed it the body of the answer.

    After each feed: `failure` says what the engine said went wrong (after the events returned),
    `complete` whether the whole answer was seen, `over` that nothing more will come.
    """

    def __init__(self, *, top_logprobs: int = 0, max_bytes: int = ENGINE_LINE_BYTES) -> None:
        self.complete = False
        self.over = False
        self.failure: Failure | None = None
        self._sse = SseDecoder(max_bytes)
        self._top_logprobs = top_logprobs
        self._usage: Usage | None = None
        self._usage_told = False
        self._last_call = -1

    def feed(self, data: bytes) -> list[Delta | Usage]:
        """What these bytes complete.  Raises LimitExceeded."""
        return self._events(self._sse.feed(data))

    def end(self) -> list[Delta | Usage]:
        """The body has ended."""
        events = self._events(self._sse.end())
        self.over = True
        return events

    def whole(self, data: bytes) -> list[Delta | Usage]:
        """The body of an engine that does not stream, whatever it was asked for: all at once."""
        events = self._events([data])
        self.over = True
        return events

    def _events(self, payloads: Sequence[bytes]) -> list[Delta | Usage]:
        out: list[Delta | Usage] = []
        for payload in payloads:
            if self.over or self.failure is not None:
                break
            if payload == _DONE:
                self.over = True
            elif payload:
                self._event(payload, out)
        if self.complete and self._usage is not None and not self._usage_told:
            self._usage_told = True
            out.append(self._usage)
        return out

    def _event(self, payload: bytes, out: list[Delta | Usage]) -> None:
        try:
            chunk = _chunk(payload)
        except NOT_JSON as error:
            self._garbage(payload, str(error))
            return
        choices = chunk.choices
        if choices:
            choice = choices[0]
            if choice.index == 0 and not self.complete:
                delta = self._delta(choice)
                if delta is not None:
                    out.append(delta)
        if chunk.usage is not None or chunk.timings is not None:
            self._count(chunk)
        if _given(chunk.error):
            if not self.complete:
                self.failure = failure_in_stream(_lenient(chunk.error))
        elif chunk.object == "error" and not self.complete:  # vLLM's old form
            self.failure = failure_in_stream({"message": chunk.message})

    def _delta(self, choice: _Choice) -> Delta | None:
        piece = choice.delta or choice.message
        if (
            piece is not None
            and piece.content
            and choice.finish_reason is None
            and not choice.logprobs
            and piece.tool_calls is None
            and not piece.reasoning_content
            and not piece.reasoning
        ):
            return Delta(piece.content)  # nearly all of them
        text, reasoning = choice.text or "", ""
        calls: list[ToolCall] = []
        if piece is not None:
            text = piece.content or text
            reasoning = piece.reasoning_content or piece.reasoning or ""
            if piece.tool_calls:
                calls = [self._call(call) for call in piece.tool_calls]
        finish = choice.finish_reason or None
        if finish is not None:
            self.complete = True
        logprobs: list[TokenLogprob] = []
        if _given(choice.logprobs):
            logprobs = self._tokens(choice.logprobs)
        if not (text or reasoning or calls or logprobs or finish):
            return None  # the role alone, or nothing at all
        return Delta(text, reasoning, calls, logprobs, finish)

    def _call(self, call: _Call) -> ToolCall:
        function = call.function or _Function()
        arguments = function.arguments or ""
        if not isinstance(arguments, str):
            arguments = _json(arguments).decode()
        index = call.index
        if index is None:  # whole calls, unnumbered: a name begins a new one
            index = self._last_call + 1 if function.name else max(0, self._last_call)
        self._last_call = max(self._last_call, index)
        return ToolCall(index, call.id or "", function.name or "", arguments)

    def _tokens(self, raw: msgspec.Raw) -> list[TokenLogprob]:
        try:
            logprobs = _logprobs(raw)
        except NOT_JSON:
            return []  # a form that nobody here knows: the text still counts
        top = self._top_logprobs
        if logprobs.content is not None:
            return [
                TokenLogprob(
                    token.token,
                    token.logprob,
                    token.bytes,
                    [
                        TokenLogprob(other.token, other.logprob, other.bytes)
                        for other in (token.top_logprobs or ())[:top]
                    ],
                )
                for token in logprobs.content
            ]
        out = []
        values = logprobs.token_logprobs or []
        tops = logprobs.top_logprobs or []
        for place, (token, value) in enumerate(zip(logprobs.tokens or (), values, strict=False)):
            others = (tops[place] if place < len(tops) else None) or {}
            out.append(
                TokenLogprob(
                    token,
                    value or 0.0,
                    list(token.encode()),
                    [
                        TokenLogprob(other, likely, list(other.encode()))
                        for other, likely in list(others.items())[:top]
                    ],
                )
            )
        return out

    def _count(self, chunk: _Chunk) -> None:
        before = self._usage or Usage()
        usage, timings = chunk.usage or _Usage(), chunk.timings or _Timings()
        self._usage = Usage(
            prompt_tokens=usage.prompt_tokens or before.prompt_tokens,
            completion_tokens=usage.completion_tokens or before.completion_tokens,
            prompt_ns=int(timings.prompt_ms * _NS_PER_MS) or before.prompt_ns,
            completion_ns=int(timings.predicted_ms * _NS_PER_MS) or before.completion_ns,
        )

    def _garbage(self, payload: bytes, why: str) -> None:
        if self.complete:
            return  # the answer is whole; what comes after it is of no interest
        shown = payload[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
        self.failure = Failure(
            FailureKind.BACKEND, f"the engine sent what is no event ({why}): {shown!r}", 502
        )
