"""An answer's frames as they come in at its entry (trio shell)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from meshd import limits
from meshd.backends import BackendFailed
from meshd.errors import StreamBroken
from meshd.inference import Load
from meshd.relay.sinks import AnswerSink
from meshd.wire.answer import AnswerFrame, AnswerReader, FrameKind

STEP_BYTES: Final = limits.KIB
"""Of frames at a time, some eighty tokens: in a client's dialect they are twenty times as large,
and what is written to a client in one go must be read within `limits.HTTP_SEND_STALL_S`."""


class RemoteSink(AnswerSink, Protocol):
    """A sink that also wants to know of frames without content."""

    def heard(self) -> None:
        """The holder gave a sign of life; the first one says that it has the request."""
        ...

    def sent(self, size_bytes: int) -> None:
        """The whole request is with this machine's transport."""
        ...


class Link(Protocol):
    """What brings frames."""

    async def read_some(self) -> bytes:
        """The next bytes; b"" at the end.  Raises StreamBroken."""
        ...

    def abort(self, reason: str) -> None: ...


async def read_answer(
    link: Link, sink: RemoteSink, reader: AnswerReader, on_load: Callable[[Load], None]
) -> None:
    """Pass on what comes over one link, to the answer's end.

    Raises BackendFailed if the answer ended so, StreamBroken if it did not end, ProtocolError, and
    what the sink raises.
    """
    last: AnswerFrame | None = None
    try:
        while data := await link.read_some():
            for at in range(0, len(data), STEP_BYTES):
                frames = reader.feed(data[at : at + STEP_BYTES])
                if items := [item for frame in frames for item in frame.items]:
                    await sink.emit(items)
                else:
                    sink.heard()
                for frame in frames:
                    if frame.kind is FrameKind.LOAD and frame.load is not None:
                        on_load(frame.load)
                    elif frame.kind is FrameKind.BEGUN:
                        sink.begun()
                    last = frame
    except StreamBroken:
        if not reader.complete:
            raise
        # It said how the answer ended, and went away before it had said that this was all.
    except BaseException:  # also a cancel: a connection half read serves nobody; raised again
        link.abort("the attempt is over")
        raise
    # The body was read to its end, so the connection goes back to the pool, also after "busy".
    if last is not None and last.failure is not None:
        raise BackendFailed(last.failure)
    if last is None or last.kind is not FrameKind.END:
        raise StreamBroken("the stream of frames ended without an end")
