"""A node that leaves hands over one thing after the other, until it has or one cannot be (trio)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import trio

from meshd.errors import MeshdError

T = TypeVar("T")


class NotHandedOver(MeshdError):
    """Some of what is here may be nowhere else; the text says why."""

    def __init__(self, count: int, why: str) -> None:
        """`count` is how many at the most."""
        super().__init__(why)
        self.count = count


class HandingOver:
    """How far it is."""

    def __init__(self, count: int) -> None:
        """`count` is how many there are."""
        self._left = count
        self._why = ""
        """Why one could not be handed over; "" as long as all could."""

    async def each(
        self, things: Sequence[T], hand: Callable[[T], Awaitable[None]], at_a_time: int
    ) -> None:
        """Call `hand` with each, so many at a time, until one call raises MeshdError: `check`."""
        queue = iter(things)
        async with trio.open_nursery() as nursery:
            for _ in range(min(at_a_time, len(things))):
                nursery.start_soon(self._some, queue, hand)

    def check(self) -> None:
        """Raises NotHandedOver if one could not be handed over."""
        if self._why:
            raise NotHandedOver(self._left, self._why)

    async def _some(self, queue: Iterator[T], hand: Callable[[T], Awaitable[None]]) -> None:
        for thing in queue:
            if self._why:
                return
            try:
                await hand(thing)
            except MeshdError as error:
                self._why = str(error)
                return
            self._left -= 1
