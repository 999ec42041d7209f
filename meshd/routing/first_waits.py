"""How long answers of each model let wait for their first token, as one entry saw it.  Pure."""

from __future__ import annotations

import math
from collections import OrderedDict, deque

from meshd import limits

_PERCENTILE = 0.95


class FirstWaits:
    """The last waits of each model."""

    def __init__(
        self,
        keep: int = limits.HEDGE_WAITS,
        least: int = limits.HEDGE_WAITS_MIN,
        models: int = limits.HEDGE_MODELS,
    ) -> None:
        """`keep` waits of each of the last `models`; fewer than `least` say nothing."""
        self._keep, self._least, self._models = keep, least, models
        self._waits: OrderedDict[str, deque[float]] = OrderedDict()

    def observe(self, model: str, wait_s: float) -> None:
        """A first token came after so long, or another one's was there by then."""
        waits = self._waits.get(model)
        if waits is None:
            waits = self._waits[model] = deque(maxlen=self._keep)
        waits.append(wait_s)
        self._waits.move_to_end(model)
        if len(self._waits) > self._models:
            self._waits.popitem(last=False)

    def late_s(self, model: str) -> float:
        """What 95 of 100 do not exceed; inf while too little was seen."""
        waits = self._waits.get(model)
        if waits is None or len(waits) < self._least:
            return math.inf
        ordered = sorted(waits)
        return ordered[min(len(ordered) - 1, math.ceil(_PERCENTILE * len(ordered)) - 1)]
