"""Ollama's dialect: answers, encoded as NDJSON lines and as whole bodies.  Pure.

Key order is Ollama's: chat has done_reason before done, generate the other way round.  Counts and
times that the engine did not tell are left out, as Ollama leaves out zeros.  All lines of an answer
have one `created_at`, the time of the request: a line of plain text is then a prefix built once,
the text, and a suffix.
"""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from meshd.api.dialect import (
    ATTEMPTS,
    NO_FINISH,
    SPENT,
    AnswerEncoder,
    DialectError,
    VectorEncoder,
    spent_object,
)
from meshd.api.ollama_error import error_body, error_object
from meshd.api.toolcalls import Collector, arguments_object
from meshd.inference import Delta, Embedding, Failure, TokenLogprob, Usage
from meshd.wire.serve import AnswerForm

CHAT: Final = "/api/chat"
GENERATE: Final = "/api/generate"
EMBED: Final = "/api/embed"
OLD_EMBED: Final = "/api/embeddings"
NDJSON: Final = b"application/x-ndjson"
JSON: Final = b"application/json; charset=utf-8"

_json: Final = msgspec.json.Encoder().encode
_REASONS: Final = frozenset({"stop", "length", "load", "unload"})
_YEAR_1: Final = "0001-01-01T00:00:00Z"  # Go's zero time
_MAX_UNIX_S: Final = 253_402_300_799  # the end of the year 9999


def rfc3339(unix_s: float) -> str:
    """A time in UTC with nanoseconds, as Ollama writes it; 0 and less is Go's zero time."""
    if unix_s <= 0:
        return _YEAR_1
    whole, fraction = divmod(min(unix_s, _MAX_UNIX_S), 1)
    moment = datetime.datetime.fromtimestamp(int(whole), datetime.UTC)
    return f"{moment.isoformat()[:19]}.{int(fraction * 1e9):09d}Z"


def done_reason(reason: str) -> str:
    """The reason in Ollama's words: it says "stop" after tool calls too."""
    return reason if reason in _REASONS else "stop"


def metrics(usage: Usage | None) -> dict[str, int]:
    """Counts and times (ns) under Ollama's names, zeros left out."""
    if usage is None:
        return {}
    values = {
        "total_duration": usage.total_ns,
        "load_duration": usage.load_ns,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": usage.prompt_ns,
        "eval_count": usage.completion_tokens,
        "eval_duration": usage.completion_ns,
    }
    return {name: value for name, value in values.items() if value}


def logprobs_list(tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    return [
        {**_token(token), "top_logprobs": [_token(top) for top in token.top]}
        if token.top
        else _token(token)
        for token in tokens
    ]


def _token(token: TokenLogprob) -> dict[str, Any]:
    fields: dict[str, Any] = {"token": token.token, "logprob": token.logprob}
    if token.bytes is not None:
        fields["bytes"] = token.bytes
    return fields


class _Encoder(ABC):
    """What chat and generate share: lines, the end, errors."""

    content_type_stream = NDJSON
    content_type_whole = JSON
    before_text = b""
    after_text = b""
    attempts = 1

    def __init__(
        self, request_id: str, now_unix_s: float, model: str, *, logprobs: bool = False
    ) -> None:
        self._logprobs = logprobs
        self._finish: str | None = None
        self._collector = Collector(request_id)
        self._head = {"model": model, "created_at": rfc3339(now_unix_s)}
        self._text_prefix = _json(self._head)[:-1] + self.before_text
        self._text_suffix = self.after_text + b',"done":false}\n'

    @abstractmethod
    def _piece(self, text: str, reasoning: str) -> dict[str, Any]:
        """The fields that carry the answer."""

    @abstractmethod
    def _done(self, reason: str) -> dict[str, Any]:
        """The fields that say it is whole, in the endpoint's order."""

    def _calls(self, reason: str) -> list[dict[str, Any]] | Failure:
        """Whole calls as clients get them, or why they cannot."""
        return []

    def start(self) -> bytes:
        return b""

    def delta(self, delta: Delta) -> bytes:
        if not (delta.reasoning or delta.tool_calls or delta.logprobs or delta.finish_reason):
            text = delta.text
            return self._text_prefix + _json(text) + self._text_suffix if text else b""
        if delta.finish_reason is not None:
            self._finish = delta.finish_reason
        # Clients get whole calls: they are kept until the end.
        self._collector.add(delta.tool_calls)
        logprobs = delta.logprobs if self._logprobs else ()
        if not (delta.text or delta.reasoning or logprobs):
            return b""
        line = {**self._head, **self._piece(delta.text, delta.reasoning), "done": False}
        if logprobs:
            line["logprobs"] = logprobs_list(logprobs)
        return _json(line) + b"\n"

    def end(self, usage: Usage | None) -> bytes:
        if self._finish is None:
            return self.error(NO_FINISH)
        calls = self._calls(self._finish)
        if isinstance(calls, Failure):
            return self.error(calls)
        lines = b""
        if calls:
            piece = self._piece("", "")
            piece["message"]["tool_calls"] = calls
            lines = _json({**self._head, **piece, "done": False}) + b"\n"
        last = {**self._head, **self._piece("", ""), **self._done(self._finish)} | self._cost(usage)
        return lines + _json(last) + b"\n"

    def error(self, failure: Failure) -> bytes:
        return error_object(failure.message) + b"\n"

    def keep_alive(self) -> bytes:
        return b""  # clients parse every line

    def comment(self, text: str) -> bytes:
        return b""

    def whole(self, deltas: Sequence[Delta], usage: Usage | None) -> bytes:
        logprobs: list[TokenLogprob] = []
        reason = None
        for delta in deltas:
            self._collector.add(delta.tool_calls)
            logprobs.extend(delta.logprobs)
            reason = delta.finish_reason or reason
        if reason is None:
            raise _refused(NO_FINISH)
        calls = self._calls(reason)
        if isinstance(calls, Failure):
            raise _refused(calls)
        piece = self._piece(
            "".join([delta.text for delta in deltas]),
            "".join([delta.reasoning for delta in deltas]),
        )
        if calls:
            piece["message"]["tool_calls"] = calls
        body = {**self._head, **piece, **self._done(reason)}
        if self._logprobs and logprobs:
            body["logprobs"] = logprobs_list(logprobs)
        return _json(body | self._cost(usage))

    def _cost(self, usage: Usage | None) -> dict[str, Any]:
        """Counts and times; and what it took, if that were several runs."""
        told: dict[str, Any] = {**metrics(usage)}
        if self.attempts > 1:
            told[ATTEMPTS.decode()] = self.attempts
        if usage is not None and (spent := spent_object(usage)) is not None:
            told[SPENT] = spent
        return told

    def embedding(self, result: Embedding) -> bytes:
        raise TypeError("this encoder answers with text")


class ChatEncoder(_Encoder):
    """Answers POST /api/chat."""

    before_text = b',"message":{"role":"assistant","content":'
    after_text = b"}"

    def _piece(self, text: str, reasoning: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if reasoning:
            message["thinking"] = reasoning
        return {"message": message}

    def _done(self, reason: str) -> dict[str, Any]:
        return {"done_reason": done_reason(reason), "done": True}

    def _calls(self, reason: str) -> list[dict[str, Any]] | Failure:
        result = []
        for call in self._collector.calls():
            arguments = arguments_object(call)
            if isinstance(arguments, Failure):
                if reason == "length":
                    continue  # cut off by the limit, which done_reason says
                return arguments
            function = {"index": call.index, "name": call.name, "arguments": arguments}
            result.append({"id": call.id, "function": function})
        return result


class GenerateEncoder(_Encoder):
    """Answers POST /api/generate, which offers no tools."""

    before_text = b',"response":'

    def _piece(self, text: str, reasoning: str) -> dict[str, Any]:
        piece = {"response": text}
        if reasoning:
            piece["thinking"] = reasoning
        return piece

    def _done(self, reason: str) -> dict[str, Any]:
        return {"done": True, "done_reason": done_reason(reason)}


class EmbedEncoder(VectorEncoder):
    """Answers POST /api/embed and, `old`, /api/embeddings; neither streams."""

    content_type_stream = JSON
    content_type_whole = JSON

    def __init__(self, model: str, *, old: bool) -> None:
        self._model = model
        self._old = old

    def error(self, failure: Failure) -> bytes:
        return error_object(failure.message)

    def embedding(self, result: Embedding) -> bytes:
        if self._old:
            return _json({"embedding": result.vectors[0] if result.vectors else []})
        body: dict[str, Any] = {"model": self._model, "embeddings": result.vectors}
        if result.prompt_tokens:
            body["prompt_eval_count"] = result.prompt_tokens
        return _json(body)


def encoder_of(form: AnswerForm) -> AnswerEncoder:
    """What writes an answer of this form; its path is one of Ollama's that models answer."""
    if form.path in (EMBED, OLD_EMBED):
        return EmbedEncoder(form.model, old=form.path == OLD_EMBED)
    kind = GenerateEncoder if form.path == GENERATE else ChatEncoder
    return kind(form.request_id, form.unix_s, form.model, logprobs=form.logprobs)


def _refused(failure: Failure) -> DialectError:
    status, headers, body = error_body(failure)
    return DialectError(status, body, headers, failure.message)
