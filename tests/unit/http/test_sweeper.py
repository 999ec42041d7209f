from __future__ import annotations

import math

import pytest
import trio

from meshd.http import Sweeper
from meshd.http.baton import Baton
from meshd.http.sweeper import TICK_S


async def test_a_deadline_fires_once_and_at_most_a_tick_late(autojump_clock: object) -> None:
    sweeper = Sweeper()
    fired: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        start = trio.current_time()
        watch = sweeper.watch(lambda: fired.append(trio.current_time() - start), start + 3)
        await trio.sleep(10)
        assert len(fired) == 1
        assert 3 <= fired[0] <= 3 + TICK_S
        assert watch.at == math.inf
        nursery.cancel_scope.cancel()


async def test_a_deadline_that_is_moved_on_does_not_fire(autojump_clock: object) -> None:
    sweeper = Sweeper()
    fired: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        watch = sweeper.watch(lambda: fired.append(trio.current_time()))
        for _ in range(50):
            watch.at = trio.current_time() + 1
            await trio.sleep(0.5)
        assert fired == []
        await trio.sleep(2)
        assert len(fired) == 1
        nursery.cancel_scope.cancel()


async def test_expiring_may_stop_other_watches_and_set_its_own_again() -> None:
    sweeper = Sweeper()
    fired: list[str] = []

    def first() -> None:
        fired.append("first")
        sweeper.unwatch(second)
        one.at = 20

    one = sweeper.watch(first, 5)
    second = sweeper.watch(lambda: fired.append("second"), 5)
    sweeper.sweep(10)
    sweeper.sweep(15)
    assert fired == ["first"]
    sweeper.sweep(20)
    assert fired == ["first", "first"]
    sweeper.unwatch(second)  # again, which is fine


async def test_it_sleeps_while_nothing_is_watched_and_now_is_fresh_when_something_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sweeper = Sweeper()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        await trio.sleep(1000)
        ticks = trio.lowlevel.current_statistics()
        assert ticks.seconds_to_next_deadline == math.inf
        watch = sweeper.watch(lambda: None)
        assert sweeper.now == trio.current_time()
        sweeper.unwatch(watch)
        nursery.cancel_scope.cancel()


async def test_a_baton_keeps_one_wake_and_serves_one_waiter() -> None:
    baton = Baton()
    baton.wake()
    baton.wake()
    await baton.wait()
    woken = []

    async def wait() -> None:
        await baton.wait()
        woken.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert woken == []
        with pytest.raises(trio.BusyResourceError):
            await baton.wait()
        baton.wake()


async def test_a_cancelled_wait_on_a_baton_leaves_it_usable() -> None:
    baton = Baton()
    with trio.CancelScope() as scope:
        scope.cancel()
        await baton.wait()
    baton.wake()
    with trio.CancelScope() as scope:
        scope.cancel()
        await baton.wait()
    await baton.wait()  # that wake was not lost
