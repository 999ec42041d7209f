"""Who is still there, asked before anybody needs to know (trio's clock, no tasks).

When a holder falls silent it is seldom alone: a switch, a wall, a cable takes several away at once,
and each of them that is asked next costs a second or two.  So while the silence is still being
waited for, the others are pinged on their control links; who has not answered by the time another
holder is chosen is tried last.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

import trio

from meshd.ids import NodeId

ANSWER_S: Final = 0.25
"""An answer takes a round trip, and what a busy machine adds.  Less than `limits.ROLL_CALL_S`."""
AGAIN_S: Final = 0.25
"""Somebody called so recently is not called again: many streams may wait for one holder."""
COUNTS_S: Final = 5.0
"""For so long a missing answer says something: after that gossip and the links know better."""


class Links(Protocol):
    """What this needs of the control links."""

    def ping(self, node: NodeId) -> None:
        """Have it say something; nothing happens if there is no link."""
        ...

    def heard_at(self, node: NodeId) -> float | None:
        """When it last said something on our link; None: there is none."""
        ...


class RollCall:
    """Calls members, and notes who did not answer."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._called: dict[NodeId, float] = {}
        """The first call that may still be unanswered.  Members only, so bounded as they are."""

    def call(self, nodes: Iterable[NodeId]) -> None:
        """Have these say whether they are there; a node that is called says it in a round trip."""
        now = trio.current_time()
        for node in nodes:
            called = self._called.get(node)
            if called is None or now - called > COUNTS_S or not self._is_unanswered(node, called):
                self._called[node] = now
            elif now - called < AGAIN_S:
                continue
            self._links.ping(node)

    def is_mute(self, node: NodeId) -> bool:
        """Whether it was called and has had the time to answer, and did not."""
        called = self._called.get(node)
        if called is None:
            return False
        waited_s = trio.current_time() - called
        if waited_s > COUNTS_S:
            del self._called[node]
            return False
        return waited_s >= ANSWER_S and self._is_unanswered(node, called)

    def forget(self, node: NodeId) -> None:
        """It is no member any more."""
        self._called.pop(node, None)

    def _is_unanswered(self, node: NodeId, called: float) -> bool:
        heard_at = self._links.heard_at(node)
        return heard_at is None or heard_at < called
