"""One answer's frames on their way to the entry, over one link after another (trio shell).

What was said is kept for a while (after its end: `kept_answers.py`), so that an entry whose link
broke finds this run again and has the rest of it: no second generation (proto/peer.md, "Answers").
Between two links the run goes on; without a new one within `ORPHAN_GRACE_S` nobody is there for it
any more, unless it is a keyed request's (`orphans.py`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import trio

from meshd import limits
from meshd.backends.control import failed
from meshd.errors import LimitExceeded, StreamBroken
from meshd.http import Sweeper, Watch
from meshd.inference import FailureKind, Load
from meshd.relay.kept_answers import KeptAnswer, rest_of
from meshd.relay.sinks import AnswerItem, SinkClosed
from meshd.wire.answer import AnswerWriter

GONE = "the node that asked went away"


class Link(Protocol):
    """What frames are sent on: a `Responder`, or a way within this process."""

    on_disconnect: Callable[[], None] | None

    @property
    def disconnected(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    async def write(self, data: bytes) -> None: ...
    def write_nowait(self, data: bytes) -> bool: ...
    async def finish(self, data: bytes = b"") -> None: ...
    def abort(self, reason: str) -> None: ...


class Outgoing:
    """Encodes an answer into frames, keeps them, sends them, with beats in the silences."""

    def __init__(
        self,
        sweeper: Sweeper,
        load: Callable[[], Load],
        orphaned: Callable[[float], float | None],
        look_s: float = limits.ORPHAN_GRACE_S,
    ) -> None:
        """`orphaned` is asked what is to become of a run that has no link: first `look_s` after it
        broke, then so long after as it said itself; None: nobody is there for it.  Its argument is
        how long that is now, in seconds.
        """
        self.writer = AnswerWriter()
        self._sweeper = sweeper
        self._load = load
        self._orphaned = orphaned
        self._look_s = look_s
        self._lost_at = math.inf
        """When the last link broke."""
        self._responder: Link | None = None
        self._sent = 0
        """The last item that went out on the present link."""
        self._kept: deque[tuple[int, bytes]] = deque()
        """The number before the first item, and the frames, of each `emit`."""
        self._kept_bytes = 0
        self._ended = False
        self._last = b""
        self._sending = False
        self._sent_on: trio.Event | None = None
        """Set when whoever is sending is done, if somebody waits for that."""
        self._linked = trio.Event()
        self._over = trio.Event()
        self._given_up = False
        now = trio.current_time()
        self._grace: Watch = sweeper.watch(self._look)
        self._watch: Watch = sweeper.watch(self._beat, now + limits.BEAT_S)
        self._load_at = self._watch.at
        """When this node's load, with this request in it, is told.  Once: a short answer brings
        it with its end, and later ones are in the pushes on the control link."""
        self._begun = False
        """Left the queue, and that has not been told; an item says as much."""

    # ---------------------------------------------------------------- links

    def keeps(self, after: int) -> bool:
        """Whether what follows item `after` can still be had."""
        oldest = self._kept[0][0] if self._kept else self.writer.seq
        return oldest <= after <= self.writer.seq and not self._over.is_set()

    @property
    def is_linked(self) -> bool:
        """Whether there is a link to send on, as far as is known."""
        return self._responder is not None

    def attach(self, responder: Link, after: int = 0) -> None:
        """Send on this link from here on, what follows item `after` first; `keeps` was asked."""
        former, self._responder = self._responder, responder
        self._sent = after
        self._grace.at = math.inf
        self._linked.set()
        responder.on_disconnect = lambda: self._lost(responder)
        if former is not None:
            former.abort("the answer goes on over another link")

    async def send_rest(self) -> None:
        """Send what the new link lacks, and wait until the answer is over (the run has its own
        deadline)."""
        await self._flush()
        await self._over.wait()

    def _lost(self, responder: Link) -> None:
        if self._responder is responder and not self._over.is_set():
            self._responder = None
            self._linked = trio.Event()
            self._lost_at = trio.current_time()
            self._grace.at = self._lost_at + self._look_s

    def nobody_waits(self) -> None:
        """The entry said so: there will be no other link."""
        self._given_up = True
        self._linked.set()

    def _look(self) -> None:
        now = trio.current_time()
        self._grace.at = math.inf
        again_s = self._orphaned(now - self._lost_at)
        if again_s is None:
            self.nobody_waits()
        else:
            self._grace.at = now + again_s

    # ---------------------------------------------------------------- what is said

    async def emit(self, items: Sequence[AnswerItem]) -> None:
        """See `AnswerSink`."""
        now = trio.current_time()
        self._watch.at = now + limits.BEAT_S
        self._begun = False
        before = self.writer.seq
        try:
            data = self.writer.items(items)
        except LimitExceeded as e:
            raise failed(FailureKind.BACKEND, str(e), 502) from e
        self._kept.append((before, data))
        self._kept_bytes += len(data)
        if now >= self._load_at:
            self._load_at = math.inf
            await self._flush(self.writer.load(self._load()))
        else:
            await self._flush()
        while self._kept_bytes > limits.RESUME_BYTES and len(self._kept) > 1:
            if self._kept[1][0] > self._sent:  # the oldest is not out yet
                await self._linked.wait()  # not for longer than the grace
                await self._flush()
            else:
                self._kept_bytes -= len(self._kept.popleft()[1])

    def begun(self) -> None:
        """See `AnswerSink`."""
        self._begun = True

    async def end(self, last: bytes) -> None:
        """The last frames; returns when they are out, or nobody came for them."""
        self._last, self._ended = last, True
        while not self._over.is_set():
            await self._flush()
            if not self._over.is_set():
                await self._linked.wait()

    def ended(self) -> KeptAnswer | None:
        """All that is kept of it, once it was sent to its end; it may not have arrived."""
        if not self._over.is_set():
            return None
        return KeptAnswer(tuple(self._kept), self.writer.seq, self._last)

    def close(self) -> None:
        """However it ended."""
        self._over.set()
        self._sweeper.unwatch(self._watch)
        self._sweeper.unwatch(self._grace)

    # ---------------------------------------------------------------- out

    async def _flush(self, more: bytes = b"") -> None:
        """All that the link lacks, in order.  Raises SinkClosed when there is nobody for good."""
        while self._sending:
            if self._sent_on is None:
                self._sent_on = trio.Event()
            await self._sent_on.wait()
        self._sending = True
        try:
            while (responder := self._responder) is not None and not self._over.is_set():
                if await self._send_on(responder, more):
                    break
        finally:
            self._sending = False
            if self._sent_on is not None:
                self._sent_on.set()
                self._sent_on = None
        if self._given_up and not self._over.is_set():
            raise SinkClosed(GONE)

    async def _send_on(self, responder: Link, more: bytes) -> bool:
        """What that link lacks; whether it has all there is now."""
        data, upto, ended = self._unsent(), self.writer.seq, self._ended
        try:
            if ended:
                await responder.finish(data + self._last)
                self._over.set()
            elif data or more:
                await responder.write(data + more)
        except StreamBroken:
            self._lost(responder)
            return False
        if self._responder is not responder:
            return False
        self._sent = upto
        return upto == self.writer.seq and ended == self._ended

    def _unsent(self) -> bytes:
        """The frames of the items that the present link did not have yet."""
        if not self._kept or self._sent == self.writer.seq:
            return b""
        before, data = self._kept[-1]
        if self._sent == before:
            return data
        return rest_of(self._kept, self._sent)

    def _beat(self) -> None:
        self._watch.at = trio.current_time() + limits.BEAT_S
        responder = self._responder
        if responder is None or responder.disconnected or responder.finished:
            return
        if self._sent != self.writer.seq:
            return  # a beat has the number of the last item, which this link does not have yet
        # If a write is under way the link is not silent, and False here is right.
        with suppress(StreamBroken):  # the run is told by whoever reads or writes there
            load_due = trio.current_time() >= self._load_at
            data = self.writer.load(self._load()) if load_due else b""
            if self._begun:
                data += self.writer.begun()
            if responder.write_nowait(data or self.writer.beat()):
                self._begun = False
                if load_due:
                    self._load_at = math.inf
