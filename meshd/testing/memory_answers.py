"""Answers of the engines in memory, on the wire: OpenAI's SSE and Ollama's NDJSON."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from meshd.testing.models import expected_text

SSE: Final = (b"content-type", b"text/event-stream")
NDJSON: Final = (b"content-type", b"application/x-ndjson")
CREATED_AT: Final = "2026-06-01T00:00:00Z"
THINK: Final = "<think>"
THOUGHT: Final = "</think>"
ANSWER: Final = "[assistant]"
"""Where a prompt lets the model speak."""
_BARE: Final = expected_text().split()
WORDS_MAX: Final = len(_BARE)
"""Of one answer."""
_WORDS: Final = [" " + word for word in _BARE]

_json: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Template:
    """How a chat becomes a prompt."""

    continues: bool = True
    """A trailing assistant message is left open; else a new turn begins after it."""
    raw_continues: bool = False
    """A closed one that writes an answer of the past as the model says it."""

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt, up to where the model is to speak."""
        prompt = ""
        for message in messages:
            is_last = message is messages[-1]
            thought = message.get("reasoning_content") or message.get("thinking") or ""
            answers = message["role"] == "assistant"
            past = answers and not self.continues and not self.raw_continues
            prompt += "[past]" if past else f"[{message['role']}]"
            content = message.get("content") or ""
            if thought:
                in_thoughts = self.continues and is_last and not content
                prompt += THINK + thought + ("" if in_thoughts else THOUGHT)
            prompt += content
            if answers and is_last and self.continues:
                return prompt
            prompt += "[end]"
        return prompt + ANSWER


class Wire(ABC):
    """One answer in one dialect."""

    content_type = SSE

    def __init__(
        self,
        path: str,
        body: Mapping[str, Any],
        template: Template = Template(),
        thoughts: int = 0,
        length_words: int = WORDS_MAX,
    ) -> None:
        """`length_words`: of the chain; of these `thoughts` are thought before the rest is said."""
        self.path = path
        self.body = body
        self.is_raw = path == "/v1/completions" or bool(body.get("raw"))
        self.told = 0
        """So many tokens of the answer its prompt has."""
        self._template = template
        self._thoughts = thoughts
        self._length_words = min(length_words, WORDS_MAX)

    def words(self) -> list[tuple[str, bool]]:
        """What is left to say after what the prompt says already, and whether it is thought."""
        prompt = str(self.body.get("prompt") or "")
        if messages := self.body.get("messages"):
            prompt = self._template.prompt(messages)
        told = prompt.rpartition(ANSWER)[2]
        closed = THOUGHT in told
        words = told.replace(THINK, " ").replace(THOUGHT, " ").split()
        said = self.told = next(
            n for n in range(len(words), -1, -1) if words[len(words) - n :] == _BARE[:n]
        )
        limit = self.max_tokens()
        whole = self._length_words
        stop = whole if limit is None else min(said + limit, whole)
        return [self._word(number, closed) for number in range(said, stop)]

    def _word(self, number: int, closed: bool) -> tuple[str, bool]:
        thought = number < self._thoughts
        if not self._thoughts or number != self._thoughts or closed:
            return _WORDS[number], thought and not self.is_raw
        first = _WORDS[number].lstrip()  # as engines have it that take thoughts out
        return THOUGHT + "\n\n" + first if self.is_raw else first, False

    def max_tokens(self) -> int | None:
        value = self.body.get("max_tokens")
        return value if isinstance(value, int) else None

    def finish_reason(self, count: int) -> str:
        return "length" if count == self.max_tokens() else "stop"

    def start(self) -> bytes:
        return b""

    @abstractmethod
    def piece(self, word: str, thought: bool) -> bytes: ...

    @abstractmethod
    def end(self, count: int) -> bytes: ...

    @abstractmethod
    def error(self, message: str) -> bytes: ...

    def done_marker(self) -> bytes:
        return b""


class OpenAIWire(Wire):
    """llama.cpp's."""

    def _event(self, **fields: object) -> bytes:
        return b"data: " + _json({"object": "chat.completion.chunk", **fields}) + b"\n\n"

    def start(self) -> bytes:
        if self.path != "/v1/chat/completions":
            return b""
        return self._choice({"role": "assistant", "content": None}, None)

    def _choice(self, delta: object, finish: str | None) -> bytes:
        return self._event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])

    def piece(self, word: str, thought: bool) -> bytes:
        if self.path == "/v1/chat/completions":
            return self._choice({"reasoning_content" if thought else "content": word}, None)
        return self._event(choices=[{"index": 0, "text": word, "finish_reason": None}])

    def end(self, count: int) -> bytes:
        finish = self._choice({}, self.finish_reason(count))
        if self.path != "/v1/chat/completions":
            choice = {"index": 0, "text": "", "finish_reason": self.finish_reason(count)}
            finish = self._event(choices=[choice])
        usage = self._event(
            choices=[], usage={"prompt_tokens": 7 + self.told, "completion_tokens": count}
        )
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

    def _line(self, text: str, thought: str = "", **fields: object) -> bytes:
        line: dict[str, object] = {"model": self.body.get("model"), "created_at": CREATED_AT}
        thinking = {"thinking": thought} if thought else {}
        if self.path == "/api/chat":
            line["message"] = {"role": "assistant", "content": text, **thinking}
        else:
            line |= {"response": text, **thinking}
        return _json({**line, "done": False, **fields}) + b"\n"

    def words(self) -> list[tuple[str, bool]]:
        nothing_asked = not self.body.get("messages") and not self.body.get("prompt")
        return [] if nothing_asked else super().words()

    def piece(self, word: str, thought: bool) -> bytes:
        return self._line("", word) if thought else self._line(word)

    def end(self, count: int) -> bytes:
        reason = self.finish_reason(count) if count else "load"
        return self._line(
            "",
            done=True,
            done_reason=reason,
            total_duration=10**9,
            prompt_eval_count=7 + self.told,
            eval_count=count,
        )

    def error(self, message: str) -> bytes:
        return _json({"error": message}) + b"\n"
