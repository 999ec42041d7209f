"""The next deadline among many, most of which never come.  Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Iterator

_SLACK = 1024


class Deadlines:
    """A heap of (when, id).  Ids that are not open any more are dropped when they come up."""

    def __init__(self, open_ids: Container[int]) -> None:
        self._open = open_ids
        self._heap: list[tuple[float, int]] = []
        self._tidy_at = _SLACK

    def add(self, at: float, id_: int) -> None:
        heapq.heappush(self._heap, (at, id_))
        if len(self._heap) > self._tidy_at:
            self._heap = [item for item in self._heap if item[1] in self._open]
            heapq.heapify(self._heap)
            self._tidy_at = 2 * len(self._heap) + _SLACK

    @property
    def next_at(self) -> float:
        while self._heap and self._heap[0][1] not in self._open:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> Iterator[int]:
        """Ids whose time has come, each once."""
        while self.next_at <= now:
            yield heapq.heappop(self._heap)[1]
