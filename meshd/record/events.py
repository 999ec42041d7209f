"""What an applied command brought about, for the rest of the node to act on.  Pure.

Events are told on every node, in the order of the log, also while a log is replayed after a start:
whoever acts on them must be able to see one twice.  They are no part of the state.
"""

from __future__ import annotations

import msgspec

from meshd.ids import NodeId
from meshd.record.commands_jobs import RunFields
from meshd.record.job_rows import JobRow, JobState


class Event(msgspec.Struct, frozen=True, gc=False):
    """What all have."""

    index: int
    """Of the command."""


class NodeAdmitted(Event, frozen=True):
    node: NodeId


class NodeChanged(Event, frozen=True):
    """Name, addresses, labels, region, priority, drained, vote or certificate."""

    node: NodeId


class NodeRemoved(Event, frozen=True):
    """Close its links now; what it had claimed is to be let go (`LetGo`)."""

    node: NodeId


class NodeStarted(Event, frozen=True):
    """A session is open for this start; that of an earlier one is over."""

    node: NodeId
    generation: int


class KeyringRotated(Event, frozen=True):
    """The gossip key is another one.  `author` has it, and hands it out."""

    generation: int
    gossip_key: int
    author: str
    """"" if the command was in no session."""


class CaChanged(Event, frozen=True):
    """Who holds the CA's key, or the key itself."""

    generation: int
    must_rotate: bool
    """A node that once held the key was removed: make a new one."""


class TokensChanged(Event, frozen=True):
    pass


class ApiKeysChanged(Event, frozen=True):
    pass


class AliasesChanged(Event, frozen=True):
    pass


class PoliciesChanged(Event, frozen=True):
    pass


class ClockMoved(Event, frozen=True):
    now_unix_ms: int


class ClockHeld(Event, frozen=True):
    """The nodes' clocks are more than `limits.CLOCK_STEP_S` ahead: a person has to look."""

    now_unix_ms: int
    wanted_unix_ms: int


class FeatureRaised(Event, frozen=True):
    version: int


class Traced(Event, frozen=True):
    """Rows for the history."""

    by: str
    rows: tuple[bytes, ...]
    left_out: int


# --- jobs


class JobQueued(Event, frozen=True):
    """New in its queue, or back in it."""

    job: int
    queue: str
    model: str
    """"" if it is for workers."""
    to_node: str
    """"" if any node may have it."""


class JobClaimed(Event, frozen=True):
    """The leader starts a timer for this fence."""

    job: int
    fence: int
    node: str
    lease_ms: int


class LeaseRenewed(Event, frozen=True):
    job: int
    fence: int
    lease_ms: int


class JobReturned(Event, frozen=True):
    """Whoever had it under this fence has it no more, and stops."""

    job: int
    fence: int


class JobFinished(Event, frozen=True):
    """A job is over: a row for the history.  One with its id may come again, if it is revived."""

    row: JobRow
    """As it was last; `claim` says who had it."""
    state: JobState
    finished_unix_ms: int
    reason: str
    status: int
    digest: bytes
    """Of the result."""
    size_bytes: int
    inline: bytes
    """The result itself, if it is small."""
    run_ms: int
    fence: int
    """Of the last claim, whoever has it stops; 0: there was none."""
    runs: tuple[RunFields, ...] = ()
    """On engines, where the answer took several."""


class JobForgotten(Event, frozen=True):
    """A dead job is kept no longer."""

    job: int


class NoticeDue(Event, frozen=True):
    """A job with a webhook is over: somebody has to tell it."""

    job: int
