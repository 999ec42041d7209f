"""Every request leaves a trace: those that are no jobs, from their entry into the record (shell).

    add       a plain append; what is more than a batch takes is counted
    run       once a second at most: what came together becomes one `Trace` command, or, while there
              is no majority, waits on the disk until there is

Nothing waits for it, and while no request comes it does nothing at all.  A batch has a number, and
the record takes each number of a node once: so a batch of which it is not known whether it was
written down is simply proposed again, also by the next start.  A crash costs the last second.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from pathlib import PurePath

import trio

from meshd import limits, logs
from meshd.errors import MeshdError
from meshd.jobs.duties import WRITE_S
from meshd.jobs.trace_rows import Batch, Ended, batch_of
from meshd.jobs.trace_spool import TraceSpool
from meshd.ports import Disk
from meshd.record.commands import Malformed
from meshd.record.commands_registry import Trace
from meshd.record.results import RecordRefused

log = logs.get("jobs")

LAST_S = 2.0
"""For the disk, when the node ends."""
_BATCHES_BITS = 21
"""Of a batch's number; above them is the start of the node that made it, in seconds since the epoch
(identity/store.py).  They last 24 days at a batch a second, and the next start is later by then."""


class Traces:
    """One node's.  `run` it; `add` may be called from any task."""

    def __init__(
        self,
        write: Callable[[Trace, float], Awaitable[object]],
        disk: Disk,
        folder: PurePath,
        *,
        start: int,
        wall_unix_s: Callable[[], float],
        randrange: Callable[[int], int],
    ) -> None:
        """`write` is `Ledger.execute`: has a command written down, or raises.

        `folder` is where batches wait; `start` the number of this node's start.

        `wall_unix_s` is the median of the clocks of the nodes that this one hears.
        """
        self._write = write
        self._spool = TraceSpool(disk, folder)
        self._wall_unix_s = wall_unix_s
        self._randrange = randrange
        self._last_number = start << _BATCHES_BITS
        self._fresh: list[Ended] = []
        self._left_out = 0
        self._try_at = -math.inf
        """When the spool's first may be proposed again."""
        self._wake = trio.Event()

    def add(self, ended: Ended) -> None:
        """A request is over."""
        if len(self._fresh) >= limits.TRACES_FRESH:
            self._left_out += 1
            return
        self._fresh.append(ended)
        if len(self._fresh) == 1:
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled; what has not been written down then is kept for the next start."""
        await self._spool.open()
        try:
            while True:
                with trio.move_on_at(self._try_at if self._spool else math.inf):
                    await self._wake.wait()
                self._wake = trio.Event()
                await trio.sleep(limits.TRACE_BATCH_S)
                await self._write_down()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_S):
                await self._put_away()

    async def _write_down(self) -> None:
        """One batch, the oldest first."""
        if not self._spool:
            batch = self._take()
            if batch is not None:
                await self._write_or_keep(self._next_number(), batch)
            return
        await self._put_away()
        if trio.current_time() < self._try_at:
            return
        first = await self._spool.first()
        if first is not None and await self._propose(*first):
            await self._spool.done()

    async def _write_or_keep(self, number: int, batch: Batch) -> None:
        is_settled = False
        try:
            is_settled = await self._propose(number, batch)
        finally:
            if not is_settled:  # also when this node ends meanwhile
                with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_S):
                    await self._spool.put(number, batch, may_grow=False)

    async def _put_away(self) -> None:
        batch = self._take()
        if batch is not None:
            await self._spool.put(self._next_number(), batch, may_grow=True)

    async def _propose(self, number: int, batch: Batch) -> bool:
        """Whether it is settled: written down, or never to be."""
        command = Trace(rows=batch.rows, left_out=batch.left_out, number=number)
        try:
            await self._write(command, WRITE_S)
        except (RecordRefused, Malformed) as error:
            log.info("traces of requests were refused", requests=batch.requests, why=str(error))
        except MeshdError as error:
            log.debug("traces of requests wait on the disk", why=str(error))
            self._try_at = trio.current_time() + limits.TRACE_RETRY_S
            return False
        return True

    def _take(self) -> Batch | None:
        """What came together, if anything did."""
        fresh, self._fresh = self._fresh, []
        left_out = self._left_out + self._spool.left_out
        if not fresh and not left_out:
            return None
        self._left_out = self._spool.left_out = 0
        return batch_of(fresh, left_out, self._wall_unix_s() - trio.current_time(), self._randrange)

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number
