"""The cheapest way for one task to wake one other."""

from __future__ import annotations

import trio


class Baton:
    """One task waits; any other wakes it.  A wake with nobody waiting is kept, once.

    What `trio.Event` does, for one waiter and many times over, without an allocation per wait.
    """

    __slots__ = ("_kept", "_waiter")

    def __init__(self) -> None:
        self._waiter: trio.lowlevel.Task | None = None
        self._kept = False

    def wake(self) -> None:
        """End the wait of now, or the next one."""
        waiter = self._waiter
        if waiter is None:
            self._kept = True
        else:
            self._waiter = None
            trio.lowlevel.reschedule(waiter)

    async def wait(self) -> None:
        """Until somebody wakes.  Always a checkpoint."""
        if self._kept:
            await trio.lowlevel.checkpoint()
            self._kept = False
            return
        if self._waiter is not None:
            raise trio.BusyResourceError("another task is waiting for this baton")
        self._waiter = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._cancelled)

    def _cancelled(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._waiter = None
        return trio.lowlevel.Abort.SUCCEEDED
