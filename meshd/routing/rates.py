"""How fast each model runs here, learned from what was observed.  Pure.

The holder measures (it sees the engine directly) and tells everyone in its load report.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

EWMA = 0.25
MIN_TOKENS = 8
"""Fewer decoded tokens than this say nothing about a rate."""


@dataclass(slots=True)
class Rates:
    """One model on one backend; 0: not known."""

    decode_tokens_per_s: float = 0.0
    prefill_tokens_per_s: float = 0.0
    load_s: float = 0.0
    gap_s: float = 0.0
    """A slow-decaying maximum of the gaps between events: the p99 for the watchdog."""


class Observation(msgspec.Struct, frozen=True, gc=False):
    """One finished run, as timed by the holder or told by the engine."""

    prompt_tokens: int
    completion_tokens: int
    prefill_s: float
    decode_s: float
    load_s: float = 0.0


class RateBook:
    """Rates of each lane of this node."""

    def __init__(self) -> None:
        self._rates: dict[tuple[str, str], Rates] = {}

    def of(self, lane: tuple[str, str]) -> Rates:
        """The lane's rates; all zero if nothing was seen."""
        rates = self._rates.get(lane)
        if rates is None:
            rates = self._rates[lane] = Rates()
        return rates

    def observe(self, lane: tuple[str, str], seen: Observation) -> None:
        """Blend one run in."""
        rates = self.of(lane)
        if seen.completion_tokens >= MIN_TOKENS and seen.decode_s > 0:
            rate = seen.completion_tokens / seen.decode_s
            rates.decode_tokens_per_s = _blend(rates.decode_tokens_per_s, rate)
        if seen.prompt_tokens > 0 and seen.prefill_s > 0:
            rate = seen.prompt_tokens / seen.prefill_s
            rates.prefill_tokens_per_s = _blend(rates.prefill_tokens_per_s, rate)
        if seen.load_s > 0:
            rates.load_s = _blend(rates.load_s, seen.load_s)

    def observe_gap(self, lane: tuple[str, str], gap_s: float) -> float:
        """A pause between two events of a stream; returns what is known of them now."""
        rates = self.of(lane)
        rates.gap_s = gap_s if gap_s > rates.gap_s else rates.gap_s * 0.99 + gap_s * 0.01
        return rates.gap_s


def _blend(old: float, new: float) -> float:
    return new if old == 0.0 else old + EWMA * (new - old)
