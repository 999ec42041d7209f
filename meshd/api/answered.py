"""How a request went, told by those who answer it.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from meshd.ids import NodeId
from meshd.jobs.finished import Attempt
from meshd.relay.runs import Run


class Answered(msgspec.Struct, frozen=True, gc=False):
    """How a request went."""

    began_at: float
    status: int
    """Of the answer's head; 499: the client went away before there was one."""
    failure: str
    """A `FailureKind`; "": the client has the whole answer."""
    first_at: float | None
    """When the first piece of the answer came."""
    node: NodeId | None
    """Who was asked last."""
    runs: tuple[Run, ...]
    """Who was asked, and how each run went; if there is an answer, the last one brought it."""
    prompt_tokens: int
    completion_tokens: int


def attempts_of(runs: Sequence[Run]) -> tuple[Attempt, ...]:
    """The same, as the histories have it."""
    return tuple(Attempt(run.node, run.failure, run.way) for run in runs)


Ending = Callable[[Sequence[Run]], None]
"""To be called when an answer is about to be whole, with the runs that it took."""
