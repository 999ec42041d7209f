"""What a log is after a row of records: the one meaning that journal and kernel share.  Pure.

The journal replays what it finds on disk; tests and simulations replay what a disk would hold.
Whatever reads records in any other way is wrong.

The order on disk is that of the records, and a snapshot is durable *before* the `Rebase` that
names it.  So a crash can leave a snapshot that no `Rebase` speaks of yet: `align` takes it up.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from meshd.consensus.entries import (
    Append,
    Ballot,
    Entry,
    Point,
    Rebase,
    Record,
    Snapshot,
    Stored,
    Truncate,
)
from meshd.errors import MeshdError

EMPTY = Stored(ballot=Ballot(), snapshot=None, entries=())
"""A log in which nothing was ever written: where a node that joins starts."""

START = Point(term=0, index=0)
"""The place before the first entry."""


class RecordsDoNotFit(MeshdError):
    """A record that cannot follow what is there: records are missing, doubled or another log's."""


def base_of(stored: Stored) -> Point:
    """The place that the entries of `stored` follow."""
    return stored.snapshot.point if stored.snapshot is not None else START


def last_of(stored: Stored) -> Point:
    """The end of the log."""
    if stored.entries:
        return Point(term=stored.entries[-1].term, index=stored.entries[-1].index)
    return base_of(stored)


def replay(stored: Stored, records: Iterable[Record], snapshots: Iterable[Snapshot] = ()) -> Stored:
    """What the log is when `records` were made durable after `stored`.

    `snapshots` are the durable ones that a `Rebase` among the records may name (that of `stored`
    need not be given again).  Raises RecordsDoNotFit, naming the record, when one does not follow.
    """
    known = {snapshot.point: snapshot for snapshot in snapshots}
    if stored.snapshot is not None:
        known[stored.snapshot.point] = stored.snapshot
    ballot, snapshot = stored.ballot, stored.snapshot
    base = base_of(stored)
    entries = list(stored.entries)
    for record in records:
        if isinstance(record, Ballot):
            _require_newer(ballot, record)
            ballot = record
        elif isinstance(record, Append):
            for entry in record.entries:
                _require_follows(entry, entries[-1] if entries else None, base)
                entries.append(entry)
        elif isinstance(record, Truncate):
            last = base.index + len(entries)
            if not base.index < record.first_index <= last:
                raise RecordsDoNotFit(
                    f"Entries from {record.first_index} on are to be cut, but the log has those"
                    f" from {base.index + 1} to {last}."
                )
            del entries[record.first_index - base.index - 1 :]
        else:
            if record.point not in known:
                raise RecordsDoNotFit(
                    f"The log is to start after {_name(record.point)}, but there is no snapshot"
                    " of that place."
                )
            entries = _entries_after(record, base, entries)
            snapshot, base = known[record.point], record.point
    return Stored(ballot=ballot, snapshot=snapshot, entries=tuple(entries))


def align(stored: Stored, snapshot: Snapshot) -> Stored:
    """The log with the newest durable snapshot as its base, whatever `Rebase` got lost in a crash.

    Entries after the snapshot stay if the log holds the snapshot's own last entry by index *and*
    term.  Otherwise the log is either older than the snapshot, or conflicts with it, and what
    conflicts with a snapshot (which holds only what is committed) was never committed.  A snapshot
    older than the log's base changes nothing.
    """
    base = base_of(stored)
    if snapshot.point.index <= base.index:
        return stored
    place = snapshot.point.index - base.index - 1
    same = place < len(stored.entries) and stored.entries[place].term == snapshot.point.term
    kept = stored.entries[place + 1 :] if same else ()
    return msgspec.structs.replace(stored, snapshot=snapshot, entries=kept)


def _require_newer(old: Ballot, new: Ballot) -> None:
    """A term never falls, and the vote of a term never changes: that would be voting twice."""
    changed = new.term == old.term and old.voted_for not in (None, new.voted_for)
    if new.term < old.term or changed:
        raise RecordsDoNotFit(
            f"The vote of term {new.term} for {new.voted_for} cannot follow that of term"
            f" {old.term} for {old.voted_for}."
        )


def _require_follows(entry: Entry, before: Entry | None, base: Point) -> None:
    index, term = (base.index, base.term) if before is None else (before.index, before.term)
    if entry.index != index + 1 or entry.term < term:
        raise RecordsDoNotFit(
            f"Entry {_name(Point(entry.term, entry.index))} cannot follow"
            f" {_name(Point(term, index))}."
        )


def _entries_after(rebase: Rebase, base: Point, entries: list[Entry]) -> list[Entry]:
    """Those that stay when the log starts after `rebase.point`."""
    if rebase.point.index < base.index:
        raise RecordsDoNotFit(
            f"The log starts after {_name(base)} and cannot go back to {_name(rebase.point)}."
        )
    if not rebase.keep_after:
        return []
    if rebase.point == base:
        return entries
    place = rebase.point.index - base.index - 1
    if place >= len(entries) or entries[place].term != rebase.point.term:
        raise RecordsDoNotFit(
            f"Entries after {_name(rebase.point)} are to stay, but the log does not hold that"
            " place."
        )
    return entries[place + 1 :]


def _name(point: Point) -> str:
    return f"{point.index} of term {point.term}"
