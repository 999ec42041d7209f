"""What the network between machines is like, direction by direction: cut, slow, lossy.

A `Link` is the way from one machine to another; the way back is another `Link`.  The proxies ask it
about every piece and datagram that they carry.  Nothing here does I/O.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

import trio

BUFFER_BYTES: Final = 256 * 1024
"""What a proxied connection holds back in one direction; then its sender feels the link."""


class Gate:
    """Open or shut; whoever comes while it is shut waits."""

    def __init__(self) -> None:
        self._opened = trio.Event()
        self._opened.set()

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    def shut(self) -> None:
        if self._opened.is_set():
            self._opened = trio.Event()

    def open(self) -> None:
        self._opened.set()

    async def passed(self) -> None:
        """Until it is open.  No deadline: a cut is over when somebody heals it."""
        while not self._opened.is_set():
            await self._opened.wait()


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Trouble:
    """What one fault does to a link."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    """Up to so much more, by chance for each piece and datagram."""
    loss: float = 0.0
    """The share of datagrams that is lost.  Streams lose nothing: TCP sees to that."""
    bytes_per_s: float = math.inf
    cut_streams: bool = False
    """What is sent over TCP is held back, as by retransmissions that do not arrive."""
    cut_datagrams: bool = False


CUT: Final = Trouble(cut_streams=True, cut_datagrams=True)
"""Nothing passes, and neither side is told."""


class Link:
    """The way from `source` to `target`, and what is wrong with it."""

    def __init__(self, source: str, target: str, chance: Random) -> None:
        self.source, self.target = source, target
        self._chance = chance
        self._troubles: list[Trouble] = []
        self._sum = Trouble()
        self._resets: set[Callable[[], None]] = set()
        self.stream_gate = Gate()

    def __repr__(self) -> str:
        return f"{self.source} -> {self.target}"

    # ---------------------------------------------------------------- faults

    def add(self, trouble: Trouble) -> None:
        """Let it have this fault too; several add up."""
        self._troubles.append(trouble)
        self._add_up()

    def remove(self, trouble: Trouble) -> None:
        """End this fault; nothing happens if it was healed before."""
        if trouble in self._troubles:
            self._troubles.remove(trouble)
            self._add_up()

    def heal(self) -> None:
        """As a link should be: open, whole, without delay."""
        self._troubles.clear()
        self._add_up()

    @property
    def is_well(self) -> bool:
        return not self._troubles

    def reset(self) -> int:
        """Break every connection that has bytes on this link, with a reset to both sides; how many.

        Those that are made afterwards are not concerned.
        """
        broken = list(self._resets)
        for reset in broken:
            reset()
        return len(broken)

    def _add_up(self) -> None:
        some = self._troubles
        self._sum = Trouble(
            latency_s=sum(trouble.latency_s for trouble in some),
            jitter_s=sum(trouble.jitter_s for trouble in some),
            loss=1 - math.prod(1 - trouble.loss for trouble in some),
            bytes_per_s=min((trouble.bytes_per_s for trouble in some), default=math.inf),
            cut_streams=any(trouble.cut_streams for trouble in some),
            cut_datagrams=any(trouble.cut_datagrams for trouble in some),
        )
        if self._sum.cut_streams:
            self.stream_gate.shut()
        else:
            self.stream_gate.open()

    # ---------------------------------------------------------------- what proxies ask

    def delay_s(self) -> float:
        """How long the next piece is on its way."""
        now = self._sum
        return now.latency_s + (self._chance.uniform(0, now.jitter_s) if now.jitter_s else 0.0)

    def takes_s(self, size_bytes: int) -> float:
        """How long so many bytes keep it busy."""
        return size_bytes / self._sum.bytes_per_s

    def datagram_delay_s(self) -> float | None:
        """The same for a datagram; None: it does not arrive."""
        now = self._sum
        if now.cut_datagrams or (now.loss and self._chance.random() < now.loss):
            return None
        return self.delay_s()

    def on_reset(self, reset: Callable[[], None]) -> None:
        """A connection with bytes on this link; `reset` breaks it."""
        self._resets.add(reset)

    def is_over(self, reset: Callable[[], None]) -> None:
        """That connection is over."""
        self._resets.discard(reset)


class Links:
    """All links between some machines, each made when it is first asked for."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._links: dict[tuple[str, str], Link] = {}

    def __getitem__(self, ends: tuple[str, str]) -> Link:
        """The link from the first to the second."""
        if ends not in self._links:
            source, target = ends
            chance = Random(f"{self._seed} {source} {target}")
            self._links[ends] = Link(source, target, chance)
        return self._links[ends]

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links.values()))

    def between(self, some: set[str], others: set[str]) -> list[Link]:
        """All links from the ones to the others, one direction only."""
        return [self[a, b] for a in sorted(some) for b in sorted(others) if a != b]

    def around(self, name: str, everyone: set[str]) -> list[Link]:
        """All links of one machine with the rest, both directions."""
        rest = everyone - {name}
        return self.between({name}, rest) + self.between(rest, {name})

    def heal(self) -> None:
        """Everything passes again."""
        for link in self:
            link.heal()
