"""When a silent engine counts as hung.  Pure.

The holder watches its engine; the entry watches the holder (beats).  So a slow but living engine
is not abandoned, and a frozen engine behind a living daemon is (DESIGN.md, sections 3 and 11).
"""

from __future__ import annotations

from dataclasses import dataclass

from meshd import limits
from meshd.inference import Failure, FailureKind


@dataclass(slots=True)
class Watchdog:
    """One run on one engine; `due_at` is when it counts as hung."""

    first_token_s: float
    between_tokens_s: float
    started_at: float
    due_at: float = 0.0
    first_seen: bool = False
    last_at: float = 0.0

    def __post_init__(self) -> None:
        self.due_at = self.started_at + self.first_token_s
        self.last_at = self.started_at

    def event(self, now: float) -> float:
        """The engine said something; returns the gap since its last word."""
        gap_s = now - self.last_at
        self.last_at = now
        self.first_seen = True
        self.due_at = now + self.between_tokens_s
        return gap_s

    def failure(self) -> Failure:
        """What to say of an engine that ran into `due_at`."""
        if self.first_seen:
            text = f"the engine fell silent for {self.between_tokens_s:.0f} s in mid-answer"
        else:
            text = f"the engine did not begin to answer within {self.first_token_s:.0f} s"
        return Failure(FailureKind.SILENT, text, 504)


@dataclass(frozen=True, slots=True)
class Patience:
    """The bounds of a watchdog; a config may set them."""

    first_token_min_s: float = limits.FIRST_TOKEN_MIN_S
    between_tokens_max_s: float = limits.INTER_TOKEN_MAX_S


def watchdog(predicted_first_s: float, gap_s: float, now: float, patience: Patience) -> Watchdog:
    """Limits from what is known: predicted load + prefill, and the observed p99 gap (0: unknown).

    An engine that was never observed gets the most generous gap: nothing says that it is quick.
    """
    first = max(patience.first_token_min_s, limits.FIRST_TOKEN_FACTOR * predicted_first_s)
    most = patience.between_tokens_max_s
    between = limits.INTER_TOKEN_FACTOR * gap_s if gap_s else most
    return Watchdog(first, min(most, max(limits.INTER_TOKEN_MIN_S, between)), now)
