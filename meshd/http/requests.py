"""Bytes of a client in, whole requests out.  Pure: llhttp does the grammar, this the policy.

Strictness is llhttp's own (no obs-fold, no bare LF, no blank before a colon, no Content-Length
beside Transfer-Encoding or twice), plus: one Host, no coding but `chunked`, no HTTP/2, bounds on
target, head, header count and body.  Whatever is refused ends the connection: after one doubtful
message nobody knows where the next one starts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import httptools

from meshd import limits
from meshd.http.messages import BadRequest, Headers, Refusal, ServerRequest, find_header
from meshd.ports import Remote

Admit = Callable[[ServerRequest], tuple[int, Headers, bytes] | None]

_SPECIAL = frozenset({b"host", b"transfer-encoding", b"content-length", b"expect"})


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds on one request, in bytes except `headers`."""

    head_bytes: int = limits.HTTP_HEAD_BYTES
    headers: int = limits.HTTP_HEADERS
    target_bytes: int = limits.HTTP_TARGET_BYTES
    body_bytes: int = limits.HTTP_BODY_BYTES


class RequestParser:
    """The requests of one connection.

    `feed` appends to `ready` what it completed, in order; a `Refusal` there is the last thing and
    whatever follows on the wire is ignored.  `admit` is asked about each head before any of its
    body is kept.
    """

    def __init__(self, bounds: RequestLimits, remote: Remote, admit: Admit | None = None) -> None:
        self.ready: deque[ServerRequest | Refusal] = deque()
        self.in_body = False
        """Between the end of a head and the end of its message."""
        self.done = False
        """No further request will come out: refused, or the client said `Connection: close`."""
        self.wants_continue = False
        """The client waits for `100 Continue` before it sends the body."""
        self._bounds = bounds
        self._remote = remote
        self._admit = admit
        self._parser = httptools.HttpRequestParser(self)
        self._request: ServerRequest | None = None
        self._reset()

    def _reset(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._left = self._bounds.head_bytes
        self._unfinished = 0  # bytes fed since the last message ended, while in a head
        self._body: bytes | bytearray = b""
        self._hosts = 0
        self._length = 0
        self._chunked = False

    @property
    def unfinished(self) -> bool:
        """Whether a head has begun and not ended, as far as `ready` was taken."""
        return self._unfinished > 0

    def feed(self, data: bytes) -> None:
        """Take what arrived.  Never raises for what a client can send."""
        if self.done:
            return
        try:
            self._feed(data)
            self._check_unfinished(len(data))
        except BadRequest as error:
            self._refuse(Refusal(error.status, str(error), head_only=self._is_head()))

    def _feed(self, data: bytes) -> None:
        upgrade_at: int | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            upgrade_at = upgrade.args[0]
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, BadRequest):
                raise error.__context__ from None
            if not isinstance(error.__context__, _Stop):
                raise
        except httptools.HttpParserError as error:
            if not self.done:  # after `Connection: close` the rest does not matter
                raise BadRequest(400, f"The request is not valid HTTP/1.1: {error}.") from None
        if upgrade_at is not None:
            self._decline_upgrade(data[upgrade_at:])

    def _check_unfinished(self, size_bytes: int) -> None:
        """Bound what the parser holds of a head that is not complete yet."""
        if self.in_body or self.ready:
            return
        self._unfinished += size_bytes
        if self._unfinished > 2 * self._bounds.head_bytes:
            raise self._head_too_large()
        self._check_head()

    def _check_head(self) -> None:
        if self._left < 0:
            raise self._head_too_large()
        if len(self._headers) > self._bounds.headers:
            raise BadRequest(431, f"More than {self._bounds.headers} header fields.")

    def _head_too_large(self) -> BadRequest:
        return BadRequest(431, f"The request head is larger than {self._bounds.head_bytes} bytes.")

    def _is_head(self) -> bool:
        return self._request is not None and self._request.method == "HEAD"

    def _refuse(self, refusal: Refusal) -> None:
        self.done = True
        self.wants_continue = False
        body_coming = self.in_body and (self._length > 0 or self._chunked)
        refusal.more_coming = body_coming or refusal.status in (414, 431)
        self.ready.append(refusal)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Serve a request that offers an upgrade as if it had not (RFC 9110, 7.8).

        llhttp stops behind the head of such a request and would take its body for something else;
        so the head is parsed again without the offer, and then what follows it.  Java's HTTP
        client offers h2c with its first request, body and all.
        """
        lines = [self._parser.get_method() + b" " + self._target + b" HTTP/1.1"]
        lines += [
            name + b": " + value
            for name, value in self._headers
            if name not in (b"upgrade", b"connection")
        ]
        self._parser = httptools.HttpRequestParser(self)
        self._reset()
        self._feed(b"\r\n".join(lines) + b"\r\n\r\n")
        if rest and not self.done:
            self._feed(rest)

    # --- callbacks of llhttp

    def on_url(self, target: bytes) -> None:
        self._target += target
        if len(self._target) > self._bounds.target_bytes:
            raise BadRequest(
                414, f"The request target is longer than {self._bounds.target_bytes} bytes."
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        self._left -= len(name) + len(value)
        if self.in_body:  # a trailer: bounded, and not believed
            if self._left < 0:
                raise self._head_too_large()
            return
        name = name.lower()
        if name in _SPECIAL:
            self._on_special(name, value.strip())
        self._headers.append((name, value.rstrip(b" \t")))

    def _on_special(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
        elif name == b"content-length":
            self._length = int(value) if value.isdigit() and len(value) < 20 else -1
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise BadRequest(501, "Only the transfer coding `chunked` is understood.")
            self._chunked = True
        elif value.lower() == b"100-continue":
            self.wants_continue = True
        else:
            raise BadRequest(417, "Only the expectation `100-continue` can be met.")

    def on_headers_complete(self) -> None:
        parser = self._parser
        self._check_head()
        if parser.should_upgrade():
            if parser.get_method() == b"CONNECT":
                raise BadRequest(501, "This is not a forward proxy: CONNECT is not served.")
            return  # `feed` parses this head again, without the offer
        version = parser.get_http_version()
        http10 = version == "1.0"
        if not http10 and version != "1.1":
            raise BadRequest(505, f"HTTP/{version} is not spoken here, only HTTP/1.1.")
        if self._hosts != 1 and not (http10 and self._hosts == 0):
            raise BadRequest(400, "A request needs exactly one Host header.")
        if http10 and self._chunked:
            raise BadRequest(400, "HTTP/1.0 has no Transfer-Encoding.")
        request = self._request = ServerRequest(
            parser.get_method().decode("ascii"),
            *self._split_target(),
            self._headers,
            remote=self._remote,
            http10=http10,
            keep_alive=parser.should_keep_alive(),
        )
        self.in_body = True
        if self._admit is not None and (refused := self._admit(request)) is not None:
            status, headers, body = refused
            self._refuse(
                Refusal(status, headers=headers, body=body, head_only=request.method == "HEAD")
            )
            raise _Stop
        if self._length > self._bounds.body_bytes:
            raise self._body_too_large()

    def _split_target(self) -> tuple[str, str]:
        target = self._target.decode("latin-1")
        if not target.startswith("/") and target != "*":
            target = self._take_absolute(target)
        path, _, query = target.partition("?")
        return path, query

    def _take_absolute(self, target: str) -> str:
        """`GET http://host/path`: the authority in it is the Host (RFC 9112, 3.2.2)."""
        scheme, separator, rest = target.partition("://")
        if not separator or scheme.lower() not in ("http", "https"):
            raise BadRequest(400, "The request target is neither a path nor an http URL.")
        cut = min((i for i in (rest.find("/"), rest.find("?")) if i >= 0), default=len(rest))
        authority = rest[:cut].rpartition("@")[2].encode("latin-1")
        self._headers[:] = [
            (name, authority if name == b"host" else value) for name, value in self._headers
        ]
        if find_header(self._headers, b"host") is None:
            self._headers.append((b"host", authority))
        path = rest[cut:]
        return path if path.startswith("/") else "/" + path

    def on_body(self, data: bytes) -> None:
        body = self._body
        if not body:
            self._body = data
        else:
            if type(body) is bytes:
                body = self._body = bytearray(body)
            body += data
        if len(self._body) > self._bounds.body_bytes:
            raise self._body_too_large()

    def _body_too_large(self) -> BadRequest:
        return BadRequest(413, f"The body is larger than {self._bounds.body_bytes} bytes.")

    def on_message_complete(self) -> None:
        request = self._request
        if request is None:
            return  # an offered upgrade: see `_decline_upgrade`
        self._request = None
        if self._body:
            request.body = bytes(self._body)
        self.in_body = False
        self.wants_continue = False
        self.ready.append(request)
        if request.keep_alive:
            self._reset()
        else:
            self.done = True


class _Stop(Exception):
    """Leaves llhttp after a refusal; never leaves this module."""
