"""Names of models: when two mean the same, and which were perhaps meant.  Pure.

The rules are Ollama's (types/model/name.go): `[host/][namespace/]model[:tag]`, case does not
matter, the tag is `latest` and the namespace `library` if they are not given.  Names of other
engines (`org/Model-GGUF`, a path) go through the same rules, which leaves them apart from each
other.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Final

_DEFAULT_TAG: Final = "latest"
_DEFAULT_NAMESPACE: Final = "library/"
_ALIKE: Final = 0.6  # difflib's own cutoff
_COMPARED_CHARS: Final = 80  # Ollama's limit for a part of a name; bounds the cost of `near`
_COMPARED_NAMES: Final = 1024


@lru_cache(maxsize=4096)
def normalise(name: str) -> str:
    """The form in which equal names are equal strings: `Llama3.2` -> `llama3.2:latest`."""
    folded = name.strip().lower().removeprefix(_DEFAULT_NAMESPACE)
    if ":" not in folded.rpartition("/")[2]:
        folded += ":" + _DEFAULT_TAG
    return folded


def same(a: str, b: str) -> bool:
    """Whether two names mean the same model."""
    return a == b or normalise(a) == normalise(b)


def near(name: str, candidates: Iterable[str], n: int = 3) -> list[str]:
    """Up to `n` of the candidates that somebody who wrote `name` may have meant, best first.

    A candidate is near if one of the two names, tags aside, is a part of the other, or if they
    differ in a few letters.
    """
    wanted = _base(name)
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(wanted)  # what is prepared once
    scored: list[tuple[float, str]] = []
    for candidate in list(candidates)[:_COMPARED_NAMES]:
        base = _base(candidate)
        score = _score(matcher, wanted, base)
        if score >= _ALIKE:
            scored.append((score, candidate))
    scored.sort(key=lambda pair: (-pair[0], pair[1]))
    return [candidate for _, candidate in scored[:n]]


def _base(name: str) -> str:
    """Without the tag, and not longer than is worth comparing."""
    head, colon, tag = normalise(name).rpartition(":")
    return (head if colon and "/" not in tag else normalise(name))[:_COMPARED_CHARS]


def _score(matcher: SequenceMatcher[str], wanted: str, base: str) -> float:
    if wanted == base:
        return 2.0  # another tag of the same model
    if len(wanted) >= 3 and len(base) >= 3 and (wanted in base or base in wanted):
        return 1.0 + min(len(wanted), len(base)) / max(len(wanted), len(base))
    matcher.set_seq1(base)
    if matcher.real_quick_ratio() < _ALIKE or matcher.quick_ratio() < _ALIKE:
        return 0.0
    return matcher.ratio()
