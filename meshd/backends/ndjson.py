"""Objects of an NDJSON stream (Ollama's), however it is cut.  Pure."""

from __future__ import annotations

from meshd.backends.lines import LineSplitter
from meshd.limits import ENGINE_LINE_BYTES


class NdjsonDecoder:
    """Feed it bytes, get the lines that hold something."""

    __slots__ = ("_lines",)

    def __init__(self, max_bytes: int = ENGINE_LINE_BYTES) -> None:
        self._lines = LineSplitter(max_bytes)

    def feed(self, data: bytes) -> list[bytes]:
        """The objects that these bytes complete, as JSON.  Raises LimitExceeded."""
        return [line for line in self._lines.feed(data) if line and not line.isspace()]

    def end(self) -> list[bytes]:
        """At the end of the body: the last object may lack its line end.

        If it was cut instead, it is no whole JSON text, which the caller finds out.
        """
        rest = self._lines.end()
        return [rest] if rest and not rest.isspace() else []
