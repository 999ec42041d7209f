"""Intervals in as few rows as they need.  Pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def pack(intervals: Sequence[tuple[float, float]]) -> list[int]:
    """A row for each, the lowest that is free; none overlap in their row.

    They are taken in the order of their beginnings, whatever order they are given in.
    """
    rows = [0] * len(intervals)
    busy: list[tuple[float, int]] = []  # until when, which row
    free: list[int] = []
    for number in sorted(range(len(intervals)), key=lambda n: (intervals[n], n)):
        begin, end = intervals[number]
        while busy and busy[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        row = heapq.heappop(free) if free else len(busy)
        rows[number] = row
        heapq.heappush(busy, (max(begin, end), row))
    return rows
