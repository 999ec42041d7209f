"""Which server name a TLS ClientHello asks for, from its first bytes.  Pure.

The peer port has two TLS contexts, and Python can exchange a connection's context inside the
handshake (`sni_callback`), but OpenSSL then keeps the first one's demand for a client certificate.
So the name is read before the handshake begins, from bytes that stay in the socket.  Nothing is
decided by this reading alone: each context checks in its own `sni_callback`, by OpenSSL's reading,
that it serves that name.
"""

from __future__ import annotations

MAX_BYTES = 16 * 1024
"""A ClientHello of a member has some 500 bytes, some 1,700 with post-quantum key shares."""

_HANDSHAKE_RECORD = 22
_CLIENT_HELLO = 1
_EXTENSION_SERVER_NAME = 0
_HOST_NAME = 0


class NotHello(ValueError):
    """These bytes are not the beginning of a TLS ClientHello."""


class _Incomplete(Exception):
    pass


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise _Incomplete
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> _Cursor:
        return _Cursor(self.take(self.number(length_size)))

    def more(self) -> bool:
        return self.at < len(self.data)


def server_name(data: bytes) -> str | None:
    """The name asked for, "" if none is asked for, None if more bytes are needed to tell.

    Raises NotHello.
    """
    try:
        handshake = _handshake_bytes(data)
        message = _Cursor(handshake)
        if message.number(1) != _CLIENT_HELLO:
            raise NotHello("the first message is not a ClientHello")
        hello = message.vector(3)
    except _Incomplete:
        if len(data) >= MAX_BYTES:
            raise NotHello("the ClientHello is too large") from None
        return None
    try:
        return _name_in(hello)
    except (_Incomplete, UnicodeDecodeError):
        raise NotHello("the ClientHello is malformed") from None


def _handshake_bytes(data: bytes) -> bytes:
    """The contents of the handshake records that are complete."""
    records = _Cursor(data)
    handshake = b""
    try:
        while records.more():
            if records.number(1) != _HANDSHAKE_RECORD or records.number(1) != 3:
                if handshake:  # something else follows the ClientHello
                    break
                raise NotHello("the first record is not a TLS handshake")
            records.take(1)
            handshake += records.vector(2).data
    except _Incomplete:
        pass
    return handshake


def _name_in(hello: _Cursor) -> str:
    hello.take(2 + 32)  # version, random
    hello.vector(1)  # session id
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression
    if not hello.more():
        return ""
    extensions = hello.vector(2)
    while extensions.more():
        kind = extensions.number(2)
        content = extensions.vector(2)
        if kind == _EXTENSION_SERVER_NAME:
            names = content.vector(2)
            while names.more():
                name_kind = names.number(1)
                name = names.vector(2)
                if name_kind == _HOST_NAME:
                    return name.data.decode("ascii")
    return ""
