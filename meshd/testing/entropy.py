"""Randomness that a seed repeats."""

from __future__ import annotations

import random


class SeededEntropy:
    """`meshd.ports.Entropy` from a seed: the same calls in the same order give the same bytes.

    Never for real keys.  Each port of a simulated world gets its own, so that one more call in
    one place does not shift every other.
    """

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(f"meshd {seed}")

    def token(self, size_bytes: int) -> bytes:
        return self._random.randbytes(size_bytes)

    def random(self) -> float:
        return self._random.random()

    def randrange(self, stop: int) -> int:
        return self._random.randrange(stop)
