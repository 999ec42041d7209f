"""How well this node itself is doing (Lifeguard's local health multiplier).  Pure.

A node whose own probes fail, whose relays' nacks do not arrive, or that has to refute suspicions,
is likely slow itself: it gives the others more time before it accuses them.
"""

from __future__ import annotations


class Awareness:
    """A score from 0 (well) to one below the maximum (awareness.go)."""

    __slots__ = ("_end", "score")

    def __init__(self, maximum: int) -> None:
        self._end = maximum
        self.score = 0

    def change(self, delta: int) -> None:
        """Down by 1 for a probe that worked; up for a failed one, a missed nack, a refutation."""
        self.score = min(max(self.score + delta, 0), self._end - 1)

    def scale(self, timeout_s: float) -> float:
        """A timeout stretched by how badly this node is doing: once to `maximum` times."""
        return timeout_s * (self.score + 1)
