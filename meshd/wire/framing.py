"""Frames: a length, then that many bytes.  Pure.

A frame is a u32 (big-endian) and a payload of that length.  An empty frame says nothing, so its
length is refused: a reader fed with zeros stops at once.  Control links and joins are made of
frames; so are the bodies of forwarded answers (`answer.py`, which reads them itself, faster).
"""

from __future__ import annotations

from typing import Final

from meshd.errors import LimitExceeded, ProtocolError

HEAD_BYTES: Final = 4
LENGTH_MAX: Final = 2**32 - 1


def frame(payload: bytes) -> bytes:
    """The payload as a frame.  Raises ValueError if it is empty or longer than a u32 can say."""
    if not 0 < len(payload) <= LENGTH_MAX:
        raise ValueError(f"a frame cannot hold {len(payload)} bytes")
    return len(payload).to_bytes(HEAD_BYTES, "big") + payload


class FrameReader:
    """Cuts a stream of bytes into payloads; one for each direction of a connection.

    It holds at most one incomplete frame: `max_bytes` and a head.  After an error the stream has
    lost its place: the connection is to be closed, and every later call fails again.
    """

    __slots__ = ("_failure", "_held", "_max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = bytearray()
        self._failure: ProtocolError | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; the payloads that are complete now, in order.

        Raises LimitExceeded as soon as a head announces more than `max_bytes`, before any of that
        payload is kept, and ProtocolError for an empty frame.  Frames in the same `data` before the
        faulty one are lost with the connection.
        """
        if self._failure is not None:
            raise self._failure
        held = self._held
        held += data
        payloads: list[bytes] = []
        at = 0
        while len(held) - at >= HEAD_BYTES:
            length = int.from_bytes(held[at : at + HEAD_BYTES], "big")
            if not 0 < length <= self._max_bytes:
                self._fail(length)
            end = at + HEAD_BYTES + length
            if end > len(held):
                break
            payloads.append(bytes(held[at + HEAD_BYTES : end]))
            at = end
        del held[:at]
        return payloads

    @property
    def mid_frame(self) -> bool:
        """Whether an incomplete frame is held: the end of the stream now would be a cut."""
        return bool(self._held)

    def _fail(self, length: int) -> None:
        self._held = bytearray()
        if length == 0:
            self._failure = ProtocolError("A frame is empty; a frame holds at least one byte.")
        else:
            self._failure = LimitExceeded(
                f"A frame of {length} bytes is over the limit of {self._max_bytes}."
            )
        raise self._failure
