"""Heaps beside the tables: what is valid comes out in order, what is void does not pile up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshd.record import schedule
from meshd.record.schedule import Heap


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5))), st.integers(0, 5))
def test_what_is_valid_comes_out_in_order(pushed: list[tuple[int, int]], void: int) -> None:
    heap: Heap[tuple[int, int]] = Heap(lambda entry: entry[1] != void, lambda: len(pushed))
    for entry in pushed:
        heap.push(entry)
    valid = sorted(entry for entry in pushed if entry[1] != void)
    assert heap.first() == (valid[0] if valid else None)
    out = []
    while (popped := heap.pop()) is not None:
        out.append(popped)
    assert out == valid


def test_void_entries_go_when_there_are_too_many() -> None:
    valid = set(range(10))
    heap: Heap[tuple[int]] = Heap(lambda entry: entry[0] in valid, lambda: len(valid))
    for number in range(10 * schedule._SLACK):
        heap.push((number,))
        assert len(heap._entries) <= 2 * len(valid) + schedule._SLACK + 1
    assert heap.valid_entries() == {(number,) for number in range(10)}
