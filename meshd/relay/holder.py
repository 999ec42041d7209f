"""A node as holder: admit a request in front of an engine, run it, watch the engine (trio shell).

The same code serves a request of this node's own clients (in process) and a forwarded one
(`relay/serving.py`).  It never forwards: served here or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from meshd import limits
from meshd.backends import Backend, BackendFailed, Backends, RunControl
from meshd.backends.control import failed
from meshd.errors import DialFailed, LimitExceeded, MeshdError, ProtocolError, StreamBroken
from meshd.http import Sweeper
from meshd.ids import NodeId
from meshd.inference import (
    Delta,
    Embedding,
    Failure,
    FailureKind,
    Kind,
    Load,
    ModelInfo,
    ModelLoad,
    Request,
    Usage,
)
from meshd.relay.in_flight import InFlight
from meshd.relay.watchdog import Patience, Watchdog, watchdog
from meshd.routing.admission import Admission, Busy, Lane, Queued, Ticket
from meshd.routing.catalogue import Target
from meshd.routing.cost import Candidate, predict
from meshd.routing.demand import Demand, demand_of
from meshd.routing.placement import load_key
from meshd.routing.rates import Observation, RateBook

_PATIENCE = Patience()

AnswerItem = Delta | Usage | Embedding


class SinkClosed(MeshdError):
    """Whoever the answer was for went away while it was being written."""


class AnswerSink(Protocol):
    """Where an answer goes."""

    async def emit(self, items: Sequence[AnswerItem]) -> None:
        """Pass these on, in order; waiting is the backpressure.  Raises SinkClosed."""
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """One request for one model of one backend of this node."""

    request: Request
    backend: str
    model: str
    wait_s: float
    """How long it may queue."""


@dataclass(slots=True)
class _Waiter:
    """A queued request, parked until a slot is free."""

    event: trio.Event
    aborted: str = ""

    def abort(self, reason: str) -> None:
        self.aborted = reason
        self.event.set()


class Holder:
    """Serves requests on this node's own engines."""

    def __init__(
        self,
        node: NodeId,
        backends: Backends,
        sweeper: Sweeper,
        *,
        patience: Patience = _PATIENCE,
        queue_limit: int = limits.QUEUE_PER_NODE,
    ) -> None:
        self.node = node
        self.draining = False
        self.in_flight = InFlight()
        self.admission = Admission(queue_limit)
        self.rates = RateBook()
        self._backends = backends
        self._sweeper = sweeper
        self._waiters: dict[Ticket, _Waiter] = {}
        self._patience = patience

    def load(self) -> Load:
        """How busy this node is right now, to be told to others."""
        per_model: dict[str, ModelLoad] = {}
        slots_total = 0
        for backend in self._backends.inventory().backends:
            slots_total += backend.slots
            for model in backend.models:
                lane = (backend.id, model.name)
                running, queued = self.admission.lane_load(lane)
                rates = self.rates.of(lane)
                per_model[load_key(*lane)] = ModelLoad(
                    running=running,
                    queued=queued,
                    slots=backend.slots,
                    resident=model.resident,
                    decode_tokens_per_s=round(rates.decode_tokens_per_s, 1),
                    prefill_tokens_per_s=round(rates.prefill_tokens_per_s, 1),
                    load_s=round(rates.load_s, 2),
                )
        return Load(
            running=self.admission.running,
            queued=self.admission.queued,
            slots=slots_total,
            draining=self.draining,
            per_model=per_model,
        )

    async def show(self, backend_id: str, model_name: str) -> dict[str, Any]:
        """Ollama's /api/show body of a model here.  Raises BackendFailed."""
        for backend, model in self._backends.holders(model_name):
            if backend.id == backend_id:
                try:
                    return await backend.show(model)
                except (DialFailed, StreamBroken, ProtocolError) as e:
                    raise failed(FailureKind.UNREACHABLE, str(e), 502) from e
        raise failed(FailureKind.NOT_FOUND, f"this node has no model {model_name!r}", 404)

    async def serve(self, order: Order, sink: AnswerSink, control: RunControl) -> None:
        """Run the request here.

        Returns when the whole answer was emitted.  Raises BackendFailed with the reason otherwise;
        `control.abort` ends it at any point, also while it is queued.
        """
        if self.draining:
            raise failed(FailureKind.DRAINING, "this node is shutting down", 503)
        backend, model = self._find(order)
        lane = (backend.id, model.name)
        slots = self._slots_of(backend.id)
        ticket, verdict = self.admission.ask(lane, slots, order.wait_s, trio.current_time())
        try:
            if isinstance(verdict, Busy):
                raise _busy(verdict.wait_s)
            with self.in_flight:
                if isinstance(verdict, Queued):
                    await self._wait_for_slot(ticket, control)
                await self._run(order.request, backend, model, lane, sink, control)
        finally:
            for admitted in self.admission.done(ticket, trio.current_time()):
                self._waiters.pop(admitted).event.set()

    async def _wait_for_slot(self, ticket: Ticket, control: RunControl) -> None:
        waiter = self._waiters[ticket] = _Waiter(trio.Event())
        watch = self._sweeper.watch(
            lambda: waiter.abort("no slot became free in time"), ticket.give_up_at
        )
        try:
            control.attach(waiter)
            await waiter.event.wait()
        finally:
            self._sweeper.unwatch(watch)
            self._waiters.pop(ticket, None)
        if control.aborted is not None:
            raise failed(FailureKind.CANCELLED, control.aborted, 499)
        if waiter.aborted:
            raise _busy(1.0)

    async def _run(
        self,
        request: Request,
        backend: Backend,
        model: ModelInfo,
        lane: Lane,
        sink: AnswerSink,
        control: RunControl,
    ) -> None:
        now = trio.current_time()
        demand = demand_of(request)
        first_s = self._predicted_first_s(lane, model, demand)
        dog = watchdog(first_s, self.rates.of(lane).gap_s, now, self._patience)
        hung: list[Failure] = []

        def bark() -> None:
            hung.append(dog.failure())
            control.abort(hung[0].message)

        watch = self._sweeper.watch(bark, dog.due_at)
        run = _Run(dog, sink, self.rates, lane)

        async def emit(items: Sequence[Delta | Usage]) -> None:
            watch.at = float("inf")  # a client that reads slowly is not a hung engine
            await run.emit(items)
            dog.due_at = trio.current_time() + dog.between_tokens_s
            watch.at = dog.due_at

        try:
            if request.kind is Kind.EMBED:
                await sink.emit([await backend.embed(request, model, control)])
            else:
                await backend.run(request, model, emit, control)
        except BackendFailed as e:
            if hung:
                raise BackendFailed(hung[0]) from e
            raise
        except DialFailed as e:
            # Not UNREACHABLE: that would cast suspicion on this node, which is well.
            raise failed(FailureKind.BACKEND, f"the engine cannot be reached: {e}", 502) from e
        except StreamBroken as e:
            if hung:
                raise BackendFailed(hung[0]) from e
            if control.aborted is not None:
                raise failed(FailureKind.CANCELLED, control.aborted, 499) from e
            raise failed(FailureKind.BROKEN, f"the engine's answer broke off: {e}", 502) from e
        except (LimitExceeded, ProtocolError) as e:
            raise failed(FailureKind.BACKEND, f"the engine sent what is no answer: {e}", 502) from e
        finally:
            self._sweeper.unwatch(watch)
            run.observe(now)

    def _find(self, order: Order) -> tuple[Backend, ModelInfo]:
        for backend, model in self._backends.holders(order.model):
            if backend.id == order.backend:
                return backend, model
        raise failed(
            FailureKind.NOT_FOUND, f"this node has no model {order.model!r} (any more)", 404
        )

    def _slots_of(self, backend_id: str) -> int:
        for backend in self._backends.inventory().backends:
            if backend.id == backend_id:
                return backend.slots
        return 1

    def _predicted_first_s(self, lane: Lane, model: ModelInfo, demand: Demand) -> float:
        rates = self.rates.of(lane)
        load = ModelLoad(
            resident=model.resident,
            decode_tokens_per_s=rates.decode_tokens_per_s,
            prefill_tokens_per_s=rates.prefill_tokens_per_s,
            load_s=rates.load_s,
        )
        target = Target(self.node, lane[0], "", 1, model)
        return predict(Candidate(target, load), demand).first_token_s


@dataclass(slots=True)
class _Run:
    """What is seen of one run: passed on, timed, learned from."""

    dog: Watchdog
    sink: AnswerSink
    rates: RateBook
    lane: Lane
    first_at: float = 0.0
    last_at: float = 0.0
    usage: Usage | None = None

    async def emit(self, items: Sequence[Delta | Usage]) -> None:
        now = trio.current_time()
        gap_s = self.dog.event(now)
        if self.first_at:
            self.rates.observe_gap(self.lane, gap_s)
        else:
            self.first_at = now
        self.last_at = now
        if type(items[-1]) is Usage:
            self.usage = items[-1]
        await self.sink.emit(items)

    def observe(self, started_at: float) -> None:
        """Learn the lane's rates from a run that told its token counts."""
        if self.usage is None or not self.first_at:
            return
        usage = self.usage
        load_s = usage.load_ns / 1e9
        self.rates.observe(
            self.lane,
            Observation(
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                prefill_s=usage.prompt_ns / 1e9 or max(0.0, self.first_at - started_at - load_s),
                decode_s=usage.completion_ns / 1e9 or self.last_at - self.first_at,
                load_s=load_s,
            ),
        )


def _busy(wait_s: float) -> BackendFailed:
    return failed(FailureKind.BUSY, "all slots are taken here", 503, round(wait_s, 2))
