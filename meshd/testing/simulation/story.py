"""What happened in one run, in the order in which it did: for people, and for marks."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog
import trio

from meshd.testing.world import WHERE

BUGS: Final = 5
BUG_CHARS: Final = 4_000
_LEVELS: Final = ("warning", "error", "critical")
_EXPECTED: Final = ("on purpose", "the disk is full")
"""In the text of what was injected."""


class Story:
    """Lines with times, if they are wanted; and how often what happened, which is always kept."""

    def __init__(self, *, keep_lines: bool = False) -> None:
        self.lines: list[str] | None = [] if keep_lines else None
        self.marks: Counter[str] = Counter()
        self.bugs: list[str] = []
        """What daemons did not expect: exceptions that ended at a task's boundary, in a log."""

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
        if fields.get("exc_info") and len(self.bugs) < BUGS:
            self._note_bug(event, fields["exc_info"])
        if self.lines is not None:
            loud = f"{level.upper()} " if level in _LEVELS else ""
            more = " ".join(f"{name}={value}" for name, value in fields.items())
            self.say(WHERE.get(), f"{loud}[{part}] {event} {more}".rstrip())
        raise structlog.DropEvent

    def _note_bug(self, event: str, error: object) -> None:
        error = error if isinstance(error, BaseException) else sys.exception()
        if error is None:
            return
        text = "".join(traceback.format_exception(error))
        if not any(words in text for words in _EXPECTED):
            self.bugs.append(f"{WHERE.get()} logged {event!r}:\n{text[-BUG_CHARS:]}")
