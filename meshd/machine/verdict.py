"""What the accepting side of a member connection says first: welcome, or why not.  Pure.

In TLS 1.3 the dialler has finished its handshake before the other side has looked at its
certificate, and would learn of a refusal only by a later cut that looks like any other.  So the
accepting side begins with one byte: 1 is welcome; 0 is a refusal, then one byte of length and that
many bytes of reason in UTF-8, and the end.
"""

from __future__ import annotations

_WELCOME = 1
_REFUSED = 0
MAX_BYTES = 2 + 255


def welcome() -> bytes:
    return bytes([_WELCOME])


def refusal(reason: str) -> bytes:
    text = reason.encode()[:255].decode(errors="ignore").encode()
    return bytes([_REFUSED, len(text)]) + text


def read_verdict(data: bytes) -> str | None:
    """None if welcome, else the reason.  Raises ValueError for anything else."""
    if data == welcome():
        return None
    if len(data) >= 2 and data[0] == _REFUSED and len(data) == 2 + data[1]:
        return data[2:].decode(errors="replace")
    raise ValueError("not a verdict")
