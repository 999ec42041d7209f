"""One client connection of the server.

Theory of operation.  One task, the worker, reads, parses, runs the handler inline and reads again:
a quick request costs no second task.  Somebody must notice that the client went away while a slow
handler runs, so a request that has lasted `WATCH_AFTER_S` gets a second task, the watcher, which
takes over reading.  It stays for the life of the connection but holds the read only while there is
a point: when the worker wants to read and the watcher has the read, the worker waits for what the
watcher gets; with that the read goes back to the worker and the watcher parks.

Deadlines are one `Watch` whose meaning depends on the phase; see `_expire`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from meshd import limits
from meshd.errors import StreamBroken
from meshd.http.baton import Baton
from meshd.http.encode import CLOSE, CONTINUE, phrase, response_head
from meshd.http.messages import Headers, Refusal, ServerRequest
from meshd.http.requests import Admit, RequestLimits, RequestParser
from meshd.http.responder import Drain, Responder
from meshd.http.room import Room, Share
from meshd.http.sweeper import Sweeper
from meshd.ports import ByteStream, Remote

Handler = Callable[[ServerRequest, Responder], Awaitable[None]]
ErrorBody = Callable[[int, str, str], tuple[Headers, bytes]]
"""(status, message, path as far as it is known) -> what an error met below the handler says."""

WATCH_AFTER_S = 0.05
"""A request younger than this is not watched for a disconnect."""
RETRY_AFTER_S = 2
"""When there may be room for a large body again."""
LINGER_S = 2.0
LINGER_BYTES = 4 * limits.MIB
PIPELINE_BYTES = 64 * limits.KIB
SEND_STEP_BYTES = 256 * limits.KIB
"""The send-stall deadline is for one such step, so that a big answer may take longer than it."""


def plain_error_body(status: int, message: str, path: str) -> tuple[Headers, bytes]:
    """The body of an error in nobody's dialect."""
    del status, path
    return [(b"content-type", b"text/plain; charset=utf-8")], message.encode() + b"\n"


def _log_nothing(message: str, error: BaseException) -> None:
    del message, error


def _count_nothing(remote: Remote, status: int, message: str) -> None:
    del remote, status, message


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a server treats its clients.  Seconds and bytes; defaults from `limits`."""

    request: RequestLimits = field(default_factory=RequestLimits)
    room: Room = field(default_factory=Room)
    """Where bodies are kept; servers of one node share it."""
    connections: int = limits.HTTP_CONNECTIONS
    idle_s: float = limits.HTTP_IDLE_S
    head_s: float = limits.HTTP_HEAD_S
    """From the first byte of a head to its end, however slowly it trickles."""
    body_stall_s: float = limits.HTTP_BODY_STALL_S
    body_s: float = limits.HTTP_BODY_S
    send_stall_s: float = limits.HTTP_SEND_STALL_S
    handshake_s: float = limits.PEER_HANDSHAKE_S
    admit: Admit | None = None
    """Asked about every head before the body is read; what it returns is sent instead."""
    error_body: ErrorBody = plain_error_body
    on_error: Callable[[str, BaseException], None] = _log_nothing
    """Told of exceptions that a handler let out."""
    on_refused: Callable[[Remote, int, str], None] = _count_nothing
    """Told of each request that never got to the handler: from whom, its status, why."""


# What a connection is at; plain numbers, since the hot path assigns and compares them.
_IDLE, _HEAD, _BODY, _SERVING, _LINGERING = range(5)


class Connection:
    """Serves one stream until either side ends it."""

    def __init__(
        self,
        stream: ByteStream,
        handler: Handler,
        sweeper: Sweeper,
        options: ServerOptions,
        drain: Drain,
    ) -> None:
        self._stream = stream
        self._handler = handler
        self._sweeper = sweeper
        self._options = options
        self.drain = drain
        self._parser = RequestParser(options.request, stream.remote, options.admit)
        self._share = Share(options.room)
        self._phase = _IDLE
        self._watch = sweeper.watch(self._expire)
        self._watch.at = sweeper.now + options.idle_s
        self._responder: Responder | None = None
        self._stalled_at = math.inf  # when the send that is waiting will have waited too long
        self._message_at = math.inf  # when the head or body that is arriving must be complete
        self._nursery: trio.Nursery | None = None
        # between the worker and the watcher
        self._watcher_started = False
        self._watcher_reads = False
        self._worker_waits = False
        self._ended = False
        self._inbox: list[bytes] = []
        self._arrived = Baton()
        self._resume = Baton()

    async def run(self) -> None:
        """Serve; returns when the connection is closed."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    with suppress(StreamBroken):  # else nobody is left to be told
                        await self._work()
                finally:
                    # Before the nursery closes, which takes a turn: a deadline that fell due in
                    # that turn would start the watcher in a nursery that takes nobody.
                    self._sweeper.unwatch(self._watch)
                nursery.cancel_scope.cancel()
        finally:
            self._share.release()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await self._stream.aclose()

    def close_if_idle(self) -> None:
        """For draining: end it now if no request is in progress."""
        if self._phase is _IDLE and self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    # --- the worker

    async def _work(self) -> None:
        parser = self._parser
        ready = parser.ready
        receive_some = self._stream.receive_some
        while True:
            while ready:
                item = ready.popleft()
                if type(item) is not ServerRequest:
                    assert isinstance(item, Refusal)
                    await self._refuse(item)
                    return
                if not await self._serve(item):
                    return
                del item  # its body is not to be kept while the connection idles
            if parser.done:
                return
            if parser.in_body and not self._share.hold(parser.body_bytes):
                await self._refuse(self._no_room(parser.path, more_coming=True))
                return
            if parser.in_body or parser.stagnant_bytes:
                await self._expect_more()
            else:
                self._phase = _IDLE
                self._watch.at = self._sweeper.now + self._options.idle_s
            if self._watcher_started:
                data = await self._read()
            else:
                data = await receive_some()
            if not data:
                return
            parser.feed(data)

    async def _expect_more(self) -> None:
        """A message has begun and is not complete: it has its deadlines, and perhaps waits."""
        now = self._sweeper.now
        options, parser = self._options, self._parser
        if parser.in_body:
            if self._phase is not _BODY:
                self._phase = _BODY
                self._message_at = now + options.body_s
            self._watch.at = min(self._message_at, now + options.body_stall_s)
            if parser.wants_continue:
                parser.wants_continue = False
                await self._send(CONTINUE)
        else:
            if self._phase is not _HEAD:
                self._phase = _HEAD
                self._message_at = now + options.head_s
            self._watch.at = self._message_at

    async def _serve(self, request: ServerRequest) -> bool:
        """Answer one request; whether the connection goes on."""
        if not self._share.hold(len(request.body)):
            await self._refuse(self._no_room(request.path, more_coming=False))
            return False
        responder = self._responder = Responder(self, request)
        self._phase = _SERVING
        self._watch.at = self._sweeper.now + WATCH_AFTER_S
        try:
            await self._handler(request, responder)
        except Exception as error:  # a handler's bug must not end the daemon
            if not (responder.disconnected or isinstance(error, StreamBroken)):
                self._options.on_error(f"{request.method} {request.path}", error)
            if responder.disconnected or responder.finished:
                return False
        if not responder.finished:
            await self._unfinished(responder, request.path)
        self._share.release()
        self._responder = None
        return responder.keep_alive and not self.drain.begun

    async def _unfinished(self, responder: Responder, path: str) -> None:
        """The handler ended without an end of its answer: never let that look like one."""
        if responder.disconnected:
            return
        if responder.started:
            self._stream.abort("the answer could not be completed")
            raise StreamBroken("the answer could not be completed")
        message = "Internal error; the log says more."
        await responder.send(500, *self._options.error_body(500, message, path))

    async def _refuse(self, refusal: Refusal) -> None:
        self._phase = _SERVING
        self._watch.at = math.inf
        await self._send(self._refusal(refusal))
        if not refusal.more_coming:
            return
        # Closing with bytes unread would reset the connection, and the client might lose the
        # answer while it still sends its body; so what comes is read away for a moment.
        self._phase = _LINGERING
        self._watch.at = self._sweeper.now + LINGER_S
        left = LINGER_BYTES
        while left > 0 and (data := await self._read()):
            left -= len(data)

    def _no_room(self, path: str, *, more_coming: bool) -> Refusal:
        message = "this node has as many large bodies in memory as it may; try again soon"
        headers, body = self._options.error_body(503, message, path)
        headers = [*headers, (b"retry-after", b"%d" % RETRY_AFTER_S)]
        refusal = Refusal(503, message, headers=headers, body=body)
        refusal.more_coming = more_coming
        return refusal

    def _refusal(self, refusal: Refusal) -> bytes:
        headers, body = refusal.headers, refusal.body
        if body is None:
            headers, body = self._options.error_body(
                refusal.status, refusal.message, self._parser.path
            )
        why = refusal.message or phrase(refusal.status)
        self._options.on_refused(self._stream.remote, refusal.status, why)
        framing = b"content-length: %d\r\n" % len(body)
        head = response_head(refusal.status, headers, CLOSE + framing)
        return head if refusal.head_only else head + body

    # --- what a responder sends through

    def push(self, data: bytes) -> bytes | None:
        """Send without waiting.  None if all of it is out; else what `flush` must be given."""
        stream = self._stream
        if len(data) > SEND_STEP_BYTES:
            return data
        try:
            if stream.send_nowait(data):
                return b"" if stream.unsent_bytes else None
        except StreamBroken:
            self._gone()
            raise
        return data

    async def flush(self, data: bytes) -> None:
        """Send what `push` left; waits while the client does not read, within the limit."""
        view = memoryview(data)
        try:
            for at in range(0, max(1, len(data)), SEND_STEP_BYTES):
                self._stalled_at = self._sweeper.now + self._options.send_stall_s
                self._watch.at = min(self._watch.at, self._stalled_at)
                await self._stream.send_all(view[at : at + SEND_STEP_BYTES])
        except StreamBroken:
            self._gone()
            raise
        finally:
            self._stalled_at = math.inf

    def send_nowait(self, data: bytes) -> bool:
        """See `ByteStream.send_nowait`."""
        try:
            return self._stream.send_nowait(data)
        except StreamBroken:
            self._gone()
            raise

    def abort(self, reason: str) -> None:
        """End it, whoever waits for what."""
        self._stream.abort(reason)

    async def _send(self, data: bytes) -> None:
        if (rest := self.push(data)) is not None:
            await self.flush(rest)

    # --- deadlines

    def _expire(self) -> None:
        phase = self._phase
        if phase is _SERVING:
            if self._stalled_at <= self._sweeper.now:
                self._stream.abort("the client did not read its answer for too long")
                return
            self._start_watching()
            self._watch.at = self._stalled_at
            return
        if phase in (_HEAD, _BODY):
            late = Refusal(408, "The request did not arrive in time.")
            with suppress(StreamBroken):
                self._stream.send_nowait(self._refusal(late))
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()

    # --- reading, and noticing that the client went away

    async def _read(self) -> bytes:
        """What the client sent next; b"" when there is nothing more."""
        if self._inbox:
            return self._take_inbox()
        if self._ended:
            return b""
        if not self._watcher_reads:
            return await self._stream.receive_some()
        self._worker_waits = True
        try:
            await self._arrived.wait()
        finally:
            self._worker_waits = False
        return self._take_inbox()

    def _take_inbox(self) -> bytes:
        data = b"".join(self._inbox)
        self._inbox.clear()
        return data

    def _start_watching(self) -> None:
        if self._ended or self._watcher_reads or self._inbox:
            return
        self._watcher_reads = True
        if self._watcher_started:
            self._resume.wake()
        else:
            self._watcher_started = True
            assert self._nursery is not None
            self._nursery.start_soon(self._watch_client)

    async def _watch_client(self) -> None:
        while True:
            data = b""
            with suppress(StreamBroken):
                data = await self._stream.receive_some()
            if not data:
                self._ended = True
                self._watcher_reads = False
                self._gone()
            else:
                self._inbox.append(data)
            if self._worker_waits:
                self._watcher_reads = False
                self._worker_waits = False
                self._arrived.wake()
            elif self._inbox and sum(map(len, self._inbox)) >= PIPELINE_BYTES:
                self._watcher_reads = False  # no more pipelining than this; the watch is lost
            if self._ended:
                return
            if not self._watcher_reads:
                await self._resume.wait()

    def _gone(self) -> None:
        """The client is no longer there to be answered."""
        responder = self._responder
        if responder is not None and not responder.finished:
            responder.disconnect()
            self._stream.abort("the client went away")
