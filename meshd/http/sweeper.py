"""One task for every deadline of the data path.

A cancel scope per read costs a third of the throughput; a deadline here is one attribute of a
`Watch`, and moving it is one assignment.  The price is coarseness: a deadline fires up to
`TICK_S` late, which is nothing against the seconds that are watched here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from meshd.http.baton import Baton

TICK_S = 0.05
"""How often deadlines are looked at."""
LATE_S = 0.05
"""A loop that runs this late has not been listening."""


class Watch:
    """A deadline that its owner moves: `watch.at = trio.current_time() + seconds`.

    `at` is in trio's time, `math.inf` when nothing is due.  When it has passed, `at` is set to
    infinity and then `expire` is called, once; it may set `at` again.  `expire` must not wait and
    must not raise: it ends something (`ByteStream.abort`) or wakes somebody.
    """

    __slots__ = ("at", "expire")

    def __init__(self, expire: Callable[[], None], at: float = math.inf) -> None:
        self.at = at
        self.expire = expire


class Sweeper:
    """Looks at all watches every `TICK_S` while there are any, and sleeps otherwise.

    `now` is trio's time as of the last look, for owners of watches: at most a tick old while they
    watch, and free to read.
    """

    def __init__(self) -> None:
        self.now = -math.inf
        self.late_s = 0.0
        """How much time this process was kept from running, all together."""
        self.late_max_s = 0.0
        self._watches: dict[Watch, None] = {}  # a set that keeps its order: runs repeat exactly
        self._wanted = Baton()

    def watch(self, expire: Callable[[], None], at: float = math.inf) -> Watch:
        """Begin to watch.  The caller gives it back with `unwatch`."""
        watch = Watch(expire, at)
        if not self._watches:
            self.now = trio.current_time()
            self._wanted.wake()
        self._watches[watch] = None
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Stop watching; fine if it was stopped before."""
        self._watches.pop(watch, None)

    def sweep(self, now: float) -> None:
        """Fire what is due at `now`."""
        self.now = now
        due = [watch for watch in self._watches if watch.at <= now]
        for watch in due:
            if watch.at <= now and watch in self._watches:  # an earlier one may have moved it
                watch.at = math.inf
                watch.expire()

    async def run(self) -> None:
        """Sweep for ever; one task of the process runs this.

        It also keeps count of how late it is called: a process that was kept from running (a busy
        machine, a stopped process) was deaf, not its peers mute.
        """
        while True:
            if not self._watches:
                await self._wanted.wait()
            due_at = trio.current_time() + TICK_S
            await trio.sleep_until(due_at)
            now = trio.current_time()
            if (late_s := now - due_at) > LATE_S:
                self.late_s += late_s
                self.late_max_s = max(self.late_max_s, late_s)
            self.sweep(now)
