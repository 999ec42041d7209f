"""What is not HTTP, or HTTP of two meanings."""

from __future__ import annotations

import os

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
OLLAMA = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n"
NOT_HTTP = {
    "random": os.urandom(2000),
    "zeros": bytes(2000),
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "control frames": b"\x00\x00\x00\x10" + bytes(16),
}
SMUGGLED = {
    "length and chunked": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /",
    "chunked and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET /",
    "two lengths": b"Content-Length: 3\r\nContent-Length: 30\r\n\r\nabc",
    "a signed length": b"Content-Length: +3\r\n\r\nabc",
    "a list of lengths": b"Content-Length: 3, 30\r\n\r\nabc",
    "a hidden coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding behind a tab": b"Transfer-Encoding:\tchunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "a coding and another": b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "a folded header": b"X: a\r\n Content-Length: 30\r\n\r\n",
    "a bare line feed": b"X: a\nContent-Length: 30\r\n\r\n",
    "a blank before the colon": b"Content-Length : 3\r\n\r\nabc",
    "two hosts": b"Host: evil.example\r\n\r\n",
    "a zero byte": b"X: a\0b\r\n\r\n",
    "a chunk size of nonsense": b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk too long": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
}
