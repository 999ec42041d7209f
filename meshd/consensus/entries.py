"""What the replicated log is made of, and what of it must be on disk before anybody is told.

The kernel (which knows Raft and no disk) and the journal (which knows disks and no Raft) share
these and nothing else.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from meshd.ids import NodeId


class EntryKind(IntEnum):
    """What an entry is for.  The numbers are on disk and on the wire."""

    COMMAND = 0
    """For the state machine."""
    NOOP = 1
    """A new leader's first entry: it may commit only entries of its own term (Raft 5.4.2)."""
    VOTERS = 2
    """The whole list of voters from here on, in canonical msgpack."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One place in the log.  (index, term) names it: equal names mean equal logs up to there."""

    index: int
    """From 1 on, without gaps."""
    term: int
    kind: EntryKind
    data: bytes


class Ballot(msgspec.Struct, frozen=True):
    """What this node has promised; it must be on disk before the promise is spoken."""

    term: int = 0
    voted_for: NodeId | None = None
    """Who has this node's vote in `term`; None: nobody yet."""


class Point(msgspec.Struct, frozen=True, order=True):
    """A place in the log by name, as snapshots and consistency checks use it."""

    term: int
    index: int


class Append(msgspec.Struct, frozen=True):
    """These entries follow what is there."""

    entries: tuple[Entry, ...]


class Truncate(msgspec.Struct, frozen=True):
    """The entries from `first_index` on were never committed and conflict with the leader's."""

    first_index: int


class Rebase(msgspec.Struct, frozen=True):
    """A snapshot now stands for everything up to `point`; entries after it stay if they follow it.

    `keep_after` says whether the entries after `point` are kept (compaction of one's own log) or
    go as well (a snapshot of the leader's replaced a log that was behind or different).
    """

    point: Point
    keep_after: bool


Record = Ballot | Append | Truncate | Rebase
"""What the journal writes, in the order in which the kernel made them."""


class Snapshot(msgspec.Struct, frozen=True):
    """A durable state: that after `point`.  Where it is kept is known to who keeps it."""

    point: Point
    voters: tuple[NodeId, ...]
    """As of `point`, not as of now."""
    size_bytes: int
    """Of the state in the machine's own form, sessions included."""
    digest: bytes = b""
    """SHA-256 of the file, which is the same on every node that has this snapshot."""


class Stored(msgspec.Struct, frozen=True):
    """What a journal held when it was opened: where a kernel starts."""

    ballot: Ballot
    snapshot: Snapshot | None
    entries: tuple[Entry, ...]
    """Those after the snapshot's point (from index 1 on where there is no snapshot), no gaps."""
