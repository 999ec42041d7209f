"""What a request is to a handler, and the helpers around headers.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshd.errors import ProtocolError
from meshd.ports import Remote

Headers = Sequence[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers that speak of one connection and not of the message (RFC 9110, 7.6.1)."""

_NOT_PASSED = HOP_BY_HOP | {b"content-length"}
_NAMING_NOTHING = (b"keep-alive", b"close", b"Keep-Alive")

_NOBODY = Remote(address=None)


class BadRequest(ProtocolError):
    """A request that is answered with `status` and nothing else; then the connection closes."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ServerRequest:
    """One whole request as the client sent it.

    `path` is as on the wire (still percent-encoded), `query` is what follows the `?`.  Names of
    headers are lower-case, values have no blanks around them.
    """

    __slots__ = (
        "body", "caller", "headers", "http10", "keep_alive", "method", "path", "query", "remote",
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes = b"",
        remote: Remote = _NOBODY,
        http10: bool = False,
        keep_alive: bool = True,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.remote = remote
        self.http10 = http10
        self.keep_alive = keep_alive
        self.caller = ""
        """Who asks, if whoever admitted it has found that out."""

    def header(self, name: bytes) -> bytes | None:
        """The first header of that (lower-case) name."""
        return find_header(self.headers, name)


class Refusal:
    """An answer that is given instead of serving; the connection closes after it."""

    __slots__ = ("body", "head_only", "headers", "message", "more_coming", "status")

    def __init__(
        self,
        status: int,
        message: str = "",
        *,
        headers: Headers = (),
        body: bytes | None = None,
        head_only: bool = False,
    ) -> None:
        self.status = status
        self.message = message
        self.headers = headers
        self.body = body
        """None: `ServerOptions.error_body` makes one from the message."""
        self.head_only = head_only
        self.more_coming = False
        """The client is probably still sending the rest of its request."""


def find_header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first header of that (lower-case) name."""
    for key, value in headers:
        if key == name:
            return value
    return None


def end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers that a proxy passes on: none that is hop-by-hop, named by Connection, or framing."""
    passed = [header for header in headers if header[0] not in _NOT_PASSED]
    for name, value in headers:
        if name == b"connection" and value not in _NAMING_NOTHING:
            named = {token.strip().lower() for token in value.split(b",")}
            passed = [header for header in passed if header[0] not in named]
    return passed
