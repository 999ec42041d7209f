"""What happened in one run, in the order in which it did: for people, and for marks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
import trio

from meshd.testing.world import WHERE

_LEVELS = ("warning", "error", "critical")


class Story:
    """Lines with times, if they are wanted; and how often what happened, which is always kept."""

    def __init__(self, *, keep_lines: bool = False) -> None:
        self.lines: list[str] | None = [] if keep_lines else None
        self.marks: Counter[str] = Counter()

    def say(self, who: str, what: str) -> None:
        """A line, at this time."""
        if self.lines is not None:
            self.lines.append(f"{trio.current_time():9.3f}  {who:<8}  {what}")

    def sometimes(self, mark: str, count: int = 1) -> None:
        """Something happened that ought to, in one run or another."""
        if count:
            self.marks[mark] += count

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block, what nodes log are marks, and lines."""
        before = structlog.get_config()
        structlog.configure(
            processors=[structlog.processors.add_log_level, self._logged],
            wrapper_class=structlog.make_filtering_bound_logger(
                10 if self.lines is not None else 20
            ),
            logger_factory=structlog.ReturnLoggerFactory(),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.configure(**before)

    def _logged(self, _logger: Any, _method: str, fields: Any) -> Any:
        fields = dict(fields)
        event, level = fields.pop("event"), fields.pop("level", "")
        part = fields.pop("part", "")
        self.marks[f"log: {event}"] += 1
        if self.lines is not None:
            loud = f"{level.upper()} " if level in _LEVELS else ""
            more = " ".join(f"{name}={value}" for name, value in fields.items())
            self.say(WHERE.get(), f"{loud}[{part}] {event} {more}".rstrip())
        raise structlog.DropEvent
