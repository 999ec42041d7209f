"""Forwarded requests, holder's side: the HTTP end of the peer link (trio shell).

`POST /mesh/v1/serve` answers with a chunked body of frames: numbered deltas; a beat after every
half second of silence (also while the request is queued, while the model loads and in prefill); the
load after the first half second and before the last frame; `end` or `error` last.  proto/peer.md
has the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
import trio

from meshd import limits
from meshd.backends import BackendFailed, RunControl
from meshd.backends.control import failed
from meshd.errors import LimitExceeded, ProtocolError, StreamBroken
from meshd.http import Handler, Responder, ServerRequest, Sweeper, Watch
from meshd.ids import NodeId
from meshd.inference import Failure, FailureKind, Load
from meshd.relay.holder import Holder, Order
from meshd.relay.in_flight import InFlight
from meshd.relay.sinks import AnswerItem, SinkClosed
from meshd.wire.answer import AnswerWriter
from meshd.wire.serve import (
    CANCEL_PATH,
    FORWARDED_HEADER,
    SERVE_PATH,
    SHOW_PATH,
    CancelRequest,
    ServeRequest,
    decode_cancel,
    decode_serve,
    decode_show,
)

FRAMES = (b"content-type", b"application/x-meshd-frames")
JSON = (b"content-type", b"application/json")
RunKey = tuple[NodeId, str]
_LATE = Failure(FailureKind.DEADLINE, "the time allowed for this request has passed", 504)
_STOPPED = Failure(FailureKind.DRAINING, "the node was stopped and its time to finish is over", 503)


class PeerService:
    """Serves what other members' entries forward to this node."""

    def __init__(self, holder: Holder, sweeper: Sweeper) -> None:
        self._holder = holder
        self._sweeper = sweeper
        self._runs: dict[RunKey, RunControl] = {}
        self._others: dict[str, Handler] = {}
        self._stopped = False
        self.in_flight = InFlight()
        """Answers to other nodes that have not been told to their end."""

    def serve_also(self, path: str, handler: Handler) -> None:
        """What is asked there is answered by that; it may raise ProtocolError and StreamBroken."""
        self._others[path] = handler

    async def handle(self, request: ServerRequest, responder: Responder) -> None:
        """The handler of the peer HTTP server."""
        node = request.remote.node
        assert node is not None, "the peer port verifies everyone"
        if request.method != "POST":
            return await _plain(responder, 405, b"only POST is served here")
        if request.header(FORWARDED_HEADER) != b"1":
            return await _plain(responder, 400, b"only what a node forwards is served here")
        try:
            if request.path == SERVE_PATH:
                return await self._serve(node, decode_serve(request.body), responder)
            if request.path == SHOW_PATH:
                return await self._show(request.body, responder)
            if request.path == CANCEL_PATH:
                self.cancel(node, decode_cancel(request.body))
                return await _plain(responder, 200, b"ok")
            if handler := self._others.get(request.path):
                with self.in_flight:
                    return await handler(request, responder)
        except ProtocolError as e:
            return await _plain(responder, 400, str(e).encode())
        return await _plain(responder, 404, b"no such path on the peer port")

    def cancel(self, node: NodeId, order: CancelRequest) -> None:
        """The entry says that nobody waits for that answer any more."""
        if run := self._runs.get((node, order.request_id)):
            run.abort("cancelled by the node that asked")

    def cut(self, node: NodeId, reason: str) -> None:
        """A node was removed: end what it asked for."""
        for (owner, _), run in list(self._runs.items()):
            if owner == node:
                run.abort(reason)

    def stop(self) -> None:
        """This node ends: what runs is ended with an error that says so, not by a cut."""
        self._stopped = True
        for run in list(self._runs.values()):
            run.abort(_STOPPED.message)

    async def _serve(self, node: NodeId, asked: ServeRequest, responder: Responder) -> None:
        if asked.from_seq:
            raise ProtocolError("An answer cannot be had from its middle on yet.")
        key = (node, asked.request_id)
        if key in self._runs:
            return await _plain(responder, 409, b"that request is running here already")
        control = self._runs[key] = RunControl()
        # Resuming a broken link (`from_seq`) comes later: until then a closed link ends the run.
        responder.on_disconnect = lambda: control.abort("the node that asked went away")
        order = Order(
            asked.request,
            asked.backend,
            asked.model,
            _seconds(asked.wait_s, limits.QUEUE_WAIT_MAX_S),
        )
        sink = _FrameSink(responder, self._sweeper, self._holder.load)
        deadline_s = limits.REQUEST_MAX_S if asked.deadline_s is None else asked.deadline_s
        left_s = _seconds(deadline_s, limits.REQUEST_MAX_S)
        deadline = self._sweeper.watch(
            lambda: control.abort(_LATE.message), trio.current_time() + left_s
        )
        if not left_s:
            control.abort(_LATE.message)
        with self.in_flight:
            try:
                await responder.start(200, [FRAMES])
                await self._run(order, sink, control)
            except (StreamBroken, SinkClosed):
                control.abort("the node that asked went away")
            finally:
                self._sweeper.unwatch(deadline)
                sink.close()
                del self._runs[key]

    async def _show(self, body: bytes, responder: Responder) -> None:
        asked = decode_show(body)
        try:
            shown = await self._holder.show(asked.backend, asked.model)
        except BackendFailed as e:
            await _plain(responder, 502, e.failure.message.encode())
        else:
            await responder.send(200, [JSON], msgspec.json.encode(shown))

    async def _run(self, order: Order, sink: _FrameSink, control: RunControl) -> None:
        try:
            await self._holder.serve(order, sink, control)
        except BackendFailed as e:
            last = sink.writer.error(self._why(e.failure, control))
        else:
            last = sink.writer.end()
        await sink.responder.finish(sink.writer.load(self._holder.load()) + last)

    def _why(self, failure: Failure, control: RunControl) -> Failure:
        """What the other node is told of a run that this node itself ended."""
        if self._stopped:
            return _STOPPED
        return _LATE if control.aborted == _LATE.message else failure


class _FrameSink:
    """Encodes an answer into frames, with beats in the silences."""

    def __init__(self, responder: Responder, sweeper: Sweeper, load: Callable[[], Load]) -> None:
        self.responder = responder
        self.writer = AnswerWriter()
        self._sweeper = sweeper
        self._load = load
        self._watch: Watch = sweeper.watch(self._beat, trio.current_time() + limits.BEAT_S)
        self._load_at = self._watch.at
        """When this node's load, with this request in it, is told.  Once: a short answer brings
        it with its end, and later ones are in the pushes on the control link."""
        self._begun = False
        """Left the queue, and that has not been told; an item says as much."""

    async def emit(self, items: Sequence[AnswerItem]) -> None:
        now = trio.current_time()
        self._watch.at = now + limits.BEAT_S
        self._begun = False
        try:
            data = self.writer.items(items)
            if now >= self._load_at:
                data += self.writer.load(self._load())
                self._load_at = math.inf
        except LimitExceeded as e:
            raise failed(FailureKind.BACKEND, str(e), 502) from e
        try:
            await self.responder.write(data)
        except StreamBroken as e:
            raise SinkClosed(str(e)) from e

    def begun(self) -> None:
        self._begun = True

    def close(self) -> None:
        self._sweeper.unwatch(self._watch)

    def _beat(self) -> None:
        if self.responder.disconnected or self.responder.finished:
            return
        # If a write is under way the link is not silent, and False here is right.
        with suppress(StreamBroken):  # the run is told by whoever reads or writes there
            load_due = trio.current_time() >= self._load_at
            data = self.writer.load(self._load()) if load_due else b""
            if self._begun:
                data += self.writer.begun()
            if self.responder.write_nowait(data or self.writer.beat()):
                self._begun = False
                if load_due:
                    self._load_at = math.inf
        self._watch.at = trio.current_time() + limits.BEAT_S


def _seconds(asked: float, most: float) -> float:
    """A time that another node asked for, within reason; NaN is none."""
    return min(asked, most) if asked > 0 else 0.0


async def _plain(responder: Responder, status: int, body: bytes) -> None:
    await responder.send(status, [(b"content-type", b"text/plain")], body)
