"""Learning how many requests an engine takes at once."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from meshd.backends.capacity import MOST, RUNS, LearnedSlots


def settle(learned: LearnedSlots, rate: Callable[[int], float], rounds: int = 100) -> int:
    """Keep all slots in use; `rate(n)` is one stream's speed while n run."""
    for _ in range(rounds * RUNS):
        slots = learned.slots
        full = [learned.began() for _ in range(slots)]
        assert full == [False] * (slots - 1) + [True]
        for was_full in full:
            learned.ended(full=was_full, tokens_per_s=rate(slots))
    return learned.slots


def test_a_sequential_engine_stays_at_one() -> None:
    assert settle(LearnedSlots("mlx"), lambda n: 60.0 / n) == 1


def test_a_batching_engine_gets_as_many_as_pay() -> None:
    # Full speed for up to eight, then shared: the ninth brings nothing.
    assert settle(LearnedSlots("openai"), lambda n: 50.0 * min(1.0, 8 / n)) == 8


def test_an_engine_without_limit_stops_at_ours() -> None:
    assert settle(LearnedSlots("openai"), lambda n: 50.0) <= MOST


def test_busy_is_believed_at_once() -> None:
    learned = LearnedSlots("vllm")
    for _ in range(6):
        learned.began()
    learned.refused()
    assert learned.slots == 5
    for _ in range(5):
        learned.ended(full=True, tokens_per_s=50.0)
    assert learned.slots == 5


def test_runs_below_capacity_teach_nothing() -> None:
    learned = LearnedSlots("vllm")
    was = learned.slots
    for _ in range(100):
        learned.ended(full=learned.began(), tokens_per_s=50.0)
    assert learned.slots == was


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1000)), max_size=200))
def test_there_is_always_a_slot(steps: list[tuple[bool, float]]) -> None:
    learned = LearnedSlots("openai")
    for busy, rate in steps:
        full = learned.began()
        if busy:
            learned.refused()
        else:
            learned.ended(full=full, tokens_per_s=rate)
        assert 1 <= learned.slots <= MOST
