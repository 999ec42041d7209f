"""What a run of a keyed request has said, asked of the node that runs it.  Pure.

`POST /mesh/v1/said` carries a `SaidRequest`; the answer's body is a stream of frames (`framing.py`)
with `[kind, bytes]` each, read by a `SaidReader`.  proto/peer.md is the specification.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final

import msgspec

from meshd import limits
from meshd.errors import ProtocolError
from meshd.wire.framing import FrameReader, frame

SAID_PATH: Final = "/mesh/v1/said"

_Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class SaidRequest(msgspec.Struct, frozen=True):
    """The body of `POST /mesh/v1/said`: what this run says, from that byte on."""

    job: _Whole
    fence: _Whole
    """Names the run: another one of the same job says something else."""
    from_byte: _Whole = 0
    """How much of it the asker has already."""


class SaidKind(IntEnum):
    """What a frame is.  ONLY APPEND; kinds that are not known are skipped."""

    DATA = 1
    """The next bytes of the answer, in the dialect of the request."""
    QUIET = 2
    """The run is at it and has nothing to say; whoever waits may be told so."""
    BEAT = 3
    """The node is there."""
    WHOLE = 4
    """That was all of it, and it is the key's answer for good.  Last."""
    BROKEN = 5
    """There will be no more of this run.  Last; the bytes end a begun stream in the dialect."""


class SaidFrame(msgspec.Struct, frozen=True, array_like=True):
    """One frame: its kind, and its bytes."""

    kind: int
    data: bytes = b""


LAST: Final = frozenset({SaidKind.WHOLE, SaidKind.BROKEN})
_KNOWN: Final = frozenset(SaidKind)

_encode = msgspec.msgpack.Encoder(order="sorted").encode
_request_decoder = msgspec.msgpack.Decoder(SaidRequest)
_frame_decoder = msgspec.msgpack.Decoder(SaidFrame)


def encode_said_request(asked: SaidRequest) -> bytes:
    """The body that asks."""
    return _encode(asked)


def decode_said_request(body: bytes) -> SaidRequest:
    """Read it.  Raises ProtocolError."""
    try:
        return _request_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"A question about a run is malformed: {error}.") from error


def said_frame(kind: SaidKind, data: bytes = b"") -> bytes:
    """One frame of the answer; `data` is at most `limits.SAID_STEP_BYTES`."""
    return frame(_encode(SaidFrame(kind, data)))


class SaidReader:
    """Reads the frames of one answer."""

    def __init__(self) -> None:
        self._frames = FrameReader(limits.STREAM_FRAME_BYTES)
        self.complete = False
        """The last frame was read."""

    def feed(self, data: bytes) -> list[SaidFrame]:
        """Take what arrived; the frames that are complete now, without those of unknown kinds.

        Raises ProtocolError for what is no frame, and for one after the last.
        """
        found = []
        for payload in self._frames.feed(data):
            if self.complete:
                raise ProtocolError("A frame came after the last one of what a run said.")
            try:
                read = _frame_decoder.decode(payload)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise ProtocolError(f"A frame of what a run said is malformed: {error}.") from error
            if read.kind in _KNOWN:
                found.append(read)
            self.complete = read.kind in LAST
        return found
