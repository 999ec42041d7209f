"""What a row of records makes of a log.  Pure.

`Cursor` is the little of it that a writer needs, to refuse what cannot follow; `LogState` has the
entries as well, and is built when a journal is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from meshd.consensus.entries import Append, Ballot, Entry, Point, Rebase, Record, Truncate

START = Point(0, 0)
"""Before the first entry."""

NO_BALLOT = Ballot()


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a log stands: in the head of each segment, so that it can be read from there on."""

    ballot: Ballot = NO_BALLOT
    base: Point = START
    """The snapshot that stands for everything up to there."""
    last_index: int = 0
    """Of the last entry; that of the base if there is none."""

    def after(self, record: Record) -> Cursor:
        """Where it stands after that record.

        Raises ValueError for what no sound kernel writes: the last guard before a vote is given
        twice, or an entry is overwritten that a snapshot stands for.
        """
        match record:
            case Append(entries):
                last = self.last_index
                for entry in entries:
                    if entry.index != last + 1:
                        raise ValueError(f"entry {entry.index} does not follow entry {last}")
                    last = entry.index
                return replace(self, last_index=last)
            case Ballot(term, voted_for):
                now = self.ballot
                if term < now.term:
                    raise ValueError(f"term {term} is before term {now.term}")
                if term == now.term and now.voted_for not in (None, voted_for):
                    raise ValueError(
                        f"the vote of term {term} is {now.voted_for}'s, not {voted_for}'s"
                    )
                return replace(self, ballot=record)
            case Truncate(first_index):
                if not self.base.index < first_index <= self.last_index:
                    raise ValueError(
                        f"entry {first_index} cannot be taken away: there are those after "
                        f"{self.base.index} up to {self.last_index}"
                    )
                return replace(self, last_index=first_index - 1)
            case Rebase(point, keep_after):
                if point.index < self.base.index:
                    raise ValueError(f"{point} is before the snapshot of {self.base}")
                last = max(point.index, self.last_index) if keep_after else point.index
                return replace(self, base=point, last_index=last)


@dataclass(slots=True)
class LogState:
    """A log as a row of records leaves it, read from some cursor on."""

    cursor: Cursor
    entries: list[Entry] = field(default_factory=list)
    """The last ones, without gaps, up to the cursor's last."""

    def apply(self, record: Record) -> None:
        """Raises ValueError as `Cursor.after` does."""
        self.cursor = self.cursor.after(record)
        match record:
            case Append(entries):
                self.entries.extend(entries)
            case Truncate(first_index):
                self._keep_before(first_index)
            case Rebase(point, keep_after):
                if not keep_after:
                    self.entries.clear()
                elif self.entries:
                    del self.entries[: max(0, point.index + 1 - self.entries[0].index)]

    def _keep_before(self, index: int) -> None:
        if self.entries:
            del self.entries[max(0, index - self.entries[0].index) :]

    @property
    def missing(self) -> range:
        """Indexes of the entries that there are and that were not read: of earlier segments."""
        first = self.cursor.last_index + 1 - len(self.entries)
        return range(self.cursor.base.index + 1, first)
