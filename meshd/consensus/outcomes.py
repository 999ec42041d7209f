"""What comes of a command that was proposed, or of a read that was asked for.  Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Why(StrEnum):
    """Why something was refused, or is not known."""

    QUEUE_FULL = "queue_full"
    NO_LEADER = "no_leader"
    """No leader was found in time, and the command was not sent to any."""
    NOT_LEADER = "not_leader"
    OVERWRITTEN = "overwritten"
    """A leader lost its office before it was committed, and another command stands in its place."""
    DENIED = "denied"
    """A change of voters that may not be made now, or a command that the leader's state machine
    does not know; the text says why, where it was this node that refused it."""
    TIMED_OUT = "timed_out"
    LEADER_LOST = "leader_lost"
    """The leader that was asked is gone and did not answer."""
    SKIPPED = "skipped"
    """A snapshot stands for its place now, and what was in that place is not known."""


class Committed(msgspec.Struct, frozen=True):
    """It is in the log for good, and applied here."""

    id: int
    index: int
    result: bytes
    """What the state machine said; empty for a change of voters."""


class Refused(msgspec.Struct, frozen=True):
    """It is not in the log and never will be; a read was not answered."""

    id: int
    why: Why
    text: str = ""


class Unknown(msgspec.Struct, frozen=True):
    """Nobody knows: it may be in the log, come into it yet, or never.  Repeat it by its session."""

    id: int
    why: Why


class Readable(msgspec.Struct, frozen=True):
    """The state here, as it is now, holds all that was acknowledged before the read was asked."""

    id: int
    index: int


Outcome = Committed | Refused | Unknown | Readable
