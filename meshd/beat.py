"""A common beat for all that look at something now and then (trio shell).

A process that wakes is cold: what it costs is the waking, and hardly what is done then.  So whoever
looks every so often does it on multiples of its period, where all the others do.
"""

from __future__ import annotations

import trio


def beat_after(now: float, period_s: float) -> float:
    """The next multiple of `period_s` after `now`: at most that far away."""
    beat = (now // period_s + 1) * period_s
    return beat if beat > now else beat + period_s  # 2.0 // 0.1 is 19


async def next_beat(period_s: float) -> None:
    """Sleep until the next multiple of `period_s` by the loop's clock."""
    await trio.sleep_until(beat_after(trio.current_time(), period_s))
