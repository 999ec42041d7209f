"""What a node knows of its own past, and what came of asking the others (rollback.py).  Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec

from meshd.ids import NodeId


class History(msgspec.Struct, frozen=True):
    """What is known of starts of nodes, apart from the log: see rollback.py."""

    starts_known: int | None = None
    """The newest start of this node that is known beside its journal; None: it is not said there
    (a log that was begun anew)."""
    others: tuple[NodeId, ...] = ()
    """All other members: a sole voter asks them, and so does a node without a list of voters."""
    generation_of: Callable[[NodeId], int] = lambda node: 0
    """The newest start of a node that is on record here; 0: none."""


class Checked(StrEnum):
    """Whether others remember more of what this node promised than its journal holds."""

    PENDING = "pending"
    """Not known yet: it promises nothing."""
    PASSED = "passed"
    UNANSWERED = "unanswered"
    """A sole voter, and nobody was there to ask."""
    BEHIND = "behind"
    """They do: this journal must never be used again."""
