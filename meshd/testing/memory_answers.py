"""Answers of the engines in memory, on the wire: OpenAI's SSE and Ollama's NDJSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from meshd.testing.models import expected_text

SSE: Final = (b"content-type", b"text/event-stream")
NDJSON: Final = (b"content-type", b"application/x-ndjson")
CREATED_AT: Final = "2026-06-01T00:00:00Z"
_WORDS: Final = [" " + word for word in expected_text().split()]

_json: Final = msgspec.json.Encoder().encode


class Wire:
    """One answer in one dialect."""

    content_type = SSE

    def __init__(self, path: str, body: Mapping[str, Any], *, continues: bool = True) -> None:
        self.path = path
        self.body = body
        self.continues = continues

    def words(self) -> list[str]:
        """What is left to say: the chain, after what a trailing assistant message said already."""
        said = 0
        messages = self.body.get("messages") or []
        if self.continues and messages and messages[-1].get("role") == "assistant":
            said = len(str(messages[-1].get("content") or "").split())
        limit = self.max_tokens()
        return _WORDS[said : None if limit is None else said + limit]

    def max_tokens(self) -> int | None:
        value = self.body.get("max_tokens")
        return value if isinstance(value, int) else None

    def finish_reason(self, count: int) -> str:
        return "length" if count == self.max_tokens() else "stop"

    def start(self) -> bytes:
        return b""

    def piece(self, word: str) -> bytes:
        raise NotImplementedError

    def end(self, count: int) -> bytes:
        raise NotImplementedError

    def error(self, message: str) -> bytes:
        raise NotImplementedError

    def done_marker(self) -> bytes:
        return b""


class OpenAIWire(Wire):
    def _event(self, **fields: object) -> bytes:
        return b"data: " + _json({"object": "chat.completion.chunk", **fields}) + b"\n\n"

    def start(self) -> bytes:
        if self.path != "/v1/chat/completions":
            return b""
        return self._choice({"role": "assistant", "content": None}, None)

    def _choice(self, delta: object, finish: str | None) -> bytes:
        return self._event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])

    def piece(self, word: str) -> bytes:
        if self.path == "/v1/chat/completions":
            return self._choice({"content": word}, None)
        return self._event(choices=[{"index": 0, "text": word, "finish_reason": None}])

    def end(self, count: int) -> bytes:
        finish = self._choice({}, self.finish_reason(count))
        if self.path != "/v1/chat/completions":
            choice = {"index": 0, "text": "", "finish_reason": self.finish_reason(count)}
            finish = self._event(choices=[choice])
        usage = self._event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": count})
        return finish + usage + self.done_marker()

    def error(self, message: str) -> bytes:
        return self._event(error={"code": 500, "message": message, "type": "server_error"})

    def done_marker(self) -> bytes:
        return b"data: [DONE]\n\n"


class OllamaWire(Wire):
    content_type = NDJSON

    def max_tokens(self) -> int | None:
        value = (self.body.get("options") or {}).get("num_predict")
        return value if isinstance(value, int) and value >= 0 else None

    def _line(self, text: str, **fields: object) -> bytes:
        line: dict[str, object] = {"model": self.body.get("model"), "created_at": CREATED_AT}
        if self.path == "/api/chat":
            line["message"] = {"role": "assistant", "content": text}
        else:
            line["response"] = text
        return _json({**line, "done": False, **fields}) + b"\n"

    def words(self) -> list[str]:
        nothing_asked = not self.body.get("messages") and not self.body.get("prompt")
        return [] if nothing_asked else super().words()

    def piece(self, word: str) -> bytes:
        return self._line(word)

    def end(self, count: int) -> bytes:
        reason = self.finish_reason(count) if count else "load"
        return self._line(
            "",
            done=True,
            done_reason=reason,
            total_duration=10**9,
            prompt_eval_count=7,
            eval_count=count,
        )

    def error(self, message: str) -> bytes:
        return _json({"error": message}) + b"\n"
