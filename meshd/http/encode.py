"""Heads and chunks as bytes.  Pure."""

from __future__ import annotations

from http import HTTPStatus

from meshd.http.messages import Headers

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
CLOSE = b"connection: close\r\n"
KEEP_ALIVE = b"connection: keep-alive\r\n"


def response_head(status: int, headers: Headers, connection: bytes, framing: bytes) -> bytes:
    """Status line to empty line.  `connection` and `framing` are whole header lines or empty."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status
    return _head(line, headers, connection + framing)


def request_head(method: str, target: str, fixed: bytes, headers: Headers) -> bytes:
    """Request line to empty line.  `fixed` are whole header lines, the Host among them."""
    if " " in target:
        raise ValueError("a request target that was to be sent contains a blank")
    return _head(f"{method} {target} HTTP/1.1\r\n".encode("ascii"), headers, fixed)


def _head(line: bytes, headers: Headers, fixed: bytes) -> bytes:
    head = b"".join(
        [line, fixed, *[name + b": " + value + b"\r\n" for name, value in headers], b"\r\n"]
    )
    # A line break inside a name or a value would forge headers, or a whole message.
    lines = len(headers) + 2 + fixed.count(b"\n")
    if head.count(b"\n") != lines or head.count(b"\r") != lines:
        raise ValueError("a header that was to be sent contains a line break")
    return head


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; `data` must not be empty, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
