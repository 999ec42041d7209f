"""A real engine at a human pace: its own bytes, only later.

The tiny model says all it has to say within milliseconds.  A `Pacer` stands before the engine and
lets each stream through at `tokens_per_s`, event by event; other answers pass at once.  To whoever
asks it *is* the engine, so it has to share its fate: `break_off` when the engine is killed, since
what was not said yet never will be, and `freeze` while it is stopped.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

import trio

from meshd.errors import DialFailed
from meshd_chaos import wires
from meshd_chaos.links import Gate

_HEAD_MAX_BYTES: Final = 64 * 1024
_EVENT_ENDS: Final = {b"text/event-stream": b"\n\n", b"application/x-ndjson": b"}\n"}
"""How a stream of that kind ends an event."""
_GONE: Final = (OSError, trio.ClosedResourceError)


class Pacer:
    """Where a daemon finds its engine."""

    def __init__(self, tokens_per_s: float, listener: socket.socket) -> None:
        """`listener` listens on the address already."""
        host, port = listener.getsockname()[:2]
        self.url = f"http://{host}:{port}"
        self.tokens_per_s = tokens_per_s
        """Of each stream; from the next token on."""
        self.target: tuple[str, int] | None = None
        """The engine itself; None: there is none now."""
        self._gate = Gate()
        self._streams: set[_Exchange] = set()
        self._listener = listener

    async def run(self) -> None:
        """Pass requests and answers on until cancelled."""
        await wires.serve(self._listener, self._serve)

    def freeze(self) -> None:
        """Say nothing more, and hear nothing; connections are still accepted."""
        self._gate.shut()

    def thaw(self) -> None:
        """Go on where it stood."""
        self._gate.open()

    def break_off(self) -> int:
        """Reset every connection; how many there were."""
        broken = list(self._streams)
        for exchange in broken:
            exchange.reset()
        return len(broken)

    async def _serve(self, daemon: socket.socket) -> None:
        exchange = _Exchange(self, self._gate, daemon)
        self._streams.add(exchange)
        try:
            await exchange.run()
        finally:
            self._streams.discard(exchange)


class _Exchange:
    """One connection of a daemon to its engine."""

    def __init__(self, pacer: Pacer, gate: Gate, daemon: socket.socket) -> None:
        self._pacer, self._gate, self._daemon = pacer, gate, daemon
        self._scope = trio.CancelScope()
        self._head_is_next = True
        """The next bytes of the engine are the head of an answer."""

    def reset(self) -> None:
        """Break it off as a dying process would."""
        wires.reset(self._daemon)
        self._scope.cancel()

    async def run(self) -> None:
        with self._scope:
            engine = await self._reach()
            if engine is None:
                self.reset()
                return
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._ask, engine, nursery.cancel_scope)
                    try:
                        await self._answer(engine)
                    except _GONE:
                        self.reset()
                    nursery.cancel_scope.cancel()
            finally:
                wires.close(engine)
                wires.close(self._daemon)

    async def _reach(self) -> socket.socket | None:
        await self._gate.passed()
        if self._pacer.target is None:
            return None
        try:
            return await wires.connect(self._pacer.target)
        except DialFailed:
            return None

    async def _ask(self, engine: socket.socket, over: trio.CancelScope) -> None:
        """What the daemon sends, at once; when it goes, so does the engine's connection."""
        try:
            while data := await wires.receive(self._daemon):
                await self._gate.passed()
                self._head_is_next = True
                await wires.send(engine, data)
        except _GONE:
            pass  # the same as an end in good order
        await self._gate.passed()  # a frozen engine notices nothing
        over.cancel()

    async def _answer(self, engine: socket.socket) -> None:
        """What the engine says, event by event where it is a stream."""
        ends, head, due_at = b"", b"", 0.0
        while data := await wires.receive(engine):
            if self._head_is_next:
                head += data
                if b"\r\n\r\n" not in head and len(head) < _HEAD_MAX_BYTES:
                    continue
                ends, data, head = _event_end(head), head, b""
                self._head_is_next = False
            for piece in _pieces(data, ends):
                if ends and piece.endswith(ends):
                    due_at = max(due_at, trio.current_time()) + 1 / self._pacer.tokens_per_s
                    await trio.sleep_until(due_at)
                await self._gate.passed()
                await wires.send(self._daemon, piece)


def _event_end(head: bytes) -> bytes:
    """What ends an event of the answer that begins so; b"": it is no stream."""
    fields = head.partition(b"\r\n\r\n")[0].lower()
    return next((end for kind, end in _EVENT_ENDS.items() if kind in fields), b"")


def _pieces(data: bytes, ends: bytes) -> Iterator[bytes]:
    """The same bytes, cut behind each end of an event."""
    while ends and (found := data.find(ends)) >= 0:
        yield data[: found + len(ends)]
        data = data[found + len(ends) :]
    if data:
        yield data
