"""What the clients of one run ask.

All answers are known beforehand: engines count (`testing.models`), so what a client got can be held
against what it should have, word by word.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from meshd.testing.models import expected_text
from meshd.testing.simulation.options import LENGTHS, Options

_CHATS: Final = ("/v1/chat/completions", "/api/chat")
_OPENAI: Final = ("/v1/chat/completions", "/v1/completions")
_OLLAMA: Final = ("/api/chat", "/api/generate")
_REPEATABLE: Final = ({"temperature": 0}, {"seed": 7})
"""What makes an answer one that can be had a second time."""
_BOUND: Final = ({"response_format": {"type": "json_object"}}, {"format": "json"})
"""What makes an answer one that no other run can continue: OpenAI's word, Ollama's."""


@dataclass(frozen=True)
class Question:
    """What is asked; a repeat of a key asks the same."""

    path: str
    body: Mapping[str, Any]
    key: str
    thoughts: str
    """What the model thinks before it says what is `expected`."""
    expected: str
    finish: str

    @property
    def stream(self) -> bool:
        return bool(self.body["stream"])

    @property
    def words(self) -> int:
        """How many are thought and said."""
        return len(self.thoughts.split()) + len(self.expected.split())

    @property
    def dialect(self) -> str:
        return "ollama" if self.path in _OLLAMA else "openai"


def thought_and_said(words: int, thoughts: int) -> tuple[str, str]:
    """An answer of that length, by a model that thinks so many words of it before it says any."""
    text = expected_text(max_tokens=words)
    if not thoughts:
        return "", text
    chain = text.split()
    return "".join(f" {word}" for word in chain[:thoughts]), " ".join(chain[thoughts:])


@dataclass
class Questions:
    """Those of one run."""

    options: Options
    chance: random.Random
    keyed: list[Question] = field(default_factory=list)
    """Each key's, in the order of their first use."""
    _count: int = 0

    def some(self) -> Question:
        """A new one, or one that was asked before, with its key."""
        if self.chance.random() >= self.options.keyed:
            return self.new()
        if self.keyed and self.chance.random() < self.options.repeats:
            return self.chance.choice(self.keyed[-5:])
        return self.new(f"key-{len(self.keyed)}")

    def new(self, key: str = "", *, length: int | None = None) -> Question:
        """One that nobody has asked yet."""
        chance = self.chance
        length = length or chance.choice(LENGTHS)
        # Where there are no messages, thoughts have no place of their own.
        path = chance.choice(_CHATS if self.options.thoughts else (*_OPENAI, *_OLLAMA))
        text = f"Count, please. #{self._count}{key}"
        self._count += 1
        body: dict[str, Any] = {"model": "tiny", "stream": chance.random() < 0.7}
        if path in ("/v1/completions", "/api/generate"):
            body["prompt"] = text
        else:
            body["messages"] = [{"role": "user", "content": text}]
        told: dict[str, Any] = body.setdefault("options", {}) if path in _OLLAMA else body
        told["num_predict" if path in _OLLAMA else "max_tokens"] = length
        if chance.random() < self.options.repeatable:
            told.update(chance.choice(_REPEATABLE))
            if chance.random() < 0.3:
                body.update(_BOUND[path in _OLLAMA])
        thoughts, expected = thought_and_said(length, self.options.thoughts)
        question = Question(path, body, key, thoughts, expected, "length")
        if key:
            self.keyed.append(question)
        return question
