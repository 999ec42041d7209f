"""Whether enough voters are there to write the record, as it goes into the log (trio shell)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from meshd import logs
from meshd.beat import next_beat

log = logs.get("record")

LOOK_S: Final = 2.0
PATIENCE_S: Final = 10.0
"""For links to come up at a start, or again after a break: until then it is no news."""


class QuorumWatch:
    """Says once that a majority of the voters cannot be reached, and once that it can again."""

    def __init__(self, shortage: Callable[[], str]) -> None:
        """`shortage` says who is missing and what helps, "" while enough are there."""
        self._shortage = shortage
        self._since: float | None = None
        self._said = False

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            self._look(trio.current_time())
            await next_beat(LOOK_S)

    def _look(self, now: float) -> None:
        why = self._shortage()
        if not why:
            if self._said:
                log.info("the record can be written again")
            self._since, self._said = None, False
            return
        self._since = now if self._since is None else self._since
        if not self._said and now - self._since >= PATIENCE_S:
            log.warning("the record cannot be written from here", why=why)
            self._said = True
