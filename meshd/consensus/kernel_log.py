"""The log in memory: pysyncobj's Journal on one side, records for the disk on the other.  Pure.

pysyncobj wants rows (payload, index, term) in a list that is never empty; the payload's first byte
is the entry's kind, whose numbers are pysyncobj's own.  The first row here is the *floor*: an entry
that is committed and applied and is only there to be named as the one before the next.  In a new
log it is index 0 of term 0.

What was appended, cut and voted since the last `take_records` is kept in order.  `durable` is how
far the log is on disk: a leader counts itself for no more (kernel_stock.py).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, NamedTuple, NoReturn, overload

from meshd.consensus.entries import (
    Append,
    Ballot,
    Entry,
    EntryKind,
    Point,
    Rebase,
    Record,
    Snapshot,
    Stored,
    Truncate,
)
from meshd.consensus.interface import CoreStopped
from meshd.consensus.kernel_seams import Journal
from meshd.consensus.replay import base_of, last_of
from meshd.consensus.voter_list import parse_voters
from meshd.ids import NodeId

Row = tuple[bytes, int, int]
"""Payload, index, term."""

_KINDS = tuple(EntryKind)


class Compared(NamedTuple):
    """What rows from elsewhere are to this log."""

    fits: bool
    """The log holds the place that they follow."""
    at: int
    term: int
    """The last place known to be equal; if it does not fit, the one that does not."""
    rows: list[Row]
    """What comes after that place and is not in the log, or is there otherwise."""


class Log(Journal):  # type: ignore[misc]
    """One node's log, from its floor on."""

    is_kernel_log = True

    def __init__(self, stored: Stored) -> None:
        base = base_of(stored)
        self._rows: list[Row] = [(bytes([EntryKind.NOOP]), base.index, base.term)]
        self._ends: list[int] = [0]
        """Bytes of all payloads up to and with each row: a range's size is a subtraction."""
        self._base = base
        """Where the log on disk begins; in memory it may begin earlier."""
        self._floor_voters = stored.snapshot.voters if stored.snapshot is not None else ()
        self._lists: list[tuple[int, tuple[NodeId, ...]]] = []
        """Index and content of the lists of voters after the floor."""
        self._records: list[Record] = []
        self._fresh: list[Entry] = []
        """Appended, and not a record yet: neighbours become one."""
        self.committed = base.index
        """Nothing up to here is ever cut."""
        self.ballot = stored.ballot
        for entry in stored.entries:
            self._put(bytes([entry.kind]) + entry.data, entry.index, entry.term)
        self._durable = last_of(stored).index
        self._taken = self._durable

    # --- reading

    @property
    def floor(self) -> int:
        """The index before the first entry that can still be read."""
        return self._rows[0][1]

    @property
    def base(self) -> Point:
        return self._base

    @property
    def last(self) -> Point:
        _, index, term = self._rows[-1]
        return Point(term=term, index=index)

    @property
    def durable(self) -> int:
        """Entries up to here are on disk."""
        return self._durable

    def term_at(self, index: int) -> int | None:
        """The term of an entry; None for one behind the floor or after the end."""
        place = index - self._rows[0][1]
        return self._rows[place][2] if 0 <= place < len(self._rows) else None

    def rows(self, first: int, max_bytes: int, max_rows: int) -> list[Row]:
        """Rows from index `first` (above the floor), at least one if there is one."""
        place = first - self._rows[0][1]
        end = bisect_right(self._ends, self._ends[place - 1] + max_bytes, place)
        return self._rows[place : min(max(end, place + 1), place + max_rows)]

    def bytes_between(self, after: int, through: int) -> int:
        """Bytes of the payloads of the entries after the one, up to and with the other."""
        floor, end = self._rows[0][1], len(self._rows) - 1
        first, last = (min(max(0, index - floor), end) for index in (after, through))
        return max(0, self._ends[last] - self._ends[first])

    def compare(self, prev_index: int, prev_term: int, rows: list[Row]) -> Compared:
        """Find where `rows`, which follow that place elsewhere, begin to differ from this log.

        Up to the floor this log is committed, so that it is the same wherever it is committed.
        """
        if prev_index < self.floor:
            rows = [row for row in rows if row[1] > self.floor]
            prev_index, prev_term = self.floor, self._rows[0][2]
        if self.term_at(prev_index) != prev_term:
            return Compared(False, prev_index, prev_term, rows)
        equal = 0
        while equal < len(rows) and self.term_at(rows[equal][1]) == rows[equal][2]:
            equal += 1
        if equal:
            prev_index, prev_term = rows[equal - 1][1:]
        return Compared(True, prev_index, prev_term, rows[equal:])

    @property
    def voters(self) -> tuple[NodeId, ...]:
        """By the newest list in the log, committed or not (hazard H12)."""
        return self._lists[-1][1] if self._lists else self._floor_voters

    @property
    def voters_at_point(self) -> Point:
        """Where that list is, at the latest: one before the floor may be anywhere up to it."""
        index = self._lists[-1][0] if self._lists else self.floor
        return Point(term=self.term_at(index) or 0, index=index)

    def voters_at(self, index: int) -> tuple[NodeId, ...]:
        """Those of the newest list up to `index` (hazard H13)."""
        known = [voters for at, voters in self._lists if at <= index]
        return known[-1] if known else self._floor_voters

    def has_list_after(self, index: int) -> bool:
        return bool(self._lists) and self._lists[-1][0] > index

    def take_over(self, rows: list[Row]) -> None:
        """Committed entries from elsewhere: what is in their places goes, and they are appended."""
        if rows:
            self.deleteEntriesFrom(rows[0][1] - self.floor)
        for row in rows:
            self.add(*row)

    # --- pysyncobj's Journal

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: Any) -> Any:
        return self._rows[place]

    def add(self, payload: bytes, index: int, term: int) -> None:
        """Append.  (Stock calls it when it leads, and when it follows.)"""
        last = self._rows[-1]
        if index != last[1] + 1 or term < last[2]:
            raise CoreStopped(f"Entry {index} of term {term} cannot follow {last[1:]} in the log.")
        self._put(payload, index, term)
        self._fresh.append(Entry(index, term, _KINDS[payload[0]], payload[1:]))

    def deleteEntriesFrom(self, place: int) -> None:
        """Cut everything from this place in the list of rows on."""
        if place >= len(self._rows):
            return
        first = self._rows[0][1] + place
        if first <= self.committed:
            raise CoreStopped(
                f"Entries from {first} on were to be cut, but {self.committed} is committed."
            )
        del self._rows[place:]
        del self._ends[place:]
        while self._lists and self._lists[-1][0] >= first:
            self._lists.pop()
        self._durable = min(self._durable, first - 1)
        self._taken = min(self._taken, first - 1)
        self._flush()
        self._records.append(Truncate(first))

    def setCurrentTerm(self, term: int, voted_for: NodeId | None) -> None:
        ballot = Ballot(term=term, voted_for=voted_for)
        if ballot != self.ballot:
            self.ballot = ballot
            self._flush()
            self._records.append(ballot)

    def getCurrentTerm(self) -> int:
        return self.ballot.term

    def getVotedForNodeId(self) -> NodeId | None:
        return self.ballot.voted_for

    def setRaftCommitIndex(self, index: int) -> None:
        """Not stored: after a restart the leader says it, and until then nothing depends on it."""

    def getRaftCommitIndex(self) -> int:
        return self._base.index

    def onOneSecondTimer(self) -> None:
        """Nothing here is done by the clock."""

    def _destroy(self) -> None: ...

    def clear(self) -> NoReturn:
        raise CoreStopped("pysyncobj wanted to empty the log (hazard H11).")

    def deleteEntriesTo(self, place: int) -> NoReturn:
        raise CoreStopped("pysyncobj wanted to compact the log by itself (hazard H10).")

    # --- snapshots

    def compact(self, point: Point, floor: int) -> None:
        """The state after `point` is durable.  Keep rows above `floor` (at most `point`)."""
        self._raise_floor(min(floor, point.index))
        self._base = point
        self._flush()
        self._records.append(Rebase(point, keep_after=True))

    def install(self, snapshot: Snapshot) -> None:
        """A leader's snapshot stands for everything up to its point.

        What follows stays if the log holds that very place; otherwise it conflicts with what is
        committed, or is older.
        """
        point = snapshot.point
        keeps = self.term_at(point.index) == point.term
        if keeps:
            self._raise_floor(point.index)
        else:
            self._rows = [(bytes([EntryKind.NOOP]), point.index, point.term)]
            self._ends = [0]
            self._lists = []
            self._durable = self._taken = 0
        self._floor_voters = snapshot.voters
        self._base = point
        self.committed = max(self.committed, point.index)
        self._flush()
        self._records.append(Rebase(point, keep_after=keeps))

    # --- for the disk

    def take_records(self) -> tuple[Record, ...]:
        """What happened since the last call, in order."""
        self._flush()
        records, self._records = tuple(self._records), []
        self._taken = self.last.index
        return records

    @property
    def has_records(self) -> bool:
        """Whether something happened that was not taken yet."""
        return bool(self._records or self._fresh)

    def stored(self) -> None:
        """What was taken last is on disk."""
        self._durable = max(self._durable, self._taken)

    def _flush(self) -> None:
        if self._fresh:
            self._records.append(Append(tuple(self._fresh)))
            self._fresh = []

    def _put(self, payload: bytes, index: int, term: int) -> None:
        self._rows.append((payload, index, term))
        self._ends.append(self._ends[-1] + len(payload))
        if payload[0] == EntryKind.VOTERS:
            self._lists.append((index, parse_voters(payload[1:])))

    def _raise_floor(self, index: int) -> None:
        place = index - self._rows[0][1]
        if place > 0:
            self._floor_voters = self.voters_at(index)
            self._lists = [(at, voters) for at, voters in self._lists if at > index]
            del self._rows[:place]
            del self._ends[:place]
