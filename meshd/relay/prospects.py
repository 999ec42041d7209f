"""Who may still be asked for one request, by what those that were asked have said.  Pure."""

from __future__ import annotations

from typing import NamedTuple

from meshd.relay.splice import Way
from meshd.routing.catalogue import Target
from meshd.routing.placement import TargetKey


class Busy(NamedTuple):
    """A holder without room."""

    wait_s: float
    """What it predicts."""
    target: Target
    remote: bool


class Prospects:
    """Of the holders that were asked: which are not to be asked again, and which were busy."""

    __slots__ = ("_busy", "_out", "_unable")

    def __init__(self) -> None:
        self._out: set[TargetKey] = set()
        self._busy: dict[TargetKey, Busy] = {}
        self._unable: set[TargetKey] = set()
        """Those that cannot continue after what another said; they may still repeat it."""

    def rule_out(self, target: Target) -> None:
        """It is not asked again for this request."""
        self._out.add(target.key)

    def cannot_continue(self, target: Target) -> None:
        """It is not asked again to continue this answer."""
        self._unable.add(target.key)

    def was_busy(self, busy: Busy) -> None:
        """It has no room; when everybody is busy the request may queue there."""
        self._busy[busy.target.key] = busy

    def may_have_room(self) -> None:
        """Time has passed: those that were busy may be asked anew."""
        self._busy.clear()

    def may_continue(self) -> None:
        """There is more to continue than before: who could not may be asked anew."""
        self._unable.clear()

    def not_to_be_asked(self, way: Way | None) -> frozenset[TargetKey]:
        """By those that are to go on in this way; None: to answer from the start."""
        unable = self._unable if way is Way.CONTINUE else frozenset[TargetKey]()
        return frozenset(self._out | self._busy.keys() | unable)

    def shortest_queue(self) -> Busy | None:
        """The busy one that predicts the least, if there is one that may still be asked."""
        queues = (busy for key, busy in self._busy.items() if key not in self._out)
        return min(queues, key=lambda busy: busy.wait_s, default=None)

    @property
    def waits_s(self) -> list[float]:
        """What the busy ones predict; empty: nobody was busy."""
        return [busy.wait_s for busy in self._busy.values()]
