"""What a run has said so far, for everybody who listens to it (trio shell).

A run speaks into a `Said` and waits for nobody.  Whoever wants its answer listens from whatever
byte on, at a pace of its own: what is kept is kept once, however many listen, and counted in the
node's room for bodies until the run is over and the last listener has gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec
import trio

from meshd import limits
from meshd.errors import MeshdError, Refused
from meshd.http import Headers, Share


class Whole(msgspec.Struct, frozen=True):
    """The stream is said to its end."""


class Answer(msgspec.Struct, frozen=True):
    """No stream: this was the whole answer, or why there is none."""

    status: int
    headers: Headers
    body: bytes


class Broken(msgspec.Struct, frozen=True):
    """The stream ends without being whole."""

    last: bytes
    """What tells that to a client, in the dialect; empty if nothing was heard of the stream."""


End = Whole | Answer | Broken


class TooMuchSaid(MeshdError):
    """An answer that is to be kept has grown over what may be kept."""


class NotHeard(MeshdError):
    """A run cannot be listened to, now or any more; the text says why."""


class Listener(Protocol):
    """One way to hear what a run says."""

    async def next(self) -> bytes | End:
        """What it says next; b"" if it is at it and has nothing to say; at last how it ended.

        Raises NotHeard if that cannot be heard any more.
        """
        ...


class Said:
    """The answer of one run, as far as it has come.  The run owns it, and closes it."""

    def __init__(self, share: Share, most_bytes: int) -> None:
        """`share` is released when nobody needs it any more."""
        self.headers: Headers = ()
        """Of a stream that has begun."""
        self.begun = False
        self.end: End | None = None
        self.most_bytes = most_bytes
        self._share = share
        self._data = bytearray()
        self._heard_bytes: int | None = None
        """How much of it may be heard; None: all."""
        self._quiets = 0
        self._listeners = 0
        self._closed = False
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def size_bytes(self) -> int:
        """How much may be heard of it now."""
        return len(self._data) if self._heard_bytes is None else self._heard_bytes

    @property
    def all(self) -> bytes:
        """Everything, also what may not be heard yet."""
        return bytes(self._data)

    # ---------------------------------------------------------------- the run

    def begin(self, headers: Headers) -> None:
        """A stream begins."""
        self.begun, self.headers = True, headers

    def add(self, data: bytes) -> None:
        """The stream goes on.  Raises TooMuchSaid, and keeps what it had."""
        size_bytes = len(self._data) + len(data)
        if size_bytes > self.most_bytes or not self._share.hold(size_bytes):
            raise TooMuchSaid(f"an answer has grown to {size_bytes} bytes, which cannot be kept")
        self._data += data
        if self._heard_bytes is None:
            self._waiting.unpark_all()

    def hold_back(self) -> None:
        """What is added from now on is not heard before the end, and only if that is `Whole`."""
        if self._heard_bytes is None:
            self._heard_bytes = len(self._data)

    def quiet(self) -> None:
        """The run is at it and has nothing to say."""
        self._quiets += 1
        self._waiting.unpark_all()

    def finish(self, end: End) -> None:
        """There is no more.  Whoever says it first is right."""
        if self.end is not None:
            return
        if isinstance(end, Whole):
            self._heard_bytes = None
        else:
            self.hold_back()
        self.end = end
        self._waiting.unpark_all()

    def close(self) -> None:
        """The run needs it no more."""
        self._closed = True
        self._forget()

    # ---------------------------------------------------------------- listeners

    @contextmanager
    def listen(self, from_byte: int = 0) -> Iterator[Listener]:
        """Hear it from there on.  Raises NotHeard if too many do, or if it is gone."""
        if self._closed and not self._listeners:
            raise NotHeard("what that run said is not kept any more")
        if self._listeners >= limits.SAID_LISTENERS:
            raise NotHeard(f"{limits.SAID_LISTENERS} clients listen to that run already")
        if from_byte > self.size_bytes:
            raise Refused(f"that run has said {self.size_bytes} bytes, and not {from_byte}")
        self._listeners += 1
        try:
            yield _Listener(self, from_byte)
        finally:
            self._listeners -= 1
            self._forget()

    def _forget(self) -> None:
        if self._closed and not self._listeners:
            self._data = bytearray()
            self._heard_bytes = None
            self._share.release()


class _Listener:
    """Reads a `Said` of this node."""

    __slots__ = ("_at", "_quiets", "_said")

    def __init__(self, said: Said, from_byte: int) -> None:
        self._said = said
        self._at = from_byte
        self._quiets = said._quiets

    async def next(self) -> bytes | End:
        said = self._said
        await trio.lowlevel.checkpoint()
        while True:
            if self._at < said.size_bytes:
                upto = min(self._at + limits.SAID_STEP_BYTES, said.size_bytes)
                piece = bytes(said._data[self._at : upto])
                self._at, self._quiets = upto, said._quiets
                return piece
            if said.end is not None:
                return said.end
            if self._quiets != said._quiets:
                self._quiets = said._quiets
                return b""
            await said._waiting.park()
