"""What a reducer knows besides its tables and the command.  Pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from meshd.record.events import Event


class Context(msgspec.Struct, frozen=True, gc=False):
    """One command's surroundings, the same at every node."""

    index: int
    """Its place in the log.  Fences and ids of jobs are made of it."""
    client: str
    """The node that sent it, as its entry voter knows it from the link; "" for none."""
    now_unix_ms: int
    """The record clock before this command."""
    emit: Callable[[Event], None]
