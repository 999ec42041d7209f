"""The log in memory, against the plainest log there is, and against what its records come to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.consensus.entries import EntryKind, Point, Snapshot
from meshd.consensus.interface import CoreStopped
from meshd.consensus.kernel_log import Log
from meshd.consensus.replay import EMPTY, base_of, replay
from meshd.consensus.voter_list import pack_voters
from meshd.ids import NodeId

LISTS = [tuple(NodeId(name * 26) for name in names) for names in ("a", "ab", "abc", "bcd")]

acts = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 2), st.binary(max_size=30)),
    st.tuples(st.just("voters"), st.integers(0, 2), st.sampled_from(LISTS)),
    st.tuples(st.just("cut"), st.integers(1, 6)),
    st.tuples(st.just("compact"), st.integers(0, 8), st.integers(0, 5)),
    st.tuples(st.just("install"), st.integers(1, 8), st.booleans(), st.sampled_from(LISTS)),
    st.tuples(st.just("ballot"), st.integers(0, 2)),
    st.tuples(st.just("sync")),
)


class Plain:
    """Every entry that ever was and was not cut, by index; a snapshot hides none of them."""

    def __init__(self) -> None:
        self.entries: dict[int, tuple[bytes, int]] = {}
        self.floor = Point(0, 0)
        self.floor_voters: tuple[NodeId, ...] = ()

    @property
    def last(self) -> Point:
        if not self.entries:
            return self.floor
        index = max(self.entries)
        return Point(self.entries[index][1], index)

    def voters_at(self, index: int) -> tuple[NodeId, ...]:
        found = self.floor_voters
        for at in sorted(self.entries):
            payload, _ = self.entries[at]
            if at <= index and payload[0] == EntryKind.VOTERS:
                found = next(voters for voters in LISTS if pack_voters(voters) == payload[1:])
        return found


@given(st.lists(acts, max_size=40))
def test_the_log_is_the_plain_log_and_what_its_records_say(wishes: list[tuple[Any, ...]]) -> None:
    log, plain, stored = Log(EMPTY), Plain(), EMPTY
    snapshots: list[Snapshot] = []
    term = 1
    for kind, *rest in wishes:
        if kind in ("add", "voters"):
            term += rest[0]
            payload = (
                b"\0" + rest[1]
                if kind == "add"
                else bytes([EntryKind.VOTERS]) + pack_voters(rest[1])
            )
            index = log.last.index + 1
            log.add(payload, index, term)
            plain.entries[index] = (payload, term)
        elif kind == "cut":
            first = max(log.committed + 1, log.floor + 1, log.last.index + 1 - rest[0])
            log.deleteEntriesFrom(first - log.floor)
            plain.entries = {i: e for i, e in plain.entries.items() if i < first}
        elif kind == "compact":
            index = log.base.index + rest[0]
            if log.base.index < index <= log.last.index:
                point = Point(log.term_at(index) or 0, index)
                log.committed = max(log.committed, index)
                snapshots.append(Snapshot(point, log.voters_at(index), 0))
                log.compact(point, max(log.floor, index - rest[1]))
        elif kind == "install":
            index = max(log.committed, log.base.index) + rest[0]
            held = log.term_at(index)
            term += held != term or rest[1]
            point = Point(held if held is not None and rest[1] else term, index)
            snapshot = Snapshot(point, rest[2], 0)
            snapshots.append(snapshot)
            keeps = held == point.term
            log.install(snapshot)
            plain.entries = {i: e for i, e in plain.entries.items() if keeps and i > index}
            plain.floor, plain.floor_voters = point, rest[2]
        elif kind == "ballot":
            term += rest[0]
            log.setCurrentTerm(term, None)
        else:
            stored = replay(stored, log.take_records(), snapshots)
            log.stored()
            assert log.durable == log.last.index
        check(log, plain)
    stored = replay(stored, log.take_records(), snapshots)
    assert [(e.index, e.term) for e in stored.entries] == [
        (index, at) for _, index, at in log[:] if index > log.base.index
    ]
    assert base_of(stored) == log.base
    again = Log(stored)
    assert again.last == log.last
    assert again.voters == log.voters


def check(log: Log, plain: Plain) -> None:
    assert log.last == plain.last
    assert log.voters == plain.voters_at(log.last.index)
    indexes = range(log.floor + 1, log.last.index + 1)
    for index in indexes:
        payload, term = plain.entries[index]
        assert log.term_at(index) == term
        [row] = log.rows(index, 0, 1)
        assert row == (payload, index, term)
    assert log.term_at(log.last.index + 1) is None
    assert log.term_at(log.floor - 1) is None
    assert log.bytes_between(log.floor, log.last.index) == sum(
        len(plain.entries[index][0]) for index in indexes
    )
    assert log.durable <= log.last.index


@pytest.mark.parametrize(("index", "term"), [(1, 1), (3, 1), (2, 0)])
def test_an_entry_that_does_not_follow_stops_the_core(index: int, term: int) -> None:
    log = Log(EMPTY)
    log.add(b"\0", 1, 1)
    with pytest.raises(CoreStopped):
        log.add(b"\0", index, term)


def test_what_is_committed_is_never_cut() -> None:
    log = Log(EMPTY)
    log.add(b"\0", 1, 1)
    log.committed = 1
    with pytest.raises(CoreStopped, match="committed"):
        log.deleteEntriesFrom(1)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20), st.integers(0, 60))
def test_a_batch_is_as_large_as_allowed_and_never_empty(sizes: list[int], limit: int) -> None:
    log = Log(EMPTY)
    for index, size in enumerate(sizes, 1):
        log.add(b"\0" * (size + 1), index, 1)
    rows = log.rows(1, limit, 100)
    total = sum(len(payload) for payload, _, _ in rows)
    assert rows
    assert total <= limit or len(rows) == 1
    if len(rows) < len(sizes):
        assert total + sizes[len(rows)] + 1 > limit
