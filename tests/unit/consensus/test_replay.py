"""What a row of records means."""

from __future__ import annotations

import pytest

from meshd.consensus.entries import (
    Append,
    Ballot,
    Entry,
    EntryKind,
    Point,
    Rebase,
    Snapshot,
    Stored,
    Truncate,
)
from meshd.consensus.replay import (
    EMPTY,
    START,
    RecordsDoNotFit,
    align,
    base_of,
    last_of,
    replay,
)
from meshd.ids import NodeId

A, B = NodeId("a" * 26), NodeId("b" * 26)


def entry(index: int, term: int) -> Entry:
    return Entry(index=index, term=term, kind=EntryKind.COMMAND, data=b"%d.%d" % (index, term))


def log(*terms: int) -> Stored:
    """A log whose entries have these terms, from index 1 on."""
    return replay(EMPTY, [Append(tuple(entry(i, t) for i, t in enumerate(terms, 1)))])


def snapshot(index: int, term: int) -> Snapshot:
    return Snapshot(point=Point(term, index), voters=(A,), size_bytes=5)


def test_an_empty_log_ends_at_the_start() -> None:
    assert (base_of(EMPTY), last_of(EMPTY)) == (START, START)


def test_records_take_effect_in_their_order() -> None:
    stored = replay(
        log(1, 1, 1),
        [Ballot(2, A), Truncate(2), Append((entry(2, 2), entry(3, 2))), Ballot(3, None)],
    )
    assert [(e.index, e.term) for e in stored.entries] == [(1, 1), (2, 2), (3, 2)]
    assert stored.ballot == Ballot(3, None)
    assert last_of(stored) == Point(2, 3)


def test_compaction_keeps_what_follows_the_snapshot() -> None:
    stored = replay(log(1, 1, 2), [Rebase(Point(1, 2), keep_after=True)], [snapshot(2, 1)])
    assert stored.snapshot == snapshot(2, 1)
    assert [e.index for e in stored.entries] == [3]
    assert replay(stored, [Append((entry(4, 2),))]).entries[-1].index == 4


def test_an_installed_snapshot_replaces_the_log() -> None:
    stored = replay(log(1, 1, 1), [Rebase(Point(2, 9), keep_after=False)], [snapshot(9, 2)])
    assert stored.entries == ()
    assert last_of(stored) == Point(2, 9)


@pytest.mark.parametrize(
    "record",
    [
        Append((entry(5, 1),)),  # a gap
        Append((entry(3, 1),)),  # there already
        Append((entry(4, 0),)),  # a term that falls
        Truncate(4),
        Truncate(0),
        Ballot(1, A),  # a term that falls
        Ballot(2, B),  # a second vote
        Ballot(2, None),  # a vote taken back
        Rebase(Point(1, 2), keep_after=True),  # of which there is no snapshot
        Rebase(Point(2, 3), keep_after=True),  # whose place the log does not hold
    ],
)
def test_a_record_that_does_not_follow_is_refused(record: object) -> None:
    stored = replay(log(1, 1, 1), [Ballot(2, A)])
    with pytest.raises(RecordsDoNotFit):
        replay(stored, [record], [snapshot(3, 2)])  # type: ignore[list-item]


def test_a_log_does_not_go_back_behind_its_snapshot() -> None:
    stored = replay(log(1, 1, 1), [Rebase(Point(1, 2), keep_after=True)], [snapshot(2, 1)])
    with pytest.raises(RecordsDoNotFit):
        replay(stored, [Rebase(Point(1, 1), keep_after=True)], [snapshot(1, 1)])


def test_a_snapshot_whose_rebase_was_lost_keeps_the_entries_that_follow_it() -> None:
    """Hazard H11: a crash between the snapshot and the cut must not cost the tail."""
    stored = align(log(1, 1, 2, 2), snapshot(2, 1))
    assert stored.snapshot == snapshot(2, 1)
    assert [e.index for e in stored.entries] == [3, 4]


def test_entries_that_conflict_with_a_snapshot_go() -> None:
    assert align(log(1, 1, 1, 1), snapshot(2, 2)).entries == ()


def test_a_log_older_than_the_snapshot_goes() -> None:
    assert align(log(1, 1), snapshot(9, 1)).entries == ()


def test_an_older_snapshot_changes_nothing() -> None:
    stored = replay(log(1, 1, 1), [Rebase(Point(1, 2), keep_after=True)], [snapshot(2, 1)])
    assert align(stored, snapshot(1, 1)) is stored
    assert align(stored, snapshot(2, 1)) is stored
