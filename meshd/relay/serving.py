"""Forwarded requests, holder's side: the HTTP end of the peer link (trio shell).

`POST /mesh/v1/serve` answers with a chunked body of frames: numbered deltas; a beat after every
half second of silence (also while the request is queued, while the model loads and in prefill); the
load after the first half second and before the last frame; `end` or `error` last.  proto/peer.md
has the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import msgspec
import trio
from msgspec.structs import replace

from meshd import limits
from meshd.backends import BackendFailed, RunControl
from meshd.errors import ProtocolError, StreamBroken
from meshd.http import Handler, Responder, ServerRequest, Sweeper, Watch
from meshd.ids import NodeId
from meshd.inference import Failure, FailureKind
from meshd.relay.holder import Holder, Order
from meshd.relay.in_flight import InFlight
from meshd.relay.kept_answers import KeptAnswer, KeptAnswers, RunKey
from meshd.relay.orphans import Orphan
from meshd.relay.outgoing import GONE, Outgoing
from meshd.relay.sinks import SinkClosed
from meshd.wire.serve import (
    CANCEL_PATH,
    FORWARDED_HEADER,
    RESUME_PATH,
    SERVE_PATH,
    SHOW_PATH,
    CancelRequest,
    ResumeRequest,
    ServeRequest,
    decode_cancel,
    decode_resume,
    decode_serve,
    decode_show,
)

FRAMES = (b"content-type", b"application/x-meshd-frames")
JSON = (b"content-type", b"application/json")
_LATE = Failure(FailureKind.DEADLINE, "the time allowed for this request has passed", 504)
_STOPPED = Failure(FailureKind.DRAINING, "the node was stopped and its time to finish is over", 503)


class PeerService:
    """Serves what other members' entries forward to this node."""

    def __init__(self, holder: Holder, sweeper: Sweeper) -> None:
        self._holder = holder
        self._sweeper = sweeper
        self._runs: dict[RunKey, _Run] = {}
        self._ended = KeptAnswers()
        self._forgetting: Watch | None = None
        self._others: dict[str, Handler] = {}
        self._adopt: Callable[[Orphan], None] | None = None
        self._seems_gone: Callable[[NodeId], bool] = lambda node: False
        self._stopped = False
        self.in_flight = InFlight()
        """Answers to other nodes that have not been told to their end."""

    def serve_also(self, path: str, handler: Handler) -> None:
        """What is asked there is answered by that; it may raise ProtocolError and StreamBroken."""
        self._others[path] = handler

    def use_adopter(
        self, adopt: Callable[[Orphan], None], seems_gone: Callable[[NodeId], bool]
    ) -> None:
        """Who goes on with runs of keyed requests whose entry is gone.

        `seems_gone`: whether a node is not linked, and gossip does not call it well either.
        """
        self._adopt, self._seems_gone = adopt, seems_gone

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
                asked = decode_serve(request.body)
                return await self._serve(node, asked, len(request.body), responder)
            if request.path == RESUME_PATH:
                return await self._resume(node, decode_resume(request.body), responder)
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
            run.control.abort("cancelled by the node that asked")
            run.outgoing.nobody_waits()

    def cut(self, node: NodeId, reason: str) -> None:
        """A node was removed: end what it asked for."""
        for (owner, _), run in list(self._runs.items()):
            if owner == node:
                run.control.abort(reason)

    def entry_gone(self, node: NodeId, reason: str) -> None:
        """Gossip and the control link agree that a node is away: end what it asked for, but for
        what is a keyed request's."""
        for key, run in list(self._runs.items()):
            if key[0] == node and not self._hand_over(key, run):
                run.control.abort(reason)
        for _, answer in self._ended.take_of(node, trio.current_time()):
            asked = answer.asked
            if self._adopt is not None and asked is not None and asked.keyed is not None:
                self._adopt(Orphan(node, asked, asked.keyed, answer))

    def claim_over(self, job: int, fence: int) -> None:
        """Whatever runs under that claim without an entry is nobody's any more."""
        for run in list(self._runs.values()):
            claim = run.asked.keyed
            if claim is None or (claim.job, claim.fence) != (job, fence):
                continue
            if not run.outgoing.is_linked:
                run.control.abort("its claim is over")
                run.outgoing.nobody_waits()

    def _orphaned(self, key: RunKey, since_s: float) -> float | None:
        """What is to become of a run whose entry has no link here for so long (`Outgoing`)."""
        run = self._runs.get(key)
        if run is None:
            return math.inf  # it was handed over
        if run.asked.keyed is not None and self._adopt is not None and self._seems_gone(key[0]):
            if since_s < limits.ADOPT_AFTER_S or not self._hand_over(key, run):
                return limits.ADOPT_LOOK_S
            return math.inf
        if since_s < limits.ORPHAN_GRACE_S:
            return limits.ADOPT_LOOK_S
        run.control.abort(GONE)
        return None

    def _hand_over(self, key: RunKey, run: _Run) -> bool:
        """Have a keyed request's run gone on with in the place of its entry, if it can be."""
        claim = run.asked.keyed
        if claim is None or self._adopt is None or not run.outgoing.keeps(0):
            return False
        del self._runs[key]
        self._adopt(Orphan(key[0], run.asked, claim, run.outgoing, run.control))
        return True

    def stop(self) -> None:
        """This node ends: what runs is ended with an error that says so, not by a cut."""
        self._stopped = True
        for run in list(self._runs.values()):
            run.control.abort(_STOPPED.message)

    def serve_again(self) -> None:
        """It does not end after all."""
        self._stopped = False

    async def _serve(
        self, node: NodeId, asked: ServeRequest, size_bytes: int, responder: Responder
    ) -> None:
        key = (node, asked.request_id)
        if key in self._runs:
            return await _plain(responder, 409, b"that request is running here already")
        control = RunControl()
        outgoing = Outgoing(
            self._sweeper,
            self._holder.load,
            partial(self._orphaned, key),
            limits.ORPHAN_GRACE_S if asked.keyed is None else limits.ADOPT_LOOK_S,
        )
        self._runs[key] = run = _Run(control, outgoing, asked)
        order = Order(
            asked.request,
            asked.backend,
            asked.model,
            _seconds(asked.wait_s, limits.QUEUE_WAIT_MAX_S),
        )
        deadline_s = limits.REQUEST_MAX_S if asked.deadline_s is None else asked.deadline_s
        left_s = _seconds(deadline_s, limits.REQUEST_MAX_S)
        deadline = self._sweeper.watch(
            lambda: control.abort(_LATE.message), trio.current_time() + left_s
        )
        if not left_s:
            control.abort(_LATE.message)
        whole = False
        with self.in_flight:
            try:
                await responder.start(200, [FRAMES])
                outgoing.attach(responder)
                whole = await self._run(order, outgoing, control)
            except (StreamBroken, SinkClosed):
                control.abort(GONE)
            finally:
                self._sweeper.unwatch(deadline)
                if self._runs.get(key) is run:  # else it was handed over
                    del self._runs[key]
                    if (answer := outgoing.ended()) is not None:
                        # What broke off is gone on with by others, if its entry knew of it.
                        if whole and asked.keyed is not None and answer.keeps(0):
                            answer = replace(answer, asked=asked, asked_bytes=size_bytes)
                        self._keep(key, answer)
                outgoing.close()

    def _keep(self, key: RunKey, answer: KeptAnswer) -> None:
        now = trio.current_time()
        self._ended.keep(key, answer, now)
        if self._forgetting is None:
            due_at = now + limits.RESUME_WINDOW_S
            self._forgetting = self._sweeper.watch(self._forget_ended, due_at)

    def _forget_ended(self) -> None:
        assert self._forgetting is not None
        next_at = self._ended.forget_old(trio.current_time())
        if next_at is not None:
            self._forgetting.at = next_at
        else:  # nothing is watched where there is nothing, so that an idle process sleeps
            self._sweeper.unwatch(self._forgetting)
            self._forgetting = None

    async def _resume(self, node: NodeId, asked: ResumeRequest, responder: Responder) -> None:
        """The rest of an answer whose link broke."""
        key = (node, asked.request_id)
        run = self._runs.get(key)
        ended = self._ended.find(key, trio.current_time()) if run is None else None
        source = run.outgoing if run is not None else ended
        if source is None:
            return await _plain(responder, 404, b"no such answer is kept here (any more)")
        if not source.keeps(asked.after_seq):
            return await _plain(responder, 410, b"that part of the answer is not kept (any more)")
        if ended is not None:
            return await responder.send(200, [FRAMES], ended.rest(asked.after_seq))
        assert run is not None
        with suppress(StreamBroken, SinkClosed):  # whoever runs it is told
            await responder.start(200, [FRAMES])
            run.outgoing.attach(responder, asked.after_seq)
            await run.outgoing.send_rest()
        return None

    async def _show(self, body: bytes, responder: Responder) -> None:
        asked = decode_show(body)
        try:
            shown = await self._holder.show(asked.backend, asked.model)
        except BackendFailed as e:
            await _plain(responder, 502, e.failure.message.encode())
        else:
            await responder.send(200, [JSON], msgspec.json.encode(shown))

    async def _run(self, order: Order, outgoing: Outgoing, control: RunControl) -> bool:
        """Returns whether the answer is whole, once its end is told or nobody came for it."""
        failure = None
        try:
            await self._holder.serve(order, outgoing, control)
        except BackendFailed as e:
            failure = self._why(e.failure, control)
        writer = outgoing.writer
        last = writer.end() if failure is None else writer.error(failure)
        await outgoing.end(writer.load(self._holder.load()) + last)
        return failure is None

    def _why(self, failure: Failure, control: RunControl) -> Failure:
        """What the other node is told of a run that this node itself ended."""
        if self._stopped:
            return _STOPPED
        return _LATE if control.aborted == _LATE.message else failure


class _Run(NamedTuple):
    """A run for another node, and its answer on the way there."""

    control: RunControl
    outgoing: Outgoing
    asked: ServeRequest


def _seconds(asked: float, most: float) -> float:
    """A time that another node asked for, within reason; NaN is none."""
    return min(asked, most) if asked > 0 else 0.0


async def _plain(responder: Responder, status: int, body: bytes) -> None:
    await responder.send(status, [(b"content-type", b"text/plain")], body)
