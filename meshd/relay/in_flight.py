"""A count of what is under way, and a way to wait until nothing is."""

from __future__ import annotations

import trio


class InFlight:
    """Use as a context around each piece of work."""

    __slots__ = ("_idle", "count")

    def __init__(self) -> None:
        self.count = 0
        self._idle: trio.Event | None = None

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if self.count == 0 and self._idle is not None:
            self._idle.set()
            self._idle = None

    async def until_none(self) -> None:
        """Returns as soon as nothing is under way; new work may begin meanwhile."""
        while self.count:
            if self._idle is None:
                self._idle = trio.Event()
            await self._idle.wait()
