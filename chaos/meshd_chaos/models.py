"""The models of a run: each counts in words of its own, so that a mix-up shows in the text."""

from __future__ import annotations

from typing import Final

from meshd.testing.models import ModelKind, Recipe, chain

WORDS: Final = 1024
"""After so many an answer ends by itself."""
CONTEXT_TOKENS: Final = 2 * WORDS
"""Of each slot: a question, and all that can be said."""
_NAMES: Final = ("poet", "clerk", "pilot", "nurse", "baker", "judge", "tutor", "scout")


def recipes(count: int) -> dict[str, Recipe]:
    """That many models, at most eight, by name: `expected_text` says what they answer."""
    if not 1 <= count <= len(_NAMES):
        raise ValueError(f"from 1 to {len(_NAMES)} models, not {count}")
    return {name: _recipe(name) for name in _NAMES[:count]}


def holders(models: list[str], nodes: list[str], copies: int) -> dict[str, list[str]]:
    """Which of the models each node holds: `copies` of each, spread evenly."""
    held: dict[str, list[str]] = {node: [] for node in nodes}
    for number, model in enumerate(models):
        for copy in range(copies):
            held[nodes[(number + copy) % len(nodes)]].append(model)
    return held


def _recipe(name: str) -> Recipe:
    # Letters behind a blank: a tokenizer finds such a word whole when an answer is continued.
    words = chain(Recipe(words=WORDS))
    script = tuple(b" " + name.encode() + word.strip() for word in words)
    return Recipe(ModelKind.SCRIPT, script=script, context_tokens=CONTEXT_TOKENS, name=name)
