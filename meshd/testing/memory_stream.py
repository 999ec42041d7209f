"""One stream between two hosts in memory: bytes with delays, bounds, cuts and resets.

The ends behave like the real ones (tests/unit/test_network_ports.py runs one suite over both):
bounded buffers, an orderly end behind what was sent, a reset on abort, on a close with bytes
unread, and on sending to somebody who has closed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import trio

from meshd.errors import StreamAborted, StreamBroken
from meshd.http.baton import Baton
from meshd.ports import Remote
from meshd.testing.schedule import Trace


class Link:
    """One direction between two hosts.  Change it through `MemoryNetwork`."""

    def __init__(self, latency_s: float, name: str = "", trace: Trace | None = None) -> None:
        self.latency_s = latency_s
        self.name = name
        self.trace = trace or Trace()
        self.up = True
        self.pipes: dict[Pipe, None] = {}

    def arrival(self) -> float:
        """When something sent now arrives; infinity while the link is cut."""
        return trio.current_time() + self.latency_s if self.up else math.inf

    def cut(self) -> None:
        """From now on nothing arrives, also what is on its way."""
        self.up = False
        for pipe in self.pipes:
            pipe.delay_all()

    def heal(self) -> None:
        """What was held back (streams retransmit) arrives after the latency."""
        self.up = True
        for pipe in list(self.pipes):
            pipe.release_all(self.arrival())


class Pipe:
    """One direction of one stream."""

    def __init__(self, link: Link, capacity_bytes: int) -> None:
        self.link = link
        self.capacity_bytes = capacity_bytes
        self.queue: deque[tuple[float, bytes]] = deque()  # (when it arrives, what)
        self.buffered_bytes = 0
        self.ends_at = math.inf  # when the orderly end arrives
        self.ended = False
        self.reset_at = math.inf
        self.reader_gone = False
        self.unread: Callable[[], None] = lambda: None
        """Called when what was sent to nobody gets there after all."""
        self.readable = Baton()
        self.writable = Baton()
        self.remember()

    def room_bytes(self) -> int:
        return self.capacity_bytes - self.buffered_bytes

    def put(self, data: bytes) -> None:
        self.link.trace.note(self.link.name, data)
        self.queue.append((self.link.arrival(), data))
        self.buffered_bytes += len(data)
        self.readable.wake()

    def end(self) -> None:
        self.link.trace.note(f"{self.link.name} end")
        self.ended = True
        self.ends_at = self.link.arrival()
        self.readable.wake()

    def reset(self) -> None:
        """A reset is one packet: lost for good if the link is cut."""
        self.link.trace.note(f"{self.link.name} reset")
        self.reset_at = min(self.reset_at, self.link.arrival())
        self.readable.wake()
        self.writable.wake()

    def take(self, max_bytes: int, now: float) -> bytes:
        """What has arrived."""
        pieces: list[bytes] = []
        size = 0
        while self.queue and self.queue[0][0] <= now and size < max_bytes:
            at, data = self.queue.popleft()
            if size + len(data) > max_bytes:
                keep = max_bytes - size
                self.queue.appendleft((at, data[keep:]))
                data = data[:keep]
            pieces.append(data)
            size += len(data)
        if size:
            self.buffered_bytes -= size
            self.writable.wake()
        return b"".join(pieces)

    def next_change(self) -> float:
        """When a reader should look again, if nobody wakes it before."""
        first = self.queue[0][0] if self.queue else self.ends_at
        return min(first, self.reset_at)

    def arrived(self, now: float) -> bool:
        """Whether there is anything for a reader: bytes, the end, a reset."""
        return self.next_change() <= now

    def delay_all(self) -> None:
        now = trio.current_time()
        self.queue = deque((at if at <= now else math.inf, data) for at, data in self.queue)
        if self.ends_at > now:
            self.ends_at = math.inf
        if self.reset_at > now:
            self.reset_at = math.inf

    def release_all(self, at: float) -> None:
        self.queue = deque((min(due, at), data) for due, data in self.queue)
        if self.ended:
            self.ends_at = min(self.ends_at, at)
        self.readable.wake()
        if self.reader_gone:  # what is sent again now is answered with a reset
            self.forget()
            self.unread()
            self.writable.wake()

    def remember(self) -> None:
        """Be told of cuts and healings of the link."""
        self.link.pipes[self] = None

    def forget(self) -> None:
        self.link.pipes.pop(self, None)


class MemoryStream:
    """One end."""

    def __init__(self, remote: Remote, incoming: Pipe, outgoing: Pipe) -> None:
        self.remote = remote
        self._in = incoming
        self._out = outgoing
        self._reason: str | None = None
        self._unsent = b""
        self._sending = False

    @property
    def closed(self) -> bool:
        """Whether this side has closed it."""
        return self._reason is not None

    @property
    def unsent_bytes(self) -> int:
        return len(self._unsent)

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        self._check_open()
        waited = False
        while True:
            now = trio.current_time()
            if data := self._in.take(max_bytes, now):
                break
            self._check_reset(now)
            if self._in.ends_at <= now:
                break
            with trio.move_on_at(self._in.next_change()):
                await self._in.readable.wait()
            waited = True
            self._check_open()
        if not waited:
            await trio.lowlevel.checkpoint()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._check_open()
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._check_reset(trio.current_time())
        self._unsent += bytes(data)
        self._sending = True
        try:
            self._push()
            while self._unsent:
                with trio.move_on_at(self._in.reset_at):
                    await self._out.writable.wait()
                self._check_open()
                self._check_reset(trio.current_time())
                self._push()
        finally:
            self._sending = False

    def send_nowait(self, data: bytes) -> bool:
        self._check_open()
        self._check_reset(trio.current_time())
        if self._unsent:
            return False
        self._unsent = bytes(data)
        self._push()
        return True

    def is_stale(self) -> bool:
        return self._reason is not None or self._in.arrived(trio.current_time())

    def abort(self, reason: str) -> None:
        if self._reason is None:
            self._reason = reason
            self._leave(reset=True)

    def close(self) -> None:
        if self._reason is None:
            self._reason = "this side had closed the connection"
            unread = bool(self._in.take(1, trio.current_time()))
            self._leave(reset=unread or bool(self._unsent) or self._sending)

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def vanish(self, reason: str) -> None:
        """The host lost its power: this end is gone, and nobody is there to reset the other."""
        self._reason = self._reason or reason
        self._in.readable.wake()
        self._out.writable.wake()

    def rebooted(self) -> None:
        """The host that had vanished is there again, and knows nothing of this: it answers whatever
        is sent, or sent again, with a reset."""
        self._in.reader_gone = True
        if self._in.buffered_bytes:
            self._out.reset()
        self._in.writable.wake()

    def _leave(self, *, reset: bool) -> None:
        self._in.reader_gone = True
        if reset:
            self._out.reset()
        else:
            self._out.end()
        self._in.readable.wake()  # our own waiters, who find the reason
        self._out.writable.wake()
        if self._out.link.up and self._in.link.up:
            self._in.writable.wake()  # the other side's sender, whom nobody will make room for
            self._in.forget()

    def _push(self) -> None:
        """Move what there is room for."""
        if self._out.reader_gone:
            # The other host answers what nobody reads with a reset.
            if len(self._unsent) <= self._out.room_bytes():
                self._unsent = b""
            if self._out.link.up and self._in.link.up:
                self._in.reset()
            else:
                self._out.unread = self._in.reset
                self._out.remember()
            return
        if count := min(len(self._unsent), self._out.room_bytes()):
            self._out.put(self._unsent[:count])
            self._unsent = self._unsent[count:]

    def _check_open(self) -> None:
        if self._reason is not None:
            raise StreamAborted(self._reason)

    def _check_reset(self, now: float) -> None:
        if self._in.reset_at <= now:
            raise StreamBroken("the connection broke: reset by the other side")
