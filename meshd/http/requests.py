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
from typing import NamedTuple

import httptools

from meshd import limits
from meshd.http.messages import BadRequest, Headers, Refusal, ServerRequest
from meshd.ports import Remote

Admit = Callable[[ServerRequest], tuple[int, Headers, bytes] | None]


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

    The callbacks of llhttp run once per header and per request, so they do next to nothing; a head
    is looked at as a whole when it is complete.  And clients repeat themselves: a request that came
    in one piece, with a head that is byte for byte the last one's, is not parsed again.
    """

    def __init__(self, bounds: RequestLimits, remote: Remote, admit: Admit | None = None) -> None:
        self.ready: deque[ServerRequest | Refusal] = deque()
        self.in_body = False
        """Between the end of a head and the end of its message."""
        self.done = False
        """No further request will come out: refused, or the client said `Connection: close`."""
        self.wants_continue = False
        """The client waits for `100 Continue` before it sends the body."""
        self.stagnant_bytes = 0
        """Fed since a message ended or a body grew: zero between messages."""
        self._fed_bytes = 0
        self._bounds = bounds
        self._remote = remote
        self._admit = admit
        self._parser = httptools.HttpRequestParser(self)
        self._request: ServerRequest | None = None
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []  # of the head, then of the trailer
        self._body: bytes | bytearray = b""
        self._body_coming = False
        self._last: _Seen | None = None

    @property
    def path(self) -> str:
        """Of the request that is arriving or was refused, as far as it is known; else empty."""
        if self._request is not None:
            return self._request.path
        path = self._target.partition(b"?")[0].decode("latin-1")
        return path if path.startswith("/") else ""

    @property
    def body_bytes(self) -> int:
        """How much of the body that is arriving is here."""
        return len(self._body)

    def feed(self, data: bytes) -> None:
        """Take what arrived.  Never raises for what a client can send."""
        if self.done:
            return
        last, self._last = self._last, None
        if last is not None and len(data) == last.size_bytes and data.startswith(last.head):
            self._last = last
            self._repeat(last, data)
            return
        body_bytes = len(self._body)
        self._fed_bytes = self.stagnant_bytes + len(data)
        upgrade_at: int | None = None
        try:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                upgrade_at = upgrade.args[0]
            if upgrade_at is not None:
                self._decline_upgrade(data[upgrade_at:])
            elif len(self.ready) == 1 and not self.stagnant_bytes:
                self._remember(data)
            if not self.ready and len(self._body) == body_bytes:
                self._stagnate(len(data))
            else:
                self.stagnant_bytes = 0
        except BadRequest as error:
            self._refuse(Refusal(error.status, str(error)))
        except httptools.HttpParserCallbackError as error:
            self._refuse(_refusal_in(error))
        except httptools.HttpParserError as error:
            if not self.done:  # after `Connection: close` the rest does not matter
                self._refuse(Refusal(400, f"The request is not valid HTTP/1.1: {error}."))

    def _remember(self, data: bytes) -> None:
        """If `data` was one whole request and nothing else."""
        request = self.ready[0]
        if isinstance(request, ServerRequest) and request.keep_alive:
            end = data.find(b"\r\n\r\n") + 4
            # A chunked body is longer on the wire than it is, and so is what follows a request.
            if len(data) == end + len(request.body):
                self._last = _Seen(
                    data[:end],
                    len(data),
                    request.method,
                    request.path,
                    request.query,
                    tuple(request.headers),  # a handler may change its list
                    request.http10,
                )

    def _repeat(self, last: _Seen, data: bytes) -> None:
        request = ServerRequest(
            last.method,
            last.path,
            last.query,
            list(last.headers),
            b"",
            self._remote,
            last.http10,
            True,
        )
        if self._admit is not None and (refused := self._admit(request)) is not None:
            status, headers, body = refused
            self._request = request
            self._refuse(Refusal(status, headers=headers, body=body))
            return
        request.body = data[len(last.head) :]
        self.ready.append(request)

    def _stagnate(self, size_bytes: int) -> None:
        """Bound what llhttp keeps of one long field, and fields without end."""
        self.stagnant_bytes += size_bytes
        if self.stagnant_bytes > 2 * self._bounds.head_bytes:
            raise self._head_too_large()
        self._check_target()
        self._check_fields(self._fields)

    def _check_target(self) -> None:
        limit = self._bounds.target_bytes
        if len(self._target) > limit:
            raise BadRequest(414, f"The request target is longer than {limit} bytes.")

    def _check_fields(self, fields: list[tuple[bytes, bytes]]) -> None:
        if len(fields) > self._bounds.headers:
            raise BadRequest(431, f"More than {self._bounds.headers} header fields.")
        limit = self._bounds.head_bytes
        # As a rule all that was fed is less, and the fields need not be added up.
        if self._fed_bytes > limit and sum(len(n) + len(v) for n, v in fields) > limit:
            raise self._head_too_large()

    def _head_too_large(self) -> BadRequest:
        return BadRequest(431, f"The request head is larger than {self._bounds.head_bytes} bytes.")

    def _refuse(self, refusal: Refusal) -> None:
        self.done = True
        self.wants_continue = False
        request = self._request
        refusal.head_only = request is not None and request.method == "HEAD"
        refusal.more_coming = self._body_coming or refusal.status in (414, 431)
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
            for name, value in self._fields
            if name.lower() not in (b"upgrade", b"connection")
        ]
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._fields = []
        self._parser.feed_data(b"\r\n".join(lines) + b"\r\n\r\n")
        if rest and not self.done:
            offer_at: int | None = None
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                offer_at = upgrade.args[0]
            if offer_at is not None:
                self._decline_upgrade(rest[offer_at:])

    # --- callbacks of llhttp

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        fields = self._fields
        self._check_target()
        self._check_fields(fields)
        if parser.should_upgrade():
            if parser.get_method() == b"CONNECT":
                raise BadRequest(501, "This is not a forward proxy: CONNECT is not served.")
            return  # `feed` parses this head again, without the offer
        headers = [(name.lower(), value.rstrip(b" \t")) for name, value in fields]
        named = dict(headers)
        keep_alive = parser.should_keep_alive()
        http10 = False
        if not keep_alive or b"connection" in named:  # else it can only be 1.1
            http10 = self._is_http10()
        if b"host" not in named:
            if not http10:
                raise BadRequest(400, "A request needs a Host header.")
        elif len(named) != len(headers) and [name for name, _ in headers].count(b"host") > 1:
            raise BadRequest(400, "A request needs exactly one Host header.")
        target = self._target.decode("latin-1")
        if not target.startswith("/") and target != "*":
            target, headers = _take_absolute(target, headers)
        path, _, query = target.partition("?")
        request = self._request = ServerRequest(
            _METHODS[parser.get_method()],
            path,
            query,
            headers,
            b"",
            self._remote,
            http10,
            keep_alive,
        )
        self.in_body = True
        self._fields = []
        self._expect_body(named, http10)
        if self._admit is not None and (refused := self._admit(request)) is not None:
            raise _NotAdmitted(*refused)
        if self._body_coming and int(named.get(b"content-length", 0)) > self._bounds.body_bytes:
            raise self._body_too_large()

    def _is_http10(self) -> bool:
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise BadRequest(505, f"HTTP/{version} is not spoken here, only HTTP/1.1.")
        return bool(version == "1.0")

    def _expect_body(self, named: dict[bytes, bytes], http10: bool) -> None:
        coding = named.get(b"transfer-encoding")
        if coding is None:
            self._body_coming = named.get(b"content-length", b"0") != b"0"
        else:
            if http10:
                raise BadRequest(400, "HTTP/1.0 has no Transfer-Encoding.")
            if coding.lower() != b"chunked":
                raise BadRequest(501, "Only the transfer coding `chunked` is understood.")
            self._body_coming = True
        if b"expect" in named:
            if named[b"expect"].lower() != b"100-continue":
                raise BadRequest(417, "Only the expectation `100-continue` can be met.")
            self.wants_continue = True

    def on_body(self, data: bytes) -> None:
        body = self._body
        if not body:
            self._body = body = data
        else:
            if type(body) is bytes:
                body = self._body = bytearray(body)
            body += data
        if len(body) > self._bounds.body_bytes:
            raise self._body_too_large()

    def _body_too_large(self) -> BadRequest:
        return BadRequest(413, f"The body is larger than {self._bounds.body_bytes} bytes.")

    def on_message_complete(self) -> None:
        request = self._request
        if request is None:
            return  # an offered upgrade: see `_decline_upgrade`
        if self._fields:
            self._check_fields(self._fields)  # a trailer: bounded, and not believed
            self._fields = []
        if self._body:
            request.body = bytes(self._body)
            self._body = b""
        self._request = None
        self._target = b""
        self._body_coming = self.in_body = self.wants_continue = False
        self.ready.append(request)
        if not request.keep_alive:
            self.done = True


class _Seen(NamedTuple):
    """A request that came in one piece: what its head said."""

    head: bytes
    size_bytes: int
    method: str
    path: str
    query: str
    headers: tuple[tuple[bytes, bytes], ...]
    http10: bool


class _NotAdmitted(Exception):
    """Leaves llhttp with what `admit` wants said; never leaves this module."""


def _refusal_in(error: httptools.HttpParserCallbackError) -> Refusal:
    cause = error.__context__
    if isinstance(cause, BadRequest):
        return Refusal(cause.status, str(cause))
    if isinstance(cause, _NotAdmitted):
        status, headers, body = cause.args
        return Refusal(status, headers=headers, body=body)
    raise error


def _take_absolute(
    target: str, headers: list[tuple[bytes, bytes]]
) -> tuple[str, list[tuple[bytes, bytes]]]:
    """`GET http://host/path`: the authority in it is the Host (RFC 9112, 3.2.2)."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise BadRequest(400, "The request target is neither a path nor an http URL.")
    cut = min((i for i in (rest.find("/"), rest.find("?")) if i >= 0), default=len(rest))
    authority = rest[:cut].rpartition("@")[2].encode("latin-1")
    others = [header for header in headers if header[0] != b"host"]
    path = rest[cut:]
    return path if path.startswith("/") else "/" + path, [(b"host", authority), *others]


class _Methods(dict[bytes, str]):
    """Method names as text.  llhttp knows few, so this does not grow."""

    def __missing__(self, method: bytes) -> str:
        return self.setdefault(method, method.decode("ascii"))


_METHODS = _Methods()
