"""Bytes of a server in, one response at a time out.  Pure: llhttp does the grammar.

A response is complete by its own framing, never by hope: a body cut short of its Content-Length or
of its last chunk is `StreamBroken`; only a body without either ends with the connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import httptools

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError, StreamBroken

_BODILESS = (204, 304)


@dataclass(frozen=True, slots=True)
class ResponseLimits:
    """Bounds on the head of one response, interim ones and trailers included."""

    head_bytes: int = limits.HTTP_HEAD_BYTES
    headers: int = limits.HTTP_HEADERS


class ResponseParser:
    """The responses of one connection.

    `expect` before each request; then `feed` until `head_complete`, and `feed` and `take` until
    `complete`.

    Servers repeat themselves: an answer that came in one piece, with a head that is byte for byte
    the last one's, is not parsed again.
    """

    __slots__ = (
        "_bounds",
        "_chunks",
        "_fed_bytes",
        "_fields",
        "_framed",
        "_head_only",
        "_last",
        "_parser",
        "_stagnant_bytes",
        "complete",
        "head_complete",
        "headers",
        "keep_alive_s",
        "reusable",
        "status",
    )

    def __init__(self, bounds: ResponseLimits) -> None:
        self._bounds = bounds
        self._last: _Seen | None = None
        self._new_parser()
        self.expect(head_only=False)

    def _new_parser(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        # Old servers pad chunk sizes with blanks; that is harmless on this side.
        self._parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)

    def expect(self, *, head_only: bool) -> None:
        """Forget the last response; the next one answers a HEAD request or another."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.head_complete = False
        self.complete = False
        self.reusable = False
        """Once complete: whether the connection may carry another request."""
        self.keep_alive_s: float | None = None
        """How long the server says that it keeps an idle connection."""
        self._head_only = head_only
        self._framed = False
        self._stagnant_bytes = 0  # fed since the body grew
        self._fed_bytes = 0  # the same, with what is being fed
        self._fields: list[tuple[bytes, bytes]] = []  # of heads, then of the trailer
        self._chunks: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Take what arrived.  Raises ProtocolError (garbage) or LimitExceeded."""
        last = self._last
        if last is not None:
            if self._repeats(last, data):
                return
            self._last = None
        whole = not (self._stagnant_bytes or self.head_complete)
        pieces = len(self._chunks)
        self._fed_bytes = self._stagnant_bytes + len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise ProtocolError("The server switched protocols without being asked.") from None
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, ProtocolError):
                raise error.__context__ from None
            if not isinstance(error.__context__, _Surplus):
                raise
            self.reusable = False
        except httptools.HttpParserError as error:
            self.reusable = False
            if not self.complete:
                raise ProtocolError(
                    f"The server's answer is not valid HTTP/1.1: {error}."
                ) from None
        if len(self._chunks) == pieces and not self.complete:
            # This bounds what llhttp keeps of one long field, and fields without end.
            self._stagnant_bytes += len(data)
            if self._stagnant_bytes > 2 * self._bounds.head_bytes:
                raise self._too_large()
            self._check_fields()
        else:
            self._stagnant_bytes = 0
            if whole and self.complete:
                self._remember(data)

    def _remember(self, data: bytes) -> None:
        """If `data` was one whole answer and nothing else."""
        if self.reusable and len(self._chunks) <= 1 and not self._head_only:
            end = data.find(b"\r\n\r\n") + 4
            # A chunked body is longer on the wire than it is, and so is an interim answer.
            if len(data) == end + sum(map(len, self._chunks)):
                headers = tuple(self.headers)  # a reader may change its list
                self._last = _Seen(data[:end], len(data), self.status, headers, self.keep_alive_s)

    def _repeats(self, last: _Seen, data: bytes) -> bool:
        if (
            len(data) != last.size_bytes
            or self._head_only
            or self.head_complete
            or self._stagnant_bytes
            or not data.startswith(last.head)
        ):
            return False
        self.status = last.status
        self.headers = list(last.headers)
        self.keep_alive_s = last.keep_alive_s
        self._chunks.append(data[len(last.head) :])
        self.head_complete = self.complete = self.reusable = True
        return True

    def feed_eof(self) -> None:
        """The connection ended.  Raises StreamBroken if the response must not end here."""
        self.reusable = False
        if self.complete:
            return
        if not self.head_complete:
            raise StreamBroken("the connection ended before an answer came")
        if self._framed:
            raise StreamBroken("the connection ended in the middle of the answer")
        self.complete = True

    def take(self) -> bytes:
        """The pieces of the body that have come since the last call."""
        chunks = self._chunks
        if len(chunks) == 1:
            return chunks.pop()
        data = b"".join(chunks)
        chunks.clear()
        return data

    def _check_fields(self) -> None:
        fields, bounds = self._fields, self._bounds
        if len(fields) > bounds.headers:
            raise LimitExceeded(
                f"The server's answer has more than {bounds.headers} header fields."
            )
        limit = bounds.head_bytes
        # As a rule all that was fed is less, and the fields need not be added up.
        if self._fed_bytes > limit and sum(len(n) + len(v) for n, v in fields) > limit:
            raise self._too_large()

    def _too_large(self) -> LimitExceeded:
        return LimitExceeded(
            f"The head of the server's answer is larger than {self._bounds.head_bytes} bytes."
        )

    # --- callbacks of llhttp: once per header, so they do next to nothing

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        if self.complete:
            raise _Surplus
        self._check_fields()
        status = self._parser.get_status_code()
        if status < 200:
            return
        self.status = status
        self.head_complete = True
        self.headers = [(name.lower(), value.rstrip(b" \t")) for name, value in self._fields]
        self._fields = []
        named = dict(self.headers)
        self._framed = (
            b"content-length" in named
            or status in _BODILESS
            or b"chunked" in named.get(b"transfer-encoding", b"").lower()
        )
        if b"keep-alive" in named:
            self.keep_alive_s = _keep_alive_s(named[b"keep-alive"])
        if self._head_only:
            # llhttp cannot be told that no body follows, so it is replaced.
            self.complete = True
            self.reusable = self._framed and self._parser.should_keep_alive()
            self._new_parser()

    def on_body(self, data: bytes) -> None:
        if self.complete:
            raise _Surplus
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        if self.complete:
            raise _Surplus
        if not self.head_complete:
            self._fields = []  # 1xx: the answer is still to come; what was fed stays counted
            return
        if self._fields:
            self._check_fields()  # a trailer: bounded, and not believed
        self.complete = True
        self.reusable = self._parser.should_keep_alive()


class _Seen(NamedTuple):
    """An answer that came in one piece."""

    head: bytes
    size_bytes: int
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    keep_alive_s: float | None


class _Surplus(Exception):
    """Bytes behind a complete response: nobody asked for them."""


def _keep_alive_s(value: bytes) -> float | None:
    for part in value.split(b","):
        key, _, number = part.partition(b"=")
        if key.strip().lower() == b"timeout" and number.strip().isdigit():
            return float(number)
    return None
