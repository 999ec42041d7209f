"""What the accepting side of a member connection says first: welcome, or why not.  Pure.

In TLS 1.3 the dialler has finished its handshake before the other side has looked at its
certificate, and would learn of a refusal only by a later cut that looks like any other.  So the
accepting side begins with one byte: 1 is welcome; 0 is a refusal, and 2 one because the dialler was
removed from the mesh, then one byte of length and that many bytes of reason in UTF-8, and the end.
"""

from __future__ import annotations

from meshd.errors import NotAdmitted, SentAway
from meshd.ids import Address

_WELCOME = 1
_REFUSED = 0
_REMOVED = 2
MAX_BYTES = 2 + 255


def welcome() -> bytes:
    return bytes([_WELCOME])


def refusal(error: NotAdmitted) -> bytes:
    text = str(error).encode()[:255].decode(errors="ignore").encode()
    return bytes([_REMOVED if error.was_removed else _REFUSED, len(text)]) + text


def read_verdict(data: bytes, address: Address) -> NotAdmitted | None:
    """None if welcome, else what to raise.  Raises ValueError for anything else."""
    if data == welcome():
        return None
    if len(data) >= 2 and data[0] in (_REFUSED, _REMOVED) and len(data) == 2 + data[1]:
        reason = data[2:].decode(errors="replace")
        kind = SentAway if data[0] == _REMOVED else NotAdmitted
        return kind(f"{address} does not let this node in: {reason}")
    raise ValueError("not a verdict")
