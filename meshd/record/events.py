"""What an applied command brought about, for the rest of the node to act on.  Pure.

Events are told on every node, in the order of the log, also while a log is replayed after a start:
whoever acts on them must be able to see one twice.  They are no part of the state.
"""

from __future__ import annotations

import msgspec

from meshd.ids import NodeId


class Event(msgspec.Struct, frozen=True, gc=False):
    """What all have."""

    index: int
    """Of the command."""


class NodeAdmitted(Event, frozen=True):
    node: NodeId


class NodeChanged(Event, frozen=True):
    """Name, addresses, labels, region, priority, drained or certificate."""

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
