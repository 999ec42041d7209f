"""A clock that tests set, jump and put to sleep."""

from __future__ import annotations

import trio

A_DAY_IN_2026 = 1_780_000_000.0


class SimClock:
    """`meshd.ports.Clock` in virtual time: `monotonic` is trio's, so MockClock moves it.

    The wall clock starts at `wall_unix_s` and runs with trio's; `skew_s` is how wrong this machine
    is.  One machine's clock, one instance.
    """

    def __init__(self, *, wall_unix_s: float = A_DAY_IN_2026, skew_s: float = 0.0) -> None:
        self._wall_at_zero = wall_unix_s + skew_s
        self._suspended_s = 0.0

    def monotonic(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        return self._wall_at_zero + trio.current_time()

    def suspended_s(self) -> float:
        return self._suspended_s

    def jump_wall(self, seconds: float) -> None:
        """Somebody sets the time: forwards, or backwards if negative."""
        self._wall_at_zero += seconds

    def wake_after(self, seconds: float) -> None:
        """The machine has just slept that long: timers did not move, the wall clock did."""
        self._suspended_s += seconds
        self._wall_at_zero += seconds
