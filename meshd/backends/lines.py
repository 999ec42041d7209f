"""Lines out of a stream of bytes, however it is cut.  Pure."""

from __future__ import annotations

from typing import Final

from meshd.errors import LimitExceeded

_BOM: Final = b"\xef\xbb\xbf"


class LineSplitter:
    """Feed it bytes, get whole lines without their ends (LF, CR LF or CR) and without a BOM.

    Raises LimitExceeded for a line above `max_bytes`; nothing may be fed after that.
    """

    __slots__ = ("_after_cr", "_first", "_max_bytes", "_rest")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self._after_cr = False
        self._first = True

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in data:
            # A CR ends a line at once; the LF that may follow in the next read is no second end.
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in data:
            self._rest += data
            if len(self._rest) > self._max_bytes:
                raise self._too_long()
            return []
        if self._rest:
            data = bytes(self._rest) + data
            self._rest.clear()
        lines = data.split(b"\n")
        if rest := lines.pop():
            self._rest += rest
        if self._first:
            self._first = False
            lines[0] = lines[0].removeprefix(_BOM)
        if len(data) > self._max_bytes and max(map(len, [*lines, rest])) > self._max_bytes:
            raise self._too_long()
        return lines

    def end(self) -> bytes:
        """What is left without a line end."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest.removeprefix(_BOM) if self._first else rest

    def _too_long(self) -> LimitExceeded:
        return LimitExceeded(f"An engine sent a line of more than {self._max_bytes} bytes.")
