"""The system's clocks."""

from __future__ import annotations

import sys
import time

import trio


class SystemClock:
    """`meshd.ports.Clock`, real.

    Timers pause while the machine sleeps, on Linux and on macOS, since trio's clock does.  How long
    it slept is the distance between a clock that counts sleep and one that does not; unlike a jump
    of the wall clock it cannot be caused by somebody setting the time.
    """

    def monotonic(self) -> float:
        """trio's own time, so only within `trio.run`."""
        return trio.current_time()

    def wall(self) -> float:
        return time.time()

    def suspended_s(self) -> float:
        if sys.platform == "darwin":
            slept_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) - time.clock_gettime_ns(
                time.CLOCK_UPTIME_RAW
            )
        else:
            slept_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(
                time.CLOCK_MONOTONIC
            )
        return max(0.0, slept_ns / 1e9)
