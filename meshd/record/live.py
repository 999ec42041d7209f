"""The jobs that live, and all the ways in which they are looked for.  Pure.

The tables of jobs and of the dead are the state; everything else here is an index over them, made
anew when a state is restored, and held to them by `check`.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from meshd import limits
from meshd.record.job_rows import JobRow, JobState
from meshd.record.schedule import Heap
from meshd.record.table import Table

Lane: TypeAlias = tuple[str, str, str]
"""Jobs that the same may claim: (queue, "", node) for workers, ("", model, node) for the mesh's
own; node is "" where any may."""
Rank: TypeAlias = tuple[int, int]
"""(-priority, id): the first comes first."""


def lane_of(row: JobRow) -> Lane:
    model = row.request.model
    return ("", model, row.to_node) if model else (row.queue, "", row.to_node)


def rank_of(row: JobRow) -> Rank:
    return (-row.priority, row.id)


class LiveJobs:
    """Adds, changes and takes out rows; the indexes follow."""

    def __init__(self, table: Table[int, JobRow], now_unix_ms: int) -> None:
        self._table = table
        self._now_unix_ms = now_unix_ms
        self._ids: list[int] = []
        """In order; those that are over go now and then."""
        self._ready: dict[Lane, Heap[Rank]] = {}
        self._later: Heap[tuple[int, int]] = Heap(self._is_later, self._queued_count)
        """(not before, id) of those that were not ready when they were queued."""
        self._deadlines: Heap[tuple[int, int]] = Heap(self._has_deadline, self._queued_count)
        self._dedupe: dict[tuple[str, str], int] = {}
        self._in_queue: dict[str, int] = defaultdict(int)
        """How many jobs of each queue live, claimed ones too."""
        self._claimed_by: dict[str, set[int]] = defaultdict(set)
        self._meant_for: dict[str, set[int]] = defaultdict(set)
        self._queued = 0
        self.webhooks = 0
        """How many jobs have one."""

    def indexing(self) -> Iterator[None]:
        """Make the indexes of a table that was restored; one row an item."""
        self._ids = sorted(row.id for row in self._table.each())
        for row in self._table.each():
            self._index(row)
            yield

    def __len__(self) -> int:
        return len(self._table)

    @property
    def queued(self) -> int:
        return self._queued

    # --- changes

    def add(self, row: JobRow) -> None:
        self._table.put(row)
        self._index(row)

    def change(self, row: JobRow) -> None:
        """Put another row in place of the one with that id."""
        self._unindex(self._table[row.id])
        self._table.put(row)
        self._index(row, known=True)

    def drop(self, job: int) -> JobRow:
        row = self._table.drop(job)
        self._unindex(row)
        count = self._in_queue[row.queue] - 1
        self._in_queue[row.queue] = count
        if not count:
            del self._in_queue[row.queue]
        self.webhooks -= bool(row.webhook)
        if row.dedupe:
            del self._dedupe[row.queue, row.dedupe]
        if row.to_node:
            _discard(self._meant_for, row.to_node, job)
        return row

    def advance(self, now_unix_ms: int) -> None:
        """The record clock has moved: what was not to run before now is ready."""
        self._now_unix_ms = now_unix_ms
        while (entry := self._later.first()) is not None and entry[0] <= now_unix_ms:
            self._later.pop()
            self._make_ready(self._table[entry[1]])

    # --- questions

    def get(self, job: int) -> JobRow | None:
        return self._table.get(job)

    def by_dedupe(self, queue: str, dedupe: str) -> JobRow | None:
        job = self._dedupe.get((queue, dedupe)) if dedupe else None
        return None if job is None else self._table[job]

    def queues(self) -> dict[str, int]:
        """How many jobs live in each queue, in the order of their names."""
        return {name: count for name, count in sorted(self._in_queue.items()) if name}

    def has_queue(self, queue: str) -> bool:
        return queue in self._in_queue

    def queue_count(self) -> int:
        return len(self._in_queue) - ("" in self._in_queue)

    def best(self, lanes: Iterable[Lane]) -> JobRow | None:
        """The first of these lanes' ready jobs: by priority, then by age."""
        ranks = [
            rank
            for lane in lanes
            if (heap := self._ready.get(lane)) is not None
            and (rank := self._first(lane, heap)) is not None
        ]
        return self._table[min(ranks)[1]] if ranks else None

    def overdue(self, now_unix_ms: int) -> JobRow | None:
        """A queued job whose deadline has passed: the first."""
        entry = self._deadlines.first()
        return self._table[entry[1]] if entry is not None and entry[0] <= now_unix_ms else None

    def claimed_by(self, node: str) -> set[int]:
        return self._claimed_by.get(node, set())

    def meant_for(self, node: str) -> set[int]:
        return self._meant_for.get(node, set())

    def claims(self) -> list[JobRow]:
        """All claimed jobs, in order: what a new leader starts its timers for."""
        jobs = sorted(job for held in self._claimed_by.values() for job in held)
        return [self._table[job] for job in jobs]

    def page(self, after: int, most: int, where: Callable[[JobRow], bool]) -> Iterator[JobRow]:
        """The jobs with ids above `after` that are such, in order."""
        found = 0
        for at in range(bisect.bisect_right(self._ids, after), len(self._ids)):
            row = self._table.get(self._ids[at])
            if row is not None and where(row):
                yield row
                found += 1
                if found >= most:
                    return

    def next_due_unix_ms(self) -> int | None:
        """When the record clock has to move on for a job to become ready, or late."""
        due = [entry[0] for heap in (self._later, self._deadlines) if (entry := heap.first())]
        return min(due, default=None)

    # --- inside

    def _index(self, row: JobRow, *, known: bool = False) -> None:
        if not known:
            self._in_queue[row.queue] += 1
            self.webhooks += bool(row.webhook)
            if row.dedupe:
                self._dedupe[row.queue, row.dedupe] = row.id
            if row.to_node:
                self._meant_for[row.to_node].add(row.id)
            self._remember(row.id)
        match row.state:
            case JobState.CLAIMED:
                assert row.claim is not None
                self._claimed_by[row.claim.node].add(row.id)
            case JobState.QUEUED:
                self._queued += 1
                if row.deadline_unix_ms:
                    self._deadlines.push((row.deadline_unix_ms, row.id))
                if row.not_before_unix_ms > self._now_unix_ms:
                    self._later.push((row.not_before_unix_ms, row.id))
                else:
                    self._make_ready(row)

    def _unindex(self, row: JobRow) -> None:
        if row.claim is not None:
            _discard(self._claimed_by, row.claim.node, row.id)
        elif row.queue:
            self._queued -= 1

    def _make_ready(self, row: JobRow) -> None:
        lane = lane_of(row)
        heap = self._ready.get(lane)
        if heap is None:
            heap = self._ready[lane] = Heap(self._is_ready, self._queued_count)
        heap.push(rank_of(row))

    def _first(self, lane: Lane, heap: Heap[Rank]) -> Rank | None:
        rank = heap.first()
        if rank is None:
            del self._ready[lane]
        return rank

    def _remember(self, job: int) -> None:
        ids = self._ids
        if len(ids) > 2 * len(self._table) + 1024:
            ids[:] = [known for known in ids if known in self._table]
        at = bisect.bisect_left(ids, job)
        if at == len(ids) or ids[at] != job:
            ids.insert(at, job)  # nearly always at the end: only a revived job is older

    def _queued_count(self) -> int:
        return self._queued

    def _is_ready(self, rank: Rank) -> bool:
        row = self._table.get(rank[1])
        return (
            row is not None
            and row.state is JobState.QUEUED
            and row.not_before_unix_ms <= self._now_unix_ms
        )

    def _is_later(self, entry: tuple[int, int]) -> bool:
        row = self._table.get(entry[1])
        return (
            row is not None and row.state is JobState.QUEUED and row.not_before_unix_ms == entry[0]
        )

    def _has_deadline(self, entry: tuple[int, int]) -> bool:
        row = self._table.get(entry[1])
        return row is not None and row.state is JobState.QUEUED and row.deadline_unix_ms == entry[0]

    def check(self) -> None:
        """Raise AssertionError if an index and the table differ, or a bound is broken."""
        rows = self._table.rows()
        assert len(rows) <= limits.JOBS_LIVE
        queued = [row for row in rows if row.state is JobState.QUEUED]
        assert self._queued == len(queued)
        ready, later = set(), set()
        for row in queued:
            if row.not_before_unix_ms <= self._now_unix_ms:
                ready.add((lane_of(row), rank_of(row)))
            else:
                later.add((row.not_before_unix_ms, row.id))
        lanes = self._ready.items()
        assert ready == {(lane, rank) for lane, heap in lanes for rank in heap.valid_entries()}
        assert later == self._later.valid_entries()
        assert self._deadlines.valid_entries() == {
            (row.deadline_unix_ms, row.id) for row in queued if row.deadline_unix_ms
        }
        claimed: dict[str, set[int]] = defaultdict(set)
        meant: dict[str, set[int]] = defaultdict(set)
        counts: dict[str, int] = defaultdict(int)
        for row in rows:
            assert row.claim is None or row.tries < row.max_attempts
            counts[row.queue] += 1
            if row.claim is not None:
                claimed[row.claim.node].add(row.id)
            if row.to_node:
                meant[row.to_node].add(row.id)
        assert claimed == self._claimed_by
        assert meant == self._meant_for
        assert counts == self._in_queue
        assert self.webhooks == sum(bool(row.webhook) for row in rows)
        assert self._dedupe == {(row.queue, row.dedupe): row.id for row in rows if row.dedupe}
        assert [job for job in self._ids if job in self._table] == [row.id for row in rows]


def _discard(index: dict[str, set[int]], node: str, job: int) -> None:
    index[node].discard(job)
    if not index[node]:
        del index[node]
