"""Trio's order of tasks, by a seed; and a hash of what then happened.

Which of several tasks that are ready goes first, trio leaves to chance.  It has two knobs to seed
that chance, made for Hypothesis and promised to nobody; they are turned here and nowhere else, and
`tests/unit/test_schedule.py` says when a new trio has moved them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio
import trio._core._run as _trio_run

_FLAG = "_ALLOW_DETERMINISTIC_SCHEDULING"
_DICE = "_r"


@contextmanager
def seeded_schedule(seed: int | str) -> Iterator[None]:
    """Within the block the order of tasks follows from the seed.

    That makes a run repeatable if nothing else in it is by chance: under `MockClock`, without
    threads and sockets, on ports in memory.
    """
    trio_run: Any = _trio_run
    if not (hasattr(trio_run, _FLAG) and hasattr(trio_run, _DICE)):
        raise AssertionError(f"trio {trio.__version__} orders its tasks in another way: see here")
    dice = trio_run._r
    before = getattr(trio_run, _FLAG), dice.getstate()
    setattr(trio_run, _FLAG, True)
    dice.seed(f"meshd schedule {seed}")
    try:
        yield
    finally:
        setattr(trio_run, _FLAG, before[0])
        dice.setstate(before[1])


class Trace:
    """A hash of everything that was noted, when it was, and in which order."""

    def __init__(self) -> None:
        self.events = 0
        self.lines: list[str] | None = None
        """Made a list, it keeps a line for each event: to find where two runs part."""
        self._hash = hashlib.sha256()

    def note(self, what: str, data: bytes = b"") -> None:
        """Something happens now."""
        self.events += 1
        self._hash.update(f"{trio.current_time()!r} {what} {len(data)} ".encode())
        self._hash.update(data)
        if self.lines is not None:
            digest = hashlib.sha256(data).hexdigest()[:12]
            self.lines.append(f"{trio.current_time():.6f} {what}: {len(data)} bytes {digest}")

    @property
    def digest(self) -> str:
        """Equal for equal runs."""
        return self._hash.hexdigest()
