"""Noticing that this machine was asleep, and telling a short nap from a real one.  Pure.

Timers stand still in sleep, so nothing in here or in the core expires by it; but whatever was
about to expire does so right after, before anybody could answer.  Hence `Froze` at once.  Whether
to come back with a new word and exchanges is another question: a closed laptop wakes for a few
seconds about every minute (a dark wake), and must not make its mesh flap each time.
"""

from __future__ import annotations

import math
from typing import Final

from meshd.membership.events import Froze, Woke

SLEPT_MIN_S: Final = 1.0
"""Less than this is the two clocks being read one after the other."""
LONG_S: Final = 600.0
"""Who slept that long is away anyway: back at once (Tailscale draws the line there too)."""
STEADY_S: Final = 5.0
"""After a shorter sleep, how long the machine has to stay awake to be back."""
POLL_S: Final = 2.0


class SleepWatch:
    """Fed with the time slept since boot, says when the core should know."""

    __slots__ = ("_back_at", "_slept_s", "_suspended_s")

    def __init__(self, suspended_s: float) -> None:
        self._suspended_s = suspended_s
        self._slept_s = 0.0
        """Slept since the core last heard that this machine is back."""
        self._back_at = math.inf
        """When it counts as back; infinite: it is not away."""

    def observe(self, now: float, suspended_s: float) -> Froze | Woke | None:
        """Look at the clocks: what the core is to be told, if anything.

        To be called before the core acts upon time, and every `POLL_S`.
        """
        slept_s = suspended_s - self._suspended_s
        self._suspended_s = suspended_s
        if slept_s >= SLEPT_MIN_S:
            self._slept_s += slept_s
            self._back_at = now + STEADY_S
            return self._back() if slept_s >= LONG_S else Froze()
        return self._back() if now >= self._back_at else None

    def _back(self) -> Woke:
        slept_s, self._slept_s = self._slept_s, 0.0
        self._back_at = math.inf
        return Woke(slept_s)
