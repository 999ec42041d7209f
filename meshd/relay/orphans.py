"""Runs of this node for a keyed request whose entry is gone: this node answers in its place.

A run for another node says what it says into an `Outgoing`, which keeps it.  When the node that
asked is gone, whoever takes over reads it from its first item on, over a link within this process:
to the relay here it is an attempt like any other, so that all the rest (how the answer is written,
what is done should this engine die too) is as it was at the entry.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from meshd.backends import BackendFailed, RunControl
from meshd.errors import MeshdError, StreamBroken
from meshd.ids import NodeId
from meshd.inference import Failure, FailureKind
from meshd.relay.incoming import RemoteSink, read_answer
from meshd.relay.kept_answers import KeptAnswer
from meshd.relay.outgoing import GONE, Outgoing
from meshd.relay.sinks import SinkClosed
from meshd.wire.answer import AnswerReader
from meshd.wire.serve import KeyedClaim, ServeRequest

_LOST = Failure(FailureKind.HOLDER_LOST, "the run that was to be gone on with went away", 502)


@dataclass(frozen=True, slots=True)
class Orphan:
    """A run of this node, and what it was asked for."""

    entry: NodeId
    asked: ServeRequest
    claim: KeyedClaim
    source: Outgoing | KeptAnswer
    """What it says, or said: it may have ended before the entry was known to be gone."""
    control: RunControl = field(default_factory=RunControl)

    def abandon(self, reason: str) -> None:
        """Nobody is there for it: end it.  Harmless once it has ended."""
        self.control.abort(reason)
        if isinstance(self.source, Outgoing):
            self.source.nobody_waits()

    async def serve(self, sink: RemoteSink, control: RunControl) -> None:
        """All that it says, from its first item on; raises BackendFailed like `Holder.serve`."""
        pipe = _Pipe()
        control.attach(pipe)
        problem: MeshdError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, pipe)
            try:
                await read_answer(pipe, sink, AnswerReader(), lambda load: None)
            except MeshdError as error:
                problem = error
            nursery.cancel_scope.cancel()
        control.detach()
        if problem is not None:
            self.abandon(control.aborted or str(problem))
        if isinstance(problem, BackendFailed | SinkClosed):
            raise problem
        if problem is not None:
            raise BackendFailed(_LOST) from problem

    async def _send(self, pipe: _Pipe) -> None:
        with suppress(SinkClosed, StreamBroken):
            if isinstance(self.source, KeptAnswer):
                await pipe.finish(self.source.rest(0))
            else:
                self.source.attach(pipe)
                await self.source.send_rest()
        pipe.close()


class _Pipe:
    """A link within this process: `Outgoing` writes at one end, the attempt reads at the other."""

    def __init__(self) -> None:
        self._in, self._out = trio.open_memory_channel[bytes](0)
        self.on_disconnect: Callable[[], None] | None = None
        self.disconnected = False
        self.finished = False

    async def write(self, data: bytes) -> None:
        try:
            await self._in.send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamBroken(GONE) from error

    def write_nowait(self, data: bytes) -> bool:
        try:
            self._in.send_nowait(data)
        except trio.WouldBlock:
            return False
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamBroken(GONE) from error
        return True

    async def finish(self, data: bytes = b"") -> None:
        if data:
            await self.write(data)
        self.finished = True
        self._in.close()

    async def read_some(self) -> bytes:
        try:
            return await self._out.receive()
        except trio.EndOfChannel:
            return b""
        except trio.ClosedResourceError as error:
            raise StreamBroken(GONE) from error

    def close(self) -> None:
        """Nothing more is written."""
        self._in.close()

    def abort(self, reason: str) -> None:
        """Neither end is there any more."""
        del reason
        self._in.close()
        self._out.close()
        self.disconnected = True
        callback, self.on_disconnect = self.on_disconnect, None
        if callback is not None:
            callback()
