"""When leases end, by the leader's own clock.  Pure.

A lease ends only by a committed `Expire`, which the leader proposes.  The record has no clock that
could be trusted with seconds, so the leader counts from the moment at which *it* applied the claim
or its renewal; a new leader counts each from the beginning, which can only make a lease longer.
That an `Expire` was proposed ends nothing: it may be refused, or lost.  So a lease that is over is
due again and again, until the record says that its claim has ended.
Whoever holds a job stops by itself at `HOLDER_STOPS_AT` of the lease without a renewal, counted
from when it asked for that (DESIGN.md, "Who counts time"; Gray and Cheriton, Leases, SOSP 1989).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Final

from meshd import limits
from meshd.record.events import Event, JobClaimed, JobFinished, JobReturned, LeaseRenewed
from meshd.record.job_rows import JobRow

HOLDER_STOPS_AT: Final = 0.7
AGAIN_S: Final = limits.PROPOSE_S
"""After this a lease whose end was proposed is due again: one proposal has its outcome by then."""


class Leases:
    """All leases that are running."""

    def __init__(self) -> None:
        self._ends: dict[int, tuple[int, float]] = {}
        """By job: its fence, and when its end is to be proposed."""
        self._heap: list[tuple[float, int, int]] = []
        """(when, job, fence), also of those that were moved meanwhile."""

    def __len__(self) -> int:
        return len(self._ends)

    def begin(self, rows: Iterable[JobRow], now: float) -> None:
        """This node leads from now on: each lease of the claimed jobs is counted from now."""
        self._ends.clear()
        self._heap.clear()
        for row in rows:
            if row.claim is not None:
                self._set(row.id, row.claim.fence, now + row.claim.lease_ms / 1000)

    def happened(self, event: Event, now: float) -> None:
        """Something was applied at `now`."""
        match event:
            case JobClaimed(job=job, fence=fence, lease_ms=lease_ms):
                self._set(job, fence, now + lease_ms / 1000)
            case LeaseRenewed(job=job, fence=fence, lease_ms=lease_ms):
                self._set(job, fence, now + lease_ms / 1000)
            case JobReturned(job=job):
                self._ends.pop(job, None)
            case JobFinished(row=row):
                self._ends.pop(row.id, None)

    def due(self, now: float) -> Iterator[tuple[int, int]]:
        """(job, fence) of the leases that are over, the first one first.

        Each is due again `AGAIN_S` after `now`, unless something new is told of it before.  What is
        told between two of them counts: one that was renewed meanwhile is not given.
        """
        while self._heap and self._heap[0][0] <= now:
            at, job, fence = heapq.heappop(self._heap)
            if self._ends.get(job) == (fence, at):
                self._set(job, fence, now + AGAIN_S)
                yield job, fence

    def next_due_at(self) -> float | None:
        """When the next one is due, if nothing is told of it before."""
        while self._heap:
            at, job, fence = self._heap[0]
            if self._ends.get(job) == (fence, at):
                return at
            heapq.heappop(self._heap)
        return None

    def _set(self, job: int, fence: int, at: float) -> None:
        self._ends[job] = (fence, at)
        heapq.heappush(self._heap, (at, job, fence))
        if len(self._heap) > 2 * len(self._ends) + 64:  # renewals leave old entries behind
            self._heap = [(at, job, fence) for job, (fence, at) in self._ends.items()]
            heapq.heapify(self._heap)
