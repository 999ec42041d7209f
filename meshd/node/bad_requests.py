"""HTTP requests that never got to their handler: counted, and logged now and then."""

from __future__ import annotations

from collections import Counter

import trio

from meshd import logs
from meshd.ids import short
from meshd.ports import Remote

log = logs.get("http")

_NOTHING_THERE = frozenset({404, 405})
"""Somebody tries what is not served here, as clients do to find out: no matter of who may do what,
and nothing that a person should see to."""


class BadRequests:
    """Those of one port.  `note` is `ServerOptions.on_refused`."""

    def __init__(self, counter: str, event: str) -> None:
        self.counters: Counter[str] = Counter({counter: 0})
        self._counter, self._event = counter, event
        self._complaints = logs.PerSource(log, trio.current_time)

    def note(self, remote: Remote, status: int, message: str) -> None:
        """Count one, and log it unless its source had a line lately."""
        if status in _NOTHING_THERE:
            log.debug("not served here", status=status, why=message)
            return
        self.counters[self._counter] += 1
        if remote.node is not None:
            source = short(remote.node)
        else:
            source = remote.address.host if remote.address is not None else "this machine"
        self._complaints.warning(self._event, source, status=status, why=message)


def log_bug(what: str, error: BaseException) -> None:
    """`ServerOptions.on_error`: something was let out that nobody expected."""
    log.exception(what, exc_info=error)
