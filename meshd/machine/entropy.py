"""The system's randomness."""

from __future__ import annotations

import random
import secrets


class SystemEntropy:
    """`meshd.ports.Entropy`, real: secrets from the system, jitter from a generator it seeds."""

    def __init__(self) -> None:
        self._random = random.Random(secrets.token_bytes(32))

    def token(self, size_bytes: int) -> bytes:
        return secrets.token_bytes(size_bytes)

    def random(self) -> float:
        return self._random.random()

    def randrange(self, stop: int) -> int:
        return self._random.randrange(stop)
