"""When a silent engine counts as hung.  Pure.

The holder watches its engine; the entry watches the holder (beats).  Silence alone says little: an
engine may be loading, or reading a long prompt on a slow machine, or reading somebody else's
between two tokens of this answer.  So silence comes in two lengths: by the end of the first (scaled
by what is predicted and was observed) the engine was asked whether it lives, and one that did not
answer counts as hung; after the second it counts as hung whatever it says (DESIGN.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from meshd import limits
from meshd.inference import Failure, FailureKind


@dataclass(frozen=True, slots=True)
class Patience:
    """The bounds of a watchdog; a config may set them."""

    first_token_min_s: float = limits.FIRST_TOKEN_MIN_S
    between_tokens_max_s: float = limits.INTER_TOKEN_MAX_S


@dataclass(frozen=True, slots=True)
class Silence:
    """How long an engine may say nothing."""

    mute_s: float
    """Then it is given up if it has not answered the question whether it lives."""
    hung_s: float
    """Then it is given up, living or not."""

    @property
    def ask_s(self) -> float:
        """Then it is asked whether it lives, soon enough for an answer; and again after as long."""
        return self.mute_s - min(limits.PROBE_TIMEOUT_S, self.mute_s / 2)


class Watchdog:
    """One run on one engine.  Times are trio's."""

    __slots__ = ("_between", "_first", "due_at", "first_seen", "hung_at", "last_at")

    def __init__(self, first: Silence, between: Silence, started_at: float) -> None:
        self._first, self._between = first, between
        self.first_seen = False
        self.last_at = started_at
        """When it last said something, or was asked to."""
        self.due_at = started_at + first.ask_s
        """When its silence becomes suspicious: it is to be asked whether it lives."""
        self.hung_at = started_at + first.hung_s
        """When its silence means that it is hung."""

    def event(self, now: float) -> float:
        """The engine said something; returns the gap since its last word."""
        gap_s = now - self.last_at
        self.first_seen = True
        self.passed_on(now)
        return gap_s

    def passed_on(self, now: float) -> None:
        """What it said has reached the client, however slowly that reads: silence begins now."""
        self.last_at = now
        self.due_at = now + self._between.ask_s
        self.hung_at = now + self._between.hung_s

    def expect(self, gap_s: float) -> None:
        """What is known of its gaps by now, those of this very run counted: the next may last a
        multiple of that."""
        self._between = _between(gap_s, self._between.hung_s)

    def lives(self, now: float) -> float:
        """It was asked and answered; returns when to ask again."""
        again_s = (self._between if self.first_seen else self._first).ask_s
        self.due_at = min(now + again_s, self.hung_at)
        return self.due_at

    def failure(self, now: float) -> Failure:
        """What to say of an engine that is hung."""
        silent_s = now - self.last_at
        if self.first_seen:
            text = f"the engine fell silent for {silent_s:.0f} s in mid-answer"
        else:
            text = f"the engine did not begin to answer within {silent_s:.0f} s"
        return Failure(FailureKind.SILENT, text, 504)


def watchdog(predicted_first_s: float, gap_s: float, now: float, patience: Patience) -> Watchdog:
    """Limits from what is known: predicted load + prefill, and the observed p99 gap (0: unknown).

    An engine that was never observed gets the most generous gap: nothing says that it is quick.
    """
    first_s = max(patience.first_token_min_s, limits.FIRST_TOKEN_FACTOR * predicted_first_s)
    living_s = limits.FIRST_TOKEN_LIVING_FACTOR * predicted_first_s
    first = Silence(first_s, max(first_s, limits.FIRST_TOKEN_LIVING_MIN_S, living_s))
    return Watchdog(first, _between(gap_s, patience.between_tokens_max_s), now)


def _between(gap_s: float, most_s: float) -> Silence:
    between_s = limits.INTER_TOKEN_FACTOR * gap_s if gap_s else most_s
    return Silence(min(most_s, max(limits.INTER_TOKEN_MIN_S, between_s)), most_s)
