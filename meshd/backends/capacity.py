"""How many requests an engine takes at once, learned where it does not say.  Pure.

vLLM, mlx-lm and plain OpenAI servers tell no number of slots.  Batching engines answer more
requests at once with more tokens a second in all, up to a point; sequential ones do not.  So: while
all slots are in use, one more is tried as long as the last one brought throughput, and an engine
that itself says "busy" is believed at once.
"""

from __future__ import annotations

from typing import Final

GAIN: Final = 1.10
"""A slot more must bring at least this much throughput to be kept."""
RUNS: Final = 3
"""So many runs with all slots in use are a measurement."""
MOST: Final = 64
PRIORS: Final = {"vllm": 16, "sglang": 16}
"""They batch by design (vLLM's own default is 256 sequences)."""


class LearnedSlots:
    """The belief about one engine."""

    def __init__(self, engine: str) -> None:
        self.slots = PRIORS.get(engine, 1)
        self._running = 0
        self._rates: list[float] = []
        self._best = 0.0
        """The highest throughput so far, in tokens a second over all slots."""
        self._settled = False

    def began(self) -> bool:
        """A run begins; whether all slots are in use now."""
        self._running += 1
        return self._running >= self.slots

    def ended(self, *, full: bool, tokens_per_s: float) -> None:
        """A run is over.  `full` as `began` said, `tokens_per_s` its own decode rate (0: unknown).

        Changes `slots` when there is something to learn.
        """
        self._running -= 1
        if not full or tokens_per_s <= 0 or self._settled:
            return
        self._rates.append(tokens_per_s)
        if len(self._rates) < RUNS:
            return
        throughput = self.slots * sum(self._rates) / len(self._rates)
        self._rates.clear()
        if throughput >= self._best * GAIN and self.slots < MOST:
            self._best = throughput
            self.slots += 1
        else:
            self.slots = max(1, self.slots - 1)
            self._settled = True

    def refused(self) -> None:
        """The engine said that it is busy: with one less it was not.  Ends what `began` began."""
        self._running -= 1
        self.slots = max(1, min(self.slots, self._running))
        self._settled = True
        self._rates.clear()
