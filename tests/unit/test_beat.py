"""Whoever looks now and then looks when the others do."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from meshd.beat import beat_after, next_beat


async def test_those_who_began_at_different_times_wake_together(autojump_clock: MockClock) -> None:
    woke: dict[float, list[float]] = {}

    async def look(began_s: float, period_s: float) -> None:
        await trio.sleep(began_s)
        for _ in range(3):
            await next_beat(period_s)
            woke.setdefault(period_s, []).append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look, 0.3, 2.0)
        nursery.start_soon(look, 1.7, 2.0)
        nursery.start_soon(look, 0.1, 0.5)
    assert sorted(woke[2.0]) == [2.0, 2.0, 4.0, 4.0, 6.0, 6.0]
    assert woke[0.5] == [0.5, 1.0, 1.5]


def test_the_next_beat_is_after_now_and_no_further_than_a_period() -> None:
    for now in (0.0, 0.1, 2.0, 1e6 + 0.3):
        for period_s in (0.1, 0.5, 2.0):
            assert now < beat_after(now, period_s) <= now + period_s + 1e-9
