"""What a daemon says about itself: one event a line, with fields, to stderr.

Text for a person on a terminal, key=value (or JSON) anywhere else.  Secrets do not belong into log
calls; should one get there, it is taken out by the name of its field, or by how it looks.
Bad input is logged through `PerSource`: whoever sends garbage all day fills no disk.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from typing import Any, Protocol, cast

import structlog

from meshd import limits

Fields = MutableMapping[str, Any]


class Log(Protocol):
    """The part of structlog's loggers that meshd uses: a short event, the rest in fields."""

    def debug(self, event: str, **fields: Any) -> None: ...
    def info(self, event: str, **fields: Any) -> None: ...
    def warning(self, event: str, **fields: Any) -> None: ...
    def error(self, event: str, **fields: Any) -> None: ...

    def exception(self, event: str, **fields: Any) -> None:
        """An error with the traceback of the exception being handled."""
        ...


class Stream(Protocol):
    """Where log lines go: a text file such as `sys.stderr`."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


def get(part: str, **fields: Any) -> Log:
    """The logger of one part of meshd (`http`, `membership`, ...); `fields` come with each line."""
    return cast("Log", structlog.get_logger(part=part, **fields))


def configure(level: str, log_format: str, stream: Stream, *, terminal: bool) -> None:
    """Set up logging for this process; levels and formats: `meshd.settings`."""
    if log_format == "auto":
        log_format = "text" if terminal else "logfmt"
    ending: list[Any]
    if log_format == "text":
        stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
        ending = [
            structlog.dev.ConsoleRenderer(
                colors=terminal,
                pad_event_to=0,
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    else:
        stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        ending = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str)
            if log_format == "json"
            else structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "part", "event"], drop_missing=True
            ),
        ]
    structlog.configure(
        processors=[structlog.processors.add_log_level, stamp, tidy, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("Any", _Patient(stream))),
        cache_logger_on_first_use=False,
    )


_SECRET_FIELD = re.compile(
    r"(?:.*_)?(?:token|secret|password|authorization|cookie|key|pem|prompt|text|body)s?",
    re.IGNORECASE,
)
_SECRET_LOOK = re.compile(
    r"(mesh1-)[\w.-]+|(sk-)[\w-]{8,}|(Bearer\s+)\S+|(-----BEGIN )[^-]*KEY.*", re.S
)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def tidy(_logger: object, _method: str, fields: Fields) -> Fields:
    """Take out secrets, and what would start a new line or move a terminal's cursor."""
    for name, value in fields.items():
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        if not isinstance(value, str) or name == "exception":
            continue
        if name != "event" and _SECRET_FIELD.fullmatch(name):
            fields[name] = "[redacted]" if value else ""
            continue
        value = _SECRET_LOOK.sub(lambda match: f"{match[match.lastindex or 0]}[redacted]", value)
        fields[name] = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", value)
    return fields


class _Patient:
    """A stream that is allowed to be gone: a closed terminal must not end a daemon."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            return

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return


class RateLimited:
    """Once per source and period, and a count of what was held back since.  Pure.

    It remembers `sources` of them at most.  Those beyond (somebody makes up addresses) share one
    turn per period among them, so that inventing sources buys nobody more lines.
    """

    def __init__(
        self, every_s: float = limits.LOG_PER_SOURCE_S, sources: int = limits.LOG_SOURCES
    ) -> None:
        self._every_s = every_s
        self._sources = sources
        self._seen: OrderedDict[Hashable, list[float]] = OrderedDict()
        """source -> [time of its last line, held back since], the oldest line first."""
        self._crowd = [-float("inf"), 0.0]

    def admit(self, source: Hashable, now: float) -> int | None:
        """How many of this source were held back before this one, or None to hold it back too."""
        entry = self._seen.get(source)
        if entry is None and len(self._seen) >= self._sources:
            oldest, (last, _) = next(iter(self._seen.items()))
            if now - last >= self._every_s:
                del self._seen[oldest]
        if entry is None and len(self._seen) < self._sources:
            self._seen[source] = [now, 0]
            return 0
        if entry is None:
            entry = self._crowd
        if now - entry[0] < self._every_s:
            entry[1] += 1
            return None
        held_back = int(entry[1])
        entry[:] = [now, 0]
        if entry is not self._crowd:
            self._seen.move_to_end(source)
        return held_back


class PerSource:
    """Warnings about what a stranger sent: one line per source and minute, with a count."""

    def __init__(self, log: Log, now: Callable[[], float]) -> None:
        self._log = log
        self._now = now
        self._limit = RateLimited()

    def warning(self, event: str, source: Hashable, **fields: Any) -> None:
        """Log it, unless this source had its line; `held_back` says how many there were since."""
        held_back = self._limit.admit(source, self._now())
        if held_back is None:
            return
        extra: Mapping[str, Any] = {"held_back": held_back} if held_back else {}
        self._log.warning(event, source=str(source), **fields, **extra)
