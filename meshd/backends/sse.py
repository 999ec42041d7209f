"""Events of a Server-Sent-Events stream, however it is cut.  Pure.

Only what engines use: the data of events.  Comments (keep-alives), ids and retry times are skipped,
names too (an error says what it is in its data).  Old llama.cpp builds write errors as a field
`error:` of its own; it is taken as data.
"""

from __future__ import annotations

from meshd.backends.lines import LineSplitter
from meshd.errors import LimitExceeded
from meshd.limits import ENGINE_LINE_BYTES

_FIELDS = (b"data", b"error")


class SseDecoder:
    """Feed it bytes, get the data of each event."""

    __slots__ = ("_data", "_data_bytes", "_lines", "_max_bytes")

    def __init__(self, max_bytes: int = ENGINE_LINE_BYTES) -> None:
        self._lines = LineSplitter(max_bytes)
        self._max_bytes = max_bytes
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that these bytes complete.  Raises LimitExceeded."""
        events: list[bytes] = []
        pending = self._data
        for line in self._lines.feed(data):
            if not line:
                if pending:
                    events.append(pending[0] if len(pending) == 1 else b"\n".join(pending))
                    pending.clear()
                    self._data_bytes = 0
            elif line.startswith(b"data: "):
                self._add(line[6:])
            else:
                self._field(line)
        return events

    def end(self) -> list[bytes]:
        """At the end of the body: an event whose empty line is missing.

        A browser would drop it.  Engines that close right after their last event mean it; if it
        was cut instead, it is no whole JSON text, which the caller finds out.
        """
        if rest := self._lines.end():
            self._field(rest)
        if not self._data:
            return []
        event = b"\n".join(self._data)
        self._data.clear()
        return [event]

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name in _FIELDS:
            self._add(value.removeprefix(b" "))

    def _add(self, value: bytes) -> None:
        self._data.append(value)
        self._data_bytes += len(value) + 1
        if self._data_bytes > self._max_bytes:
            raise LimitExceeded(f"An engine sent an event of more than {self._max_bytes} bytes.")
