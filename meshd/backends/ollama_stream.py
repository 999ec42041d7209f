"""From Ollama's NDJSON to deltas.  Pure.

An answer is complete when a line with `done: true` was seen.  A stream may end without one and
without an error (more than 30 equal tokens in a row); an error is a line of its own, under status
200 once the answer has begun (in old versions always).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from meshd.backends.failures import NOT_JSON, failure_in_stream
from meshd.backends.ndjson import NdjsonDecoder
from meshd.inference import Delta, Failure, FailureKind, TokenLogprob, ToolCall, Usage
from meshd.limits import ENGINE_LINE_BYTES

_SHOWN_BYTES: Final = 80


_ABSENT: Final = msgspec.Raw()


class _Function(msgspec.Struct, gc=False):
    name: str = ""
    arguments: msgspec.Raw = _ABSENT


class _Call(msgspec.Struct, gc=False):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None


class _TopToken(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Token(_TopToken):
    top_logprobs: list[_TopToken] | None = None


class _Line(msgspec.Struct, gc=False):
    """What is read of a line; everything else is skipped without being built."""

    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    logprobs: list[_Token] | None = None
    done: bool = False
    done_reason: str | None = None
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    error: Any = None
    status: int = 0


_line: Final = msgspec.json.Decoder(_Line).decode


class OllamaStream:
    """Feed it the body of the answer.

    After each feed: `failure` says what the engine said went wrong (after the events returned),
    `complete` whether the whole answer was seen, `over` that nothing more will come.
    """

    def __init__(self, *, max_bytes: int = ENGINE_LINE_BYTES) -> None:
        self.complete = False
        self.over = False
        self.failure: Failure | None = None
        self._ndjson = NdjsonDecoder(max_bytes)
        self._calls = 0

    def feed(self, data: bytes) -> list[Delta | Usage]:
        """What these bytes complete.  Raises LimitExceeded."""
        return self._events(self._ndjson.feed(data))

    def end(self) -> list[Delta | Usage]:
        """The body has ended."""
        events = self._events(self._ndjson.end())
        self.over = True
        return events

    def whole(self, data: bytes) -> list[Delta | Usage]:
        """The body as one: a line like any other."""
        return [*self.feed(data), *self.end()]

    def _events(self, payloads: Sequence[bytes]) -> list[Delta | Usage]:
        out: list[Delta | Usage] = []
        for payload in payloads:
            if self.over or self.failure is not None:
                break
            try:
                line = _line(payload)
            except NOT_JSON as error:
                shown = payload[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
                text = f"the engine sent what is no line of an answer ({error}): {shown!r}"
                self.failure = Failure(FailureKind.BACKEND, text, 502)
                break
            if line.error is not None:
                self._error(line)
                break
            if (delta := self._delta(line)) is not None:
                out.append(delta)
            if line.done:
                self.complete = self.over = True
                out.append(
                    Usage(
                        prompt_tokens=line.prompt_eval_count,
                        completion_tokens=line.eval_count,
                        total_ns=line.total_duration,
                        load_ns=line.load_duration,
                        prompt_ns=line.prompt_eval_duration,
                        completion_ns=line.eval_duration,
                    )
                )
        return out

    def _delta(self, line: _Line) -> Delta | None:
        text, reasoning = line.response or "", line.thinking or ""
        calls: list[ToolCall] = []
        if (message := line.message) is not None:
            text = message.content or ""
            reasoning = message.thinking or ""
            if message.tool_calls:
                calls = [self._call(call) for call in message.tool_calls]
        logprobs = [_token(token) for token in line.logprobs] if line.logprobs else []
        finish = None
        if line.done:
            finish = line.done_reason or "stop"  # old versions say nothing
            if self._calls and finish == "stop":
                finish = "tool_calls"
        if not (text or reasoning or calls or logprobs or finish):
            return None
        return Delta(text, reasoning, calls, logprobs, finish)

    def _call(self, call: _Call) -> ToolCall:
        """Ollama sends whole calls; they are numbered here, over all lines."""
        function = call.function or _Function()
        arguments = bytes(function.arguments).decode("utf-8", "replace")
        if arguments in ("", "null"):
            arguments = "{}"
        index, self._calls = self._calls, self._calls + 1
        return ToolCall(index, call.id or "", function.name, arguments)

    def _error(self, line: _Line) -> None:
        error = line.error
        if line.status and isinstance(error, str):
            error = {"message": error, "code": line.status}
        self.failure = failure_in_stream(error)


def _token(token: _Token) -> TokenLogprob:
    return TokenLogprob(
        token.token,
        token.logprob,
        token.bytes,
        [
            TokenLogprob(other.token, other.logprob, other.bytes)
            for other in token.top_logprobs or ()
        ],
    )
