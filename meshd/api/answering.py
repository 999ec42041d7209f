"""From a decoded call to bytes on the client's connection (trio shell).

Two sinks for the relay: one streams what comes in the dialect's form, one collects and sends a
whole body.  Nothing is sent before there is something of the answer to send, so that a failure
before it still gets a status of its own; but a stream that is silent for long (its model loads, it
queues) begins with bytes that mean nothing, where the dialect has such, lest it be taken for dead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import trio

from meshd import limits
from meshd.api.answered import Answered, Ending
from meshd.api.dialect import ATTEMPTS, AnswerEncoder, Call, DialectError, HeaderPair
from meshd.backends.control import failed
from meshd.errors import StreamBroken
from meshd.http import Headers, Share, Sweeper, Watch
from meshd.ids import NodeId, RequestId
from meshd.inference import Delta, Embedding, Failure, FailureKind, Usage
from meshd.relay.forwarder import ClientSink, Forwarder
from meshd.relay.orphans import Orphan
from meshd.relay.sinks import AnswerItem, SinkClosed
from meshd.routing.catalogue import Target
from meshd.wire.serve import KeyedClaim

QUEUE_SLACK_S = 1.0
"""After the longest wait in a queue, for "busy" to arrive."""
_CLIENT_GONE = 499


class Client(Protocol):
    """Whoever gets the answer: a connection's `Responder`, or what stands before it."""

    on_disconnect: Callable[[], None] | None

    @property
    def started(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    @property
    def disconnected(self) -> bool: ...
    async def send(self, status: int, headers: Headers, body: bytes) -> None: ...
    async def start(self, status: int, headers: Headers, data: bytes = b"") -> None: ...
    def start_nowait(self, status: int, headers: Headers, data: bytes = b"") -> bool: ...
    async def write(self, data: bytes) -> None: ...
    def write_nowait(self, data: bytes) -> bool: ...
    async def finish(self, data: bytes = b"") -> None: ...


ErrorBody = Callable[[Failure], tuple[int, list[HeaderPair], bytes]]
NodeName = Callable[[NodeId], str]


async def answer(
    call: Call,
    request_id: RequestId,
    responder: Client,
    forwarder: Forwarder,
    error_body: ErrorBody,
    node_name: NodeName,
    share: Share,
    more_headers: Sequence[HeaderPair] = (),
    ending: Ending = lambda runs: None,
    *,
    claim: KeyedClaim | None = None,
    orphan: Orphan | None = None,
) -> Answered:
    """Answer one inference request; the response has been completed when this returns.

    `ending` is called before the first piece that says that the answer is whole, with the runs that
    it took.  What is kept of an answer that is not streamed is held by `share`, which the caller
    releases.
    `claim` is that of a keyed request; `orphan` a run of this node that is to be gone on with.
    """
    # A streaming client's read timeout is between bytes; only a whole answer has it as deadline.
    deadline_s = None if call.stream else call.deadline_s
    began_at = trio.current_time()
    exchange = forwarder.open(
        request_id,
        call.request,
        stream=call.stream,
        deadline_s=deadline_s,
        claim=claim,
        orphan=orphan,
    )
    responder.on_disconnect = exchange.client_gone
    kind = _StreamingSink if call.stream else _WholeSink
    way = _Way(
        call.encoder,
        request_id,
        responder,
        error_body,
        node_name,
        share,
        more_headers,
        lambda: ending(exchange.relay.runs),
    )
    sink = kind(way)
    watch = sink.keep_alive(forwarder.sweeper, call.deadline_s)
    try:
        await forwarder.run(exchange, sink)
    except SinkClosed:
        exchange.client_gone()
        sink.failure = FailureKind.CANCELLED
    finally:
        if watch is not None:
            forwarder.sweeper.unwatch(watch)
    relay, usage = exchange.relay, sink.usage
    return Answered(
        began_at,
        sink.status or _CLIENT_GONE,
        sink.failure,
        relay.first_at,
        relay.asked,
        relay.runs,
        usage.prompt_tokens if usage is not None else 0,
        usage.completion_tokens if usage is not None else 0,
    )


_NOBODY_ANSWERED = frozenset(
    {
        FailureKind.UNREACHABLE,
        FailureKind.HOLDER_LOST,
        FailureKind.BUSY,
        FailureKind.DRAINING,
        FailureKind.DEADLINE,
        FailureKind.NOT_FOUND,
        FailureKind.NO_ROOM,
    }
)
"""Failures that are this entry's own word: no holder is named."""


@dataclass(slots=True)
class _Way:
    """What an answer passes on its way to the client."""

    encoder: AnswerEncoder
    request_id: RequestId
    responder: Client
    error_body: ErrorBody
    node_name: NodeName
    share: Share
    more_headers: Sequence[HeaderPair]
    ending: Callable[[], None]


class _Sink(ClientSink):
    """What both kinds share: who answers, and errors that have a status of their own."""

    def __init__(self, way: _Way) -> None:
        self._encoder = way.encoder
        self._responder = way.responder
        self._ending = way.ending
        self._error_body = way.error_body
        self._node_name = way.node_name
        self._more_headers = way.more_headers
        self._request_id = way.request_id
        self._holder = b""
        self._attempt = 0
        self.usage: Usage | None = None
        self.status = 0
        """Of the head that was sent; 0: none was."""
        self.failure = ""
        """A `FailureKind`; "": there was none."""

    def keep_alive(self, sweeper: Sweeper, patience_s: float | None) -> Watch | None:
        """Say something now and then while there is nothing to say, until unwatched.

        `patience_s`: how much silence the client said that it bears.  None: there is no way to.
        """
        return None

    def asking(self, target: Target, attempt: int, wait_s: float, *, goes_on: bool) -> None:
        self._holder = self._node_name(target.node).encode("ascii", "replace")
        self._attempt = self._encoder.attempts = attempt

    def begun(self) -> None:
        return None

    def _headers(self, content_type: bytes) -> list[HeaderPair]:
        return [(b"content-type", content_type), *self._meta()]

    def _meta(self) -> list[HeaderPair]:
        headers = [(b"x-request-id", self._request_id.encode()), *self._more_headers]
        if self._holder:
            headers.append((b"x-meshd-node", self._holder))
        if self._attempt > 1:
            headers.append((ATTEMPTS, b"%d" % self._attempt))
        return headers

    async def _send_failure(self, failure: Failure) -> None:
        """An answer that never began: the failure's own status and the dialect's own body."""
        status, headers, body = self._error_body(failure)
        self.failure = failure.kind
        if failure.kind in _NOBODY_ANSWERED:
            self._holder = b""
        await self._send(status, [*headers, *self._meta()], body)

    async def _send(self, status: int, headers: Sequence[HeaderPair], body: bytes) -> None:
        self.status = status
        try:
            await self._responder.send(status, headers, body)
        except StreamBroken as e:
            raise SinkClosed(str(e)) from e


class _StreamingSink(_Sink):
    """SSE or NDJSON, as it comes."""

    _sweeper: Sweeper
    _silence: Watch | None = None
    _silence_s = limits.SSE_KEEP_ALIVE_S
    _may_queue_until = 0.0
    _seam = b""
    """A comment that says where another run goes on, until it is written."""

    def keep_alive(self, sweeper: Sweeper, patience_s: float | None) -> Watch | None:
        if not self._encoder.keep_alive():
            return None
        if patience_s is not None:
            self._silence_s = max(1.0, min(self._silence_s, patience_s / 2))
        self._sweeper = sweeper
        self._silence = sweeper.watch(self._say_nothing, trio.current_time() + self._silence_s)
        return self._silence

    def asking(self, target: Target, attempt: int, wait_s: float, *, goes_on: bool) -> None:
        super().asking(target, attempt, wait_s, goes_on=goes_on)
        if goes_on:
            holder = self._holder.decode()
            self._seam = self._encoder.comment(f"attempt {attempt}: {holder} goes on from here")
        # A queue may end with "busy", which is worth more to a client as a status.
        self._may_queue_until = trio.current_time() + wait_s + QUEUE_SLACK_S if wait_s else 0.0

    def begun(self) -> None:
        self._may_queue_until = 0.0
        if self._silence is not None:
            self._silence.at = min(self._silence.at, trio.current_time() + self._silence_s)

    def _say_nothing(self) -> None:
        assert self._silence is not None
        now = trio.current_time()
        self._silence.at = now + self._silence_s
        if now < self._may_queue_until and not self._responder.started:
            self._silence.at = self._may_queue_until
            return
        responder, data = self._responder, self._encoder.keep_alive()
        if responder.finished or responder.disconnected:
            return
        # If a write is under way the client has something to read, and False here is right.
        with suppress(StreamBroken):  # the exchange is told by whoever reads or writes there
            if responder.started:
                responder.write_nowait(data)
            else:
                self._holder, self._attempt = b"", 0  # who will answer is not known yet
                headers = self._headers(self._encoder.content_type_stream)
                self.status = 200
                responder.start_nowait(200, headers, self._encoder.start() + data)

    async def emit(self, items: Sequence[AnswerItem]) -> None:
        encode = self._encoder.delta
        pieces: list[bytes] = []
        for item in items:
            if type(item) is Delta:
                if item.finish_reason is not None:
                    self._ending()
                pieces.append(encode(item))
            elif type(item) is Usage:
                self.usage = item
        data = b"".join(pieces)
        if data:
            if self._seam:
                data, self._seam = self._seam + data, b""
            await self._write(data)

    async def finish(self) -> None:
        data = self._encoder.end(self.usage)
        if not self._responder.started:
            await self._write(b"")
        await self._finish(data)

    async def fail(self, failure: Failure, *, in_stream: bool) -> None:
        if not self._responder.started:
            await self._send_failure(failure)
            return
        self.failure = failure.kind
        await self._finish(self._encoder.error(failure))

    async def _write(self, data: bytes) -> None:
        responder = self._responder
        if self._silence is not None:
            self._silence.at = self._sweeper.now + self._silence_s
        try:
            if responder.started:
                await responder.write(data)
            else:
                headers = self._headers(self._encoder.content_type_stream)
                self.status = 200
                await responder.start(200, headers, self._encoder.start() + data)
        except StreamBroken as e:
            raise SinkClosed(str(e)) from e

    async def _finish(self, data: bytes) -> None:
        try:
            await self._responder.finish(data)
        except StreamBroken as e:
            raise SinkClosed(str(e)) from e


class _WholeSink(_Sink):
    """One JSON body, when all of it is there."""

    def __init__(self, way: _Way) -> None:
        super().__init__(way)
        self._share = way.share
        self._deltas: list[Delta] = []
        self._size_bytes = 0
        self._embedding: Embedding | None = None

    def asking(self, target: Target, attempt: int, wait_s: float, *, goes_on: bool) -> None:
        super().asking(target, attempt, wait_s, goes_on=goes_on)
        self._deltas.clear()
        self._size_bytes = 0
        self._share.release()
        self.usage = self._embedding = None

    async def emit(self, items: Sequence[AnswerItem]) -> None:
        for item in items:
            if type(item) is Delta:
                self._deltas.append(item)
                self._size_bytes += _size_bytes(item)
            elif type(item) is Usage:
                self.usage = item
            elif type(item) is Embedding:
                self._embedding = item
                self.usage = Usage(prompt_tokens=item.prompt_tokens)
        if self._size_bytes > limits.ANSWER_BYTES:
            raise failed(
                FailureKind.BAD_REQUEST,  # another holder would say no less
                f"the answer has grown over {limits.ANSWER_BYTES // limits.MIB} MiB and is given "
                "up: ask for it as a stream, or set a maximum of tokens",
                500,
            )
        numbers = sum(map(len, self._embedding.vectors)) if self._embedding is not None else 0
        if not self._share.hold(self._size_bytes + _NUMBER_BYTES * numbers):
            raise failed(
                FailureKind.NO_ROOM,
                "this node has as many large bodies in memory as it may: try again soon, or ask "
                "for the answer as a stream",
                503,
                retry_after_s=2.0,
            )

    async def finish(self) -> None:
        try:
            if self._embedding is not None:
                body = self._encoder.embedding(self._embedding)
            else:
                body = self._encoder.whole(self._deltas, self.usage)
        except DialectError as e:
            self.failure = FailureKind.UNSUPPORTED
            await self._send(e.status, [*e.headers, *self._meta()], e.body)
            return
        self._ending()
        await self._send(200, self._headers(self._encoder.content_type_whole), body)

    async def fail(self, failure: Failure, *, in_stream: bool) -> None:
        await self._send_failure(failure)


_NUMBER_BYTES = 32
"""Of a vector's element: a float and its place in the list."""
_DELTA_BYTES = 160
"""Of a delta besides its texts; sys.getsizeof of the structs, about."""


def _size_bytes(delta: Delta) -> int:
    """What a delta costs while it is kept, about."""
    size = _DELTA_BYTES + len(delta.text) + len(delta.reasoning)
    for call in delta.tool_calls:
        size += _DELTA_BYTES + len(call.arguments)
    for token in delta.logprobs:
        size += _DELTA_BYTES * (1 + len(token.top))
    return size
