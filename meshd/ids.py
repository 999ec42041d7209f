"""Names of things: nodes, meshes, requests.  Pure.

A node id and a mesh id are hashes of public keys, so nobody can take another's; addresses and
host names are mere attributes (identity/DESIGN.md).
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import NewType

from meshd.digits import whole_number

NodeId = NewType("NodeId", str)
"""26 lower-case base32 characters: the first 130 bits of SHA-256 over the node's public key."""

MeshId = NewType("MeshId", str)
"""The same over the public key of the mesh's CA."""

RequestId = NewType("RequestId", str)

_ID = re.compile(r"[a-z2-7]{26}\Z")
_SHORT_CHARS = 6


def key_id(public_key_der: bytes) -> str:
    """The id of a public key: 26 base32 characters of SHA-256(SubjectPublicKeyInfo DER)."""
    digest = hashlib.sha256(public_key_der).digest()
    return base64.b32encode(digest).decode().lower()[:26]


def is_key_id(text: str) -> bool:
    """Whether the text has the form of a node id or a mesh id."""
    return _ID.match(text) is not None


def short(key: str) -> str:
    """The few characters of an id that a person reads in a table."""
    return key[:_SHORT_CHARS]


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a socket listens: a host name or an IP literal (v6 without brackets), and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, default_port: int) -> Address:
    """Read `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT` or a bare v6 literal.

    Raises ValueError with a sentence for the reader.
    """
    text = text.strip()
    host, port_text = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not an address: write [v6 address]:port")
        port_text = rest[1:]
    elif text.count(":") == 1:
        host, _, port_text = text.partition(":")
    if not host or any(c.isspace() or c in "/@" for c in host):
        raise ValueError(f"{text!r} is not an address: write HOST or HOST:PORT")
    if not port_text:
        return Address(host, default_port)
    port = whole_number(port_text)
    if port is None or not 0 < port < 65536:
        raise ValueError(f"{text!r}: the port must be a number from 1 to 65535")
    return Address(host, port)
