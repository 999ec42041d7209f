"""The order of tasks follows from a seed, as long as trio has the knobs that it has today."""

from __future__ import annotations

import random

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from meshd.testing.schedule import Trace, seeded_schedule


def order(seed: int) -> list[int]:
    """In which order ten tasks go, over and over."""
    went: list[int] = []

    async def task(number: int) -> None:
        for _ in range(5):
            await trio.sleep(0.1)
            went.append(number)

    async def main() -> None:
        with seeded_schedule(seed):
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(task, number)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return went


def test_the_same_seed_gives_the_same_order_and_another_one_another() -> None:
    first = order(1)
    assert len(first) == 50
    for _ in range(5):
        random.random()
        assert order(1) == first
    assert len({tuple(order(seed)) for seed in range(10)}) == 10


def test_the_knobs_are_as_they_were_afterwards() -> None:
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()
    with seeded_schedule(3):
        trio_run._r.random()
    assert (trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()) == before


async def test_a_trace_is_what_happened_when_and_in_which_order(
    autojump_clock: MockClock,
) -> None:
    async def traced(*events: tuple[float, str, bytes]) -> str:
        trace, start = Trace(), trio.current_time()
        trace.lines = []
        for at, what, data in events:
            await trio.sleep_until(start + at)
            trace.note(what, data)
        assert trace.events == len(trace.lines) == len(events)
        return trace.digest

    digests = [
        await traced((0, "a", b"x"), (0, "b", b"")),
        await traced((0, "b", b""), (0, "a", b"x")),
        await traced((0, "a", b"y"), (0, "b", b"")),
        await traced((0, "a", b"x")),
    ]
    assert len(set(digests)) == 4
