"""Whom to ask for what voters should have, and other nodes may have.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from meshd import limits
from meshd.ids import NodeId


def whom_to_ask(
    linked: Sequence[NodeId], voters: Collection[NodeId], choose: Callable[[int], int]
) -> Iterator[NodeId]:
    """The linked voters, then at most `limits.OTHERS_ASKED` others; `choose` is `randrange`."""
    yield from [node for node in linked if node in voters]
    others = [node for node in linked if node not in voters]
    for _ in range(min(len(others), limits.OTHERS_ASKED)):
        yield others.pop(choose(len(others)))
