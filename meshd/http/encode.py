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


def phrase(status: int) -> str:
    """What a status is called: "Not Found"."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def response_head(status: int, headers: Headers, fixed: bytes) -> bytes:
    """Status line to empty line.  `fixed` are whole header lines (framing, Connection)."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status
    return _head(line + fixed, headers)


def request_head(method: str, target: str, fixed: bytes, headers: Headers) -> bytes:
    """Request line to empty line.  `fixed` are whole header lines, the Host among them.

    Raises ValueError if the target cannot stand in a request line.
    """
    if " " in target or "\n" in target or "\r" in target:
        raise ValueError("a request target that was to be sent contains a blank or a line break")
    return _head(f"{method} {target} HTTP/1.1\r\n".encode("ascii") + fixed, headers)


def _head(head: bytes, headers: Headers) -> bytes:
    if not headers:
        return head + b"\r\n"
    lines = b"".join([name + b": " + value + b"\r\n" for name, value in headers])
    # A line break inside a name or a value would forge headers, or a whole message.
    if not (lines.count(b"\n") == lines.count(b"\r") == len(headers)):
        raise ValueError("a header that was to be sent contains a line break")
    return head + lines + b"\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; `data` must not be empty, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
