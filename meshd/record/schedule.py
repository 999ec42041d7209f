"""What is due when, and what comes first: heaps beside the tables.  Pure.

These are indexes: made of the tables when a state is restored, and no part of it.  Entries are
never taken out when they become void; whoever reads one looks into the table whether it still
holds.  What comes out depends on the valid entries alone, in their own order, so two nodes that
came to one state on different ways draw the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

E = TypeVar("E", bound=tuple[object, ...])

_SLACK = 1024


class Heap(Generic[E]):
    """The smallest valid entry first."""

    __slots__ = ("_entries", "_size", "_valid")

    def __init__(self, valid: Callable[[E], bool], size: Callable[[], int]) -> None:
        """`size` says about how many entries can be valid: when far more are here, void ones go."""
        self._entries: list[E] = []
        self._valid = valid
        self._size = size

    def push(self, entry: E) -> None:
        entries = self._entries
        heapq.heappush(entries, entry)
        if len(entries) > 2 * self._size() + _SLACK:
            entries[:] = list({entry for entry in entries if self._valid(entry)})
            heapq.heapify(entries)

    def first(self) -> E | None:
        """The smallest valid one; it stays."""
        entries = self._entries
        while entries:
            if self._valid(entries[0]):
                return entries[0]
            heapq.heappop(entries)
        return None

    def pop(self) -> E | None:
        """The smallest valid one; it goes."""
        entry = self.first()
        if entry is not None:
            heapq.heappop(self._entries)
        return entry

    def valid_entries(self) -> set[E]:
        """All that are valid, for checks."""
        return {entry for entry in self._entries if self._valid(entry)}
