"""The machine itself: its clocks, its randomness, its power."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """What time it is.  Waiting is trio's business."""

    def monotonic(self) -> float:
        """Seconds that never jump; the same timeline as trio.current_time()."""
        ...

    def wall(self) -> float:
        """Seconds since the UNIX epoch; may jump."""
        ...

    def suspended_s(self) -> float:
        """How long this machine has slept since it booted (BOOTTIME - MONOTONIC)."""
        ...


class Entropy(Protocol):
    """Randomness: `token` for secrets, the rest for jitter and choice."""

    def token(self, size_bytes: int) -> bytes: ...

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def randrange(self, stop: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Power:
    """Where a machine's power comes from."""

    portable: bool = False
    """It has a battery."""
    on_mains: bool = True


class Host(Protocol):
    """What kind of machine this is."""

    def power(self) -> Power:
        """As of now; a machine that does not tell counts as one on mains for good."""
        ...

    def uptime_s(self) -> float:
        """Since the machine started."""
        ...
