"""A node as entry: carry a request's state machine out (trio shell of `relay/machine.py`)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Protocol

import msgspec
import trio

from meshd import limits
from meshd.backends import BackendFailed, RunControl
from meshd.http import Sweeper
from meshd.ids import NodeId, RequestId
from meshd.inference import Failure, FailureKind, ModelInfo, Request, known_kind
from meshd.relay.budget import PoisonList, RetryBudget
from meshd.relay.directives import (
    Attempt,
    Avoid,
    Directive,
    Fail,
    Finish,
    Pick,
    Poison,
    Say,
)
from meshd.relay.exchange import Exchange
from meshd.relay.hedging import Hedging
from meshd.relay.holder import Holder, Order
from meshd.relay.in_flight import InFlight
from meshd.relay.incoming import RemoteSink
from meshd.relay.kinds import OF_THE_NODE
from meshd.relay.machine import Relay, State
from meshd.relay.orphans import Orphan
from meshd.relay.remote import RemoteHolders
from meshd.relay.sinks import AnswerItem, AnswerSink, SinkClosed
from meshd.relay.splice import DoesNotFit, Splice, Way
from meshd.routing.catalogue import Target
from meshd.routing.demand import demand_of
from meshd.routing.placement import Dispatch, Placement
from meshd.wire.serve import KeyedClaim

_CALLED = 16
"""Holders of a model that are asked whether they are there: more than are tried."""


class ClientSink(AnswerSink, Protocol):
    """The client's end of an exchange: one of `finish` and `fail` is called, once, last."""

    def asking(self, target: Target, attempt: int, wait_s: float, *, goes_on: bool) -> None:
        """This holder is being asked now (headers name it).

        `goes_on`: it goes on with what was delivered; else what was kept of others is void.
        `wait_s`: how long the request may queue there.
        """
        ...

    async def finish(self) -> None:
        """The answer is whole."""
        ...

    async def fail(self, failure: Failure, *, in_stream: bool) -> None:
        """There is no (whole) answer."""
        ...


class _Tap:
    """Between holder and client: keeps the state machine informed of what passes."""

    __slots__ = ("dispatch", "exchange", "sink")

    def __init__(self, exchange: Exchange, sink: ClientSink) -> None:
        self.exchange, self.sink = exchange, sink
        self.dispatch: Dispatch | None = None
        """The attempt under way, as placement counts it."""

    async def emit(self, items: Sequence[AnswerItem]) -> None:
        exchange, relay = self.exchange, self.exchange.relay
        try:
            items = relay.accept(items, trio.current_time())
        except DoesNotFit as e:
            raise BackendFailed(_diverged(e)) from e
        if not items:
            return
        # While the client is being written to, the holder's silence is the client's slowness.
        exchange.watch.at = relay.deadline_at
        await self.sink.emit(items)
        relay.holder_watch.heard(trio.current_time())
        exchange.watch.at = relay.wake_at

    def asking(self, attempt: Attempt) -> None:
        """This holder is being asked now, or its run is the one that answers."""
        goes_on = attempt.way is not None
        self.sink.asking(attempt.target, attempt.number, attempt.wait_s, goes_on=goes_on)

    def begun(self) -> None:
        """An engine has the request."""
        self.sink.begun()

    def sent(self, size_bytes: int) -> None:
        """The whole request is with this machine's transport."""
        self.exchange.relay.holder_watch.sent(size_bytes, trio.current_time())
        self.exchange.watch.at = self.exchange.relay.wake_at

    def heard(self) -> None:
        """The answer's head, or a frame without content, came in."""
        if self.dispatch is not None:
            self.dispatch.reached = True
        self.exchange.relay.holder_watch.heard(trio.current_time())
        self.exchange.watch.at = self.exchange.relay.wake_at


class Forwarder:
    """Answers requests by whoever holds the model, retrying while nothing was delivered."""

    def __init__(
        self,
        node: NodeId,
        holder: Holder,
        remotes: RemoteHolders,
        placement: Placement,
        sweeper: Sweeper,
        *,
        on_failure: Callable[[Target, Failure], None],
        call_roll: Callable[[Iterable[NodeId]], None] = lambda nodes: None,
        request_s: float = limits.REQUEST_S,
        queue_wait_s: float = limits.QUEUE_WAIT_S,
        same_name_is_same_model: bool = False,
        hedge: bool = False,
    ) -> None:
        """`same_name_is_same_model`: engines that tell no digest may go on for each other.

        `hedge`: a second holder is asked besides one whose first token is late.  `call_roll` has
        nodes say whether they are there; who does not is told by `Placement.is_mute`.
        """
        self._node = node
        self._holder = holder
        self._remotes = remotes
        self._placement = placement
        self.sweeper = sweeper
        self._on_failure = on_failure
        self._call_roll = call_roll
        self._request_s = request_s
        self._queue_wait_s = queue_wait_s
        self._same_name_is_same_model = same_name_is_same_model
        self._budget = RetryBudget()
        self._poison = PoisonList()
        self._exchanges: dict[Exchange, None] = {}
        self.counters: Counter[str] = Counter()
        self.in_flight = InFlight()
        self._hedging: Hedging | None = None
        if hedge:
            self._hedging = Hedging(
                node, placement, self._budget, sweeper, self.counters, self._note
            )

    def open(
        self,
        request_id: RequestId,
        request: Request,
        *,
        stream: bool,
        deadline_s: float | None,
        claim: KeyedClaim | None = None,
        orphan: Orphan | None = None,
    ) -> Exchange:
        """Begin an exchange; `run` it next.

        `deadline_s` is the client's own, if it told one; `claim` that of a keyed request.  The
        first attempt is `orphan`, if that is given.
        """
        now = trio.current_time()
        self._budget.request(now)
        relay = Relay(
            deadline_at=now + min(deadline_s or self._request_s, self._request_s),
            may_retry=self._may_retry,
            streaming=stream,
            splice=Splice(request) if stream else None,
            queue_wait_s=self._queue_wait_s,
        )
        return Exchange(request_id, request, relay, self.sweeper, claim, orphan)

    async def run(self, exchange: Exchange, sink: ClientSink) -> None:
        """See the exchange to its end; the sink has been finished or failed when this returns.

        Raises SinkClosed if the client could not be written to.
        """
        self.counters["requests"] += 1
        tap = _Tap(exchange, sink)
        exchange.on_doubt = partial(self._see_who_is_there, exchange.request.model)
        directives = self._start(exchange)
        self._exchanges[exchange] = None
        with self.in_flight:
            try:
                while directives:
                    directive = directives.pop(0)
                    directives = await self._carry_out(directive, exchange, tap) + directives
            except SinkClosed:
                self.counters["client_gone"] += 1
                raise
            finally:
                self.sweeper.unwatch(exchange.watch)
                del self._exchanges[exchange]

    def stop(self) -> None:
        """This node ends: what is under way gets its dialect's error now, not a cut later."""
        for exchange in list(self._exchanges):
            exchange.stop()

    def _start(self, exchange: Exchange) -> list[Directive]:
        now = trio.current_time()
        if self.in_flight.count >= limits.REQUESTS_IN_FLIGHT:
            exchange.relay.state = State.DONE
            return [Fail(_overloaded(), in_stream=False)]
        if len(self._poison) and self._poison.refused_for_s(_digest(exchange.request), now):
            exchange.relay.state = State.DONE
            return [Fail(_poisoned(), in_stream=False)]
        return exchange.relay.start(now)

    async def _carry_out(
        self, directive: Directive, exchange: Exchange, tap: _Tap
    ) -> list[Directive]:
        match directive:
            case Attempt():
                return await self._attempt(directive, exchange, tap)
            case Pick():
                return self._pick(directive, exchange)
            case Say(items):
                await tap.sink.emit(items)
            case Finish():
                self.counters["answered"] += 1
                await tap.sink.finish()
            case Fail(failure, in_stream):
                if failure.kind == FailureKind.CANCELLED:
                    raise SinkClosed(failure.message)  # only a client that left has that
                self.counters["failed_in_stream" if in_stream else "failed"] += 1
                await tap.sink.fail(failure, in_stream=in_stream)
            case Avoid():
                self._note([directive])
            case Poison():
                self._poison.add(_digest(exchange.request), trio.current_time())
        return []

    def _note(self, directives: Sequence[Directive]) -> None:
        for directive in directives:
            if isinstance(directive, Avoid):
                self._placement.avoid(directive.target, trio.current_time())
                self._on_failure(directive.target, directive.failure)
                if directive.failure.kind in OF_THE_NODE:
                    self._see_who_is_there(directive.target.model.name)

    def _see_who_is_there(self, model: str) -> None:
        """One holder does not answer: find out about the others before they are asked."""
        nodes = {target.node for target in self._placement.holders(model)} - {self._node}
        self._call_roll(islice(sorted(nodes), _CALLED))

    def _pick(self, pick: Pick, exchange: Exchange) -> list[Directive]:
        now = trio.current_time()
        request = exchange.request
        if exchange.orphan is not None:
            return exchange.relay.picked(self._target_of(exchange.orphan), 1, False, now)
        choice = self._placement.choose(
            request.model, demand_of(request), pick.exclude, now, self._may_follow(pick)
        )
        if choice is None:
            return exchange.relay.picked(None, 0, False, now)
        return exchange.relay.picked(choice.target, choice.others, not choice.local, now)

    def _target_of(self, orphan: Orphan) -> Target:
        """What runs it here, also if it is offered no more."""
        asked = orphan.asked
        for target in self._placement.catalogue.holders(asked.model):
            if (target.node, target.backend) == (self._node, asked.backend):
                return target
        return Target(self._node, asked.backend, "", 1, ModelInfo(asked.model))

    def _may_follow(self, pick: Pick) -> Callable[[Target], bool] | None:
        """Who may go on with another's answer: only the very same model says the same."""
        like = pick.like
        if like is None:
            return None
        must_continue = pick.way is Way.CONTINUE

        def may(target: Target) -> bool:
            digest = target.model.digest
            same = digest == like.model.digest and (bool(digest) or self._same_name_is_same_model)
            return same and not (must_continue and target.model.continues is False)

        return may

    async def _attempt(self, attempt: Attempt, exchange: Exchange, tap: _Tap) -> list[Directive]:
        target, relay = attempt.target, exchange.relay
        if attempt.number > 1:
            self.counters["retries"] += 1
        if attempt.way is not None:
            self.counters[f"tried_to_{attempt.way.name.lower()}"] += 1
        left_s = relay.deadline_at - trio.current_time()
        request = attempt.request or exchange.request
        order = Order(request, target.backend, target.model.name, attempt.wait_s, left_s)
        exchange.control = RunControl()
        if relay.abort_reason is not None:
            exchange.control.abort(relay.abort_reason)
        exchange.watch.at = relay.wake_at
        tap.asking(attempt)
        serve = partial(self._serve, exchange)
        try:
            if self._hedging is not None and self._hedging.concerns(attempt, exchange):
                target = await self._hedging.run(attempt, order, exchange, tap, serve)
            else:
                tap.dispatch = self._placement.dispatched(target)
                await serve(attempt, order, tap, exchange.control)
        except BackendFailed as e:
            self.counters[f"attempt_{known_kind(e.failure.kind)}"] += 1
            return relay.failed(e.failure, trio.current_time())
        finally:
            if tap.dispatch is not None:
                self._placement.returned(tap.dispatch)
            exchange.control = None
        self._placement.succeeded(target)
        if attempt.way is not None:
            self.counters[f"went_on_by_{attempt.way.name.lower()}"] += 1
        return relay.ended(trio.current_time())

    async def _serve(
        self,
        exchange: Exchange,
        attempt: Attempt,
        order: Order,
        sink: RemoteSink,
        control: RunControl,
    ) -> None:
        node = attempt.target.node
        if (orphan := exchange.orphan) is not None:
            exchange.orphan = None
            await orphan.serve(sink, control)
        elif node == self._node:
            await self._holder.serve(order, sink, control)
        else:
            # Whoever continues an answer does not have it from its start.
            claim = None if attempt.way is Way.CONTINUE else exchange.claim
            name = exchange.request_id
            await self._remotes.serve(node, name, attempt, order, sink, control, claim)

    def _may_retry(self, now: float) -> bool:
        allowed = self._budget.may_retry(now, len(self._exchanges))
        if not allowed:
            self.counters["retry_budget_spent"] += 1
        return allowed


def _digest(request: Request) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(request)).digest()


def _diverged(error: DoesNotFit) -> Failure:
    return Failure(
        FailureKind.DIVERGED,
        f"the answer broke off, and {error}: it cannot be gone on with; ask again",
        502,
    )


def _overloaded() -> Failure:
    return Failure(
        FailureKind.BUSY,
        f"this node is at {limits.REQUESTS_IN_FLIGHT} requests already; ask another one",
        503,
        retry_after_s=1.0,
    )


def _poisoned() -> Failure:
    return Failure(
        FailureKind.BAD_REQUEST,
        "this very request ended two engines a short while ago and is refused for ten minutes",
        422,
    )
