"""OpenAI's dialect: answers, encoded as SSE chunks and as whole bodies.  Pure.

`delta` is on the data path once per token: the chunk around the text is built once per answer, and
only the text itself is encoded.
"""

from __future__ import annotations

import base64 as b64
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from meshd.api.dialect import (
    ATTEMPTS,
    NO_FINISH,
    SPENT,
    AnswerEncoder,
    DialectError,
    VectorEncoder,
    call_id,
    spent_object,
)
from meshd.api.openai_error import error_body, failure_object
from meshd.api.toolcalls import Collector
from meshd.inference import Delta, Embedding, Failure, TokenLogprob, ToolCall, Usage
from meshd.wire.serve import AnswerForm

CHAT: Final = "/v1/chat/completions"
COMPLETION: Final = "/v1/completions"
EMBEDDING: Final = "/v1/embeddings"
FINGERPRINT: Final = "fp_meshd"
SSE: Final = b"text/event-stream"
JSON: Final = b"application/json"
DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"

_json: Final = msgspec.json.Encoder().encode
_REASONS: Final = frozenset({"stop", "length", "content_filter"})


def finish_reason(reason: str, has_calls: bool) -> str:
    """The reason in OpenAI's words; strict clients know no others than these four.

    Ollama says "stop" after tool calls, OpenAI "tool_calls", and that only where there are some:
    clients then look for them.  Other words (engines have many for reaching the end: eos,
    stop_sequence, load) are "stop".
    """
    if has_calls and reason != "length":
        return "tool_calls"
    return reason if reason in _REASONS else "stop"


def usage_object(usage: Usage) -> dict[str, Any]:
    """Of the answer that the client has; and of all runs that it took, if they were several."""
    told: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    if (spent := spent_object(usage)) is not None:
        told[SPENT] = spent
    return told


class Terms(msgspec.Struct, frozen=True):
    """What the request fixed about its answer."""

    request_id: str
    created: int
    """Unix time, seconds."""
    model: str
    """As the client named it."""
    include_usage: bool = False
    logprobs: bool = False


class _Encoder(ABC):
    """What both streaming endpoints share: the frame around chunks, the end, errors."""

    content_type_stream = SSE
    content_type_whole = JSON
    chunk_object = ""
    whole_object = ""
    id_prefix = ""
    before_text = b""
    after_text = b""
    attempts = 1

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._finish: str | None = None
        # Every chunk is open + choice + close, one of nothing but text is prefix + text + suffix:
        # built by `_frame` for the first chunk, so that whole answers do without.
        self._open = self._close = self._text_prefix = self._text_suffix = b""

    def _frame(self) -> bytes:
        self._open = b"data: " + _json(self._head(self.chunk_object))[:-1] + b',"choices":['
        self._close = b'],"usage":null}\n\n' if self._terms.include_usage else b"]}\n\n"
        self._text_suffix = self.after_text + self._close
        self._text_prefix = self._open + self.before_text
        return self._text_prefix

    def _head(self, kind: str) -> dict[str, Any]:
        terms = self._terms
        return {
            "id": self.id_prefix + terms.request_id,
            "object": kind,
            "created": terms.created,
            "model": terms.model,
            "system_fingerprint": FINGERPRINT,
        }

    def _chunk(self, choice: bytes) -> bytes:
        if not self._open:
            self._frame()
        return self._open + choice + self._close

    def start(self) -> bytes:
        return b""

    @abstractmethod
    def _finish_choice(self, reason: str) -> bytes:
        """The last choice of the stream, which says why it ends."""

    def end(self, usage: Usage | None) -> bytes:
        if self._finish is None:
            return self.error(NO_FINISH)
        last = self._chunk(self._finish_choice(self._finish))
        if self.attempts > 1:
            # Behind the choices: what clients look for comes where it always does.
            last = last.removesuffix(b"}\n\n") + b',"%s":%d}\n\n' % (ATTEMPTS, self.attempts)
        if self._terms.include_usage and usage is not None:
            head = self._head(self.chunk_object)
            body = {**head, "choices": [], "usage": usage_object(usage)}
            last += b"data: " + _json(body) + b"\n\n"
        return last + DONE

    def error(self, failure: Failure) -> bytes:
        # No [DONE]: to clients that skip what they do not know, it would mean "whole".
        return b"data: " + failure_object(failure) + b"\n\n"

    def keep_alive(self) -> bytes:
        return KEEP_ALIVE

    def comment(self, text: str) -> bytes:
        return b": " + text.encode() + b"\n\n"

    def _whole(self, choice: dict[str, Any], usage: Usage | None) -> bytes:
        body = self._head(self.whole_object)
        body["choices"] = [choice]
        if self.attempts > 1:
            body[ATTEMPTS.decode()] = self.attempts
        if usage is not None:
            body["usage"] = usage_object(usage)
        return _json(body)

    def embedding(self, result: Embedding) -> bytes:
        raise TypeError("this encoder answers with text")


class ChatEncoder(_Encoder):
    """Answers POST /v1/chat/completions."""

    chunk_object = "chat.completion.chunk"
    whole_object = "chat.completion"
    id_prefix = "chatcmpl-"
    before_text = b'{"index":0,"delta":{"content":'
    after_text = b'},"logprobs":null,"finish_reason":null}'

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._seen: dict[int, int] = {}
        """Engine's index of a call -> the client's."""
        self._named: set[int] = set()

    def start(self) -> bytes:
        return self._choice(b'{"role":"assistant","content":""}')

    def delta(self, delta: Delta) -> bytes:
        if not (delta.reasoning or delta.tool_calls or delta.logprobs or delta.finish_reason):
            text = delta.text
            if not text:
                return b""
            return (self._text_prefix or self._frame()) + _json(text) + self._text_suffix
        return self._rich(delta)

    def _rich(self, delta: Delta) -> bytes:
        if delta.finish_reason is not None:
            self._finish = delta.finish_reason
        fields: dict[str, Any] = {}
        if delta.reasoning:
            fields["reasoning_content"] = delta.reasoning
        if delta.text:
            fields["content"] = delta.text
        if delta.tool_calls:
            fields["tool_calls"] = [self._fragment(call) for call in delta.tool_calls]
        logprobs = b"null"
        if self._terms.logprobs and delta.logprobs:
            logprobs = _json(logprobs_object(delta.logprobs))
        elif not fields:
            return b""
        return self._choice(_json(fields), logprobs)

    def _fragment(self, call: ToolCall) -> dict[str, Any]:
        function: dict[str, Any] = {"arguments": call.arguments}
        index = self._seen.get(call.index)
        if index is not None:
            if call.name and index not in self._named:
                self._named.add(index)
                function["name"] = call.name
            return {"index": index, "function": function}
        index = self._seen[call.index] = len(self._seen)
        if call.name:
            self._named.add(index)
            function = {"name": call.name, "arguments": call.arguments}
        return {
            "index": index,
            "id": call.id or call_id(self._terms.request_id, call.index),
            "type": "function",
            "function": function,
        }

    def _choice(self, fields: bytes, logprobs: bytes = b"null", finish: bytes = b"null") -> bytes:
        return self._chunk(
            b'{"index":0,"delta":%b,"logprobs":%b,"finish_reason":%b}' % (fields, logprobs, finish)
        )

    def _finish_choice(self, reason: str) -> bytes:
        word = finish_reason(reason, bool(self._seen))
        return b'{"index":0,"delta":{},"logprobs":null,"finish_reason":%b}' % _json(word)

    def whole(self, deltas: Sequence[Delta], usage: Usage | None) -> bytes:
        collector = Collector(self._terms.request_id)
        logprobs: list[TokenLogprob] = []
        reason = None
        for delta in deltas:
            if delta.tool_calls:
                collector.add(delta.tool_calls)
            if delta.logprobs:
                logprobs.extend(delta.logprobs)
            reason = delta.finish_reason or reason
        if reason is None:
            raise unfinished()
        text = "".join([delta.text for delta in deltas])
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if reasoning := "".join([delta.reasoning for delta in deltas]):
            message["reasoning_content"] = reasoning
        if collector:
            message["content"] = text or None
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in collector.calls()
            ]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": logprobs_object(logprobs) if self._terms.logprobs and logprobs else None,
            "finish_reason": finish_reason(reason, bool(collector)),
        }
        return self._whole(choice, usage)


class CompletionEncoder(_Encoder):
    """Answers POST /v1/completions.  Its form has no place for reasoning or tool calls."""

    chunk_object = "text_completion"
    whole_object = "text_completion"
    id_prefix = "cmpl-"
    before_text = b'{"text":'
    after_text = b',"index":0,"logprobs":null,"finish_reason":null}'

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._offset = 0
        """Characters written so far: where the next token stands, for `text_offset`."""

    def delta(self, delta: Delta) -> bytes:
        if delta.finish_reason is not None:
            self._finish = delta.finish_reason
        text = delta.text
        if not (self._terms.logprobs and delta.logprobs):
            self._offset += len(text)
            if not text:
                return b""
            return (self._text_prefix or self._frame()) + _json(text) + self._text_suffix
        logprobs = _json(old_logprobs_object(delta.logprobs, self._offset))
        self._offset += len(text)
        return self._chunk(
            b'{"text":%b,"index":0,"logprobs":%b,"finish_reason":null}' % (_json(text), logprobs)
        )

    def _finish_choice(self, reason: str) -> bytes:
        word = _json(finish_reason(reason, False))
        return b'{"text":"","index":0,"logprobs":null,"finish_reason":%b}' % word

    def whole(self, deltas: Sequence[Delta], usage: Usage | None) -> bytes:
        logprobs: list[TokenLogprob] = []
        reason = None
        for delta in deltas:
            logprobs.extend(delta.logprobs)
            reason = delta.finish_reason or reason
        if reason is None:
            raise unfinished()
        choice = {
            "text": "".join([delta.text for delta in deltas]),
            "index": 0,
            "logprobs": old_logprobs_object(logprobs, 0)
            if self._terms.logprobs and logprobs
            else None,
            "finish_reason": finish_reason(reason, False),
        }
        return self._whole(choice, usage)


class EmbeddingEncoder(VectorEncoder):
    """Answers POST /v1/embeddings, which never streams."""

    content_type_stream = JSON
    content_type_whole = JSON

    def __init__(self, model: str, *, base64: bool) -> None:
        self._model = model
        self._base64 = base64

    def error(self, failure: Failure) -> bytes:
        return failure_object(failure)

    def embedding(self, result: Embedding) -> bytes:
        vectors: Sequence[object] = result.vectors
        if self._base64:
            vectors = [_packed(vector) for vector in result.vectors]
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens}
        return _json({"object": "list", "data": data, "model": self._model, "usage": usage})


def encoder_of(form: AnswerForm) -> AnswerEncoder:
    """What writes an answer of this form; its path is one of OpenAI's that models answer."""
    if form.path == EMBEDDING:
        return EmbeddingEncoder(form.model, base64=form.base64)
    terms = Terms(form.request_id, int(form.unix_s), form.model, form.include_usage, form.logprobs)
    return CompletionEncoder(terms) if form.path == COMPLETION else ChatEncoder(terms)


def _packed(vector: Sequence[float]) -> str:
    """Little-endian float32, in base64: what OpenAI's SDKs ask for by themselves."""
    return b64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def unfinished() -> DialectError:
    """For a whole body of an answer that has no end."""
    status, headers, body = error_body(NO_FINISH)
    return DialectError(status, body, headers, NO_FINISH.message)


def logprobs_object(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` of a chat choice."""
    content = [
        {**_token(token), "top_logprobs": [_token(top) for top in token.top]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": token.bytes}


def old_logprobs_object(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """The `logprobs` of a completion choice; `offset`: where the first token stands."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{top.token: top.logprob for top in token.top} for token in tokens],
        "text_offset": offsets,
    }
