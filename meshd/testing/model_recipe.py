"""What a tiny model is made of, and what it will say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_CONSONANTS: Final = "bdfgklmnprstvz"
_VOWELS: Final = "aeiou"
_LETTER_WORDS: Final = (len(_CONSONANTS) * len(_VOWELS)) ** 3


class ModelKind(StrEnum):
    """What greedy decoding of the model says."""

    COUNTER = "counter"
    RANDOM = "random"
    SCRIPT = "script"


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the bytes of a model."""

    kind: ModelKind = ModelKind.COUNTER
    seed: int = 1
    words: int = 512
    """Length of the chain of made-up words (counter, random); at most 343,000."""
    context_tokens: int = 8192
    dim: int = 64
    """Width, a multiple of 8.  Ollama's last CPU wheel crashes above 192."""
    layers: int = 2
    name: str = "tiny"
    script: tuple[bytes, ...] = ()
    """The chain of a script model: distinct byte strings, one token each."""
    think_template: bool = False
    """Render `reasoning_content` in the template: engines then take the model to be thinking."""
    end_bias: float = -4.0
    """How unlikely a random model finds the end of the turn."""

    def __post_init__(self) -> None:
        if (self.kind is ModelKind.SCRIPT) != bool(self.script):
            raise ValueError("a script belongs to kind script, and only to it")
        if len(set(self.script)) != len(self.script) or b"" in self.script:
            raise ValueError("the pieces of a script must be distinct and not empty")
        if self.dim % 8 or self.dim < 8 or self.layers < 1:
            raise ValueError("dim must be a multiple of 8 and there must be a layer")
        if not 0 < self.words <= _LETTER_WORDS:
            raise ValueError(f"words must be from 1 to {_LETTER_WORDS}")


def chain(recipe: Recipe) -> list[bytes]:
    """The pieces that a chained model says, in order; the words a random model is made of."""
    if recipe.kind is ModelKind.SCRIPT:
        return list(recipe.script)
    return [(" " + _word(i)).encode() for i in range(recipe.words)]


def expected_text(
    recipe: Recipe | None = None, *, max_tokens: int | None = None, after: str = ""
) -> str:
    """What a chained model (default: counter) answers at temperature 0 to any chat.

    `max_tokens` cuts the answer there (finish_reason "length" unless the chain ended before);
    `after` is a part of the answer already given, which must end between two pieces.
    """
    recipe = recipe or Recipe()
    if recipe.kind is ModelKind.RANDOM:
        raise ValueError("a random model has no known answer")
    pieces = chain(recipe)
    said, start = b"", 0
    while said != after.encode():
        if start == len(pieces) or len(said) > len(after.encode()):
            raise ValueError(f"{after[-40:]!r} does not end between two pieces of the answer")
        said += pieces[start]
        start += 1
    stop = len(pieces) if max_tokens is None else start + max_tokens
    return b"".join(pieces[start:stop]).decode("utf-8", errors="replace")


def _word(index: int) -> str:
    """Three syllables that count, least significant first."""
    out = ""
    for _ in range(3):
        index, consonant = divmod(index, len(_CONSONANTS))
        index, vowel = divmod(index, len(_VOWELS))
        out += _CONSONANTS[consonant] + _VOWELS[vowel]
    return out
