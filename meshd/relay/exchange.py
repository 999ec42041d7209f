"""One client request while it is under way at its entry (trio shell)."""

from __future__ import annotations

from collections.abc import Callable

import trio

from meshd.backends import RunControl
from meshd.http import Sweeper
from meshd.ids import RequestId
from meshd.inference import Request
from meshd.relay.machine import Relay
from meshd.relay.orphans import Orphan
from meshd.wire.serve import KeyedClaim


class Exchange:
    """One client request while it is under way at this entry."""

    __slots__ = (
        "_late_s",
        "_sweeper",
        "claim",
        "control",
        "may_hedge",
        "on_doubt",
        "orphan",
        "relay",
        "request",
        "request_id",
        "watch",
    )

    def __init__(
        self,
        request_id: RequestId,
        request: Request,
        relay: Relay,
        sweeper: Sweeper,
        claim: KeyedClaim | None,
        orphan: Orphan | None,
    ) -> None:
        self.claim = claim
        self.may_hedge = claim is None  # a key has one run, which may outlive this node
        self.on_doubt: Callable[[], None] = lambda: None
        """Its holder has not been heard for a while."""
        self.orphan = orphan
        """A run that is here already: the first attempt, while it was not made."""
        self.request_id = request_id
        self.request = request
        self.relay = relay
        self.control: RunControl | None = None
        self._sweeper = sweeper
        self._late_s = sweeper.late_s
        self.watch = sweeper.watch(self._tick, relay.wake_at)

    def client_gone(self) -> None:
        """The client disconnected: end the attempt at once."""
        self._abort(self.relay.client_gone())

    def stop(self) -> None:
        """This node ends."""
        self._abort(self.relay.stop())

    def _tick(self) -> None:
        if (late_s := self._sweeper.late_s - self._late_s) > 0:
            # This process did not get to listen: what arrived meanwhile is still to be read.
            self._late_s += late_s
            self.relay.holder_watch.was_deaf(late_s)
        now = trio.current_time()
        if self.relay.holder_watch.doubts(now):
            self.on_doubt()
        self._abort(self.relay.tick(now))
        self.watch.at = self.relay.wake_at

    def _abort(self, reason: str | None) -> None:
        if reason is not None and self.control is not None:
            self.control.abort(reason)
