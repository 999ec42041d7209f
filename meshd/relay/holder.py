"""A node as holder: admit a request in front of an engine, run it, watch the engine (trio shell).

The same code serves a request of this node's own clients (in process) and a forwarded one
(`relay/serving.py`).  It never forwards: served here or refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import trio

from meshd import limits, logs
from meshd.backends import Backend, BackendFailed, Backends, RunControl
from meshd.backends.control import failed
from meshd.errors import DialFailed, MeshdError, ProtocolError, StreamBroken
from meshd.http import Sweeper
from meshd.ids import NodeId
from meshd.inference import FailureKind, Kind, Load, ModelInfo, ModelLoad, Request
from meshd.relay.engine_run import EngineRun
from meshd.relay.in_flight import InFlight
from meshd.relay.sinks import AnswerSink
from meshd.relay.watchdog import Patience, watchdog
from meshd.routing.admission import Admission, Busy, Lane, Queued, Ticket
from meshd.routing.catalogue import Target
from meshd.routing.cost import Candidate, predict
from meshd.routing.demand import Demand, demand_of
from meshd.routing.placement import load_key
from meshd.routing.rates import RateBook

_PATIENCE = Patience()

log = logs.get("holder")


class Order(msgspec.Struct, frozen=True, gc=False):
    """One request for one model of one backend of this node."""

    request: Request
    backend: str
    """Which engine; "" leaves it to the holder."""
    model: str
    wait_s: float
    """How long it may queue."""
    deadline_s: float = limits.REQUEST_S
    """What is left of the time allowed: told to another node, which ends the run after it."""


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
        self.had: Callable[[str], bool] = lambda model: False
        """Whether an engine of this node had that model a short while ago, and has stopped."""
        self.in_flight = InFlight()
        self.admission = Admission(queue_limit)
        self.rates = RateBook()
        self._backends = backends
        self._sweeper = sweeper
        self._waiters: dict[Ticket, _Waiter] = {}
        self._patience = patience
        self._suspects, self._suspected = trio.open_memory_channel[tuple[EngineRun, Backend]](
            math.inf  # as many as there are runs, at most
        )

    def load(self) -> Load:
        """How busy this node is right now, to be told to others."""
        per_model: dict[str, ModelLoad] = {}
        slots_total = 0
        for backend in self._backends.inventory().backends:
            slots_total += backend.slots
            for model in backend.models:
                lane = self.lane_load(backend.id, model.name)
                per_model[load_key(backend.id, model.name)] = msgspec.structs.replace(
                    lane, slots=backend.slots, resident=model.resident
                )
        return Load(
            running=self.admission.running,
            queued=self.admission.queued,
            slots=slots_total,
            draining=self.draining,
            per_model=per_model,
        )

    def lane_load(self, backend_id: str, model_name: str) -> ModelLoad:
        """One lane as it is now; slots and residency are in the inventory."""
        lane = (backend_id, model_name)
        running, queued = self.admission.lane_load(lane)
        rates = self.rates.of(lane)
        return ModelLoad(
            running=running,
            queued=queued,
            decode_tokens_per_s=round(rates.decode_tokens_per_s, 1),
            prefill_tokens_per_s=round(rates.prefill_tokens_per_s, 1),
            load_s=round(rates.load_s, 2),
        )

    async def show(self, backend_id: str, model_name: str) -> dict[str, Any]:
        """Ollama's /api/show body of a model here.  Raises BackendFailed."""
        for backend, model in self._backends.holders(model_name):
            if backend_id in ("", backend.id):
                try:
                    return await backend.show(model)
                except (DialFailed, StreamBroken, ProtocolError) as e:
                    raise failed(FailureKind.ENGINE_AWAY, str(e), 503) from e
        raise failed(FailureKind.NOT_FOUND, f"this node has no model {model_name!r}", 404)

    async def run(self) -> None:
        """Ask engines that fell silent whether they live, until cancelled.

        Without it they count as hung only when their silence lasts too long for a living one.
        """
        async with trio.open_nursery() as nursery:
            async for run, backend in self._suspected:
                nursery.start_soon(self._examine, run, backend)

    def _suspect(self, backend: Backend, run: EngineRun) -> None:
        self._suspects.send_nowait((run, backend))

    async def _examine(self, run: EngineRun, backend: Backend) -> None:
        silent_since = run.dog.last_at
        try:
            lives = await backend.lives()
        except Exception:  # its task: this node goes on
            log.exception("an engine could not be asked whether it lives", backend=backend.id)
            return
        if run.dog.last_at == silent_since:
            run.examined(lives)

    def offer_changed(self) -> None:
        """Engines of this node may take more at once than before: let in who waits for that."""
        now = trio.current_time()
        for backend in self._backends.inventory().backends:
            for model in backend.models:
                lane = (backend.id, model.name)
                self._let_in(self.admission.resize(lane, backend.slots, now))

    def _let_in(self, admitted: list[Ticket]) -> None:
        for ticket in admitted:
            self._waiters.pop(ticket).event.set()

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
                sink.begun()
                await self._run(order.request, backend, model, lane, sink, control)
        finally:
            self._let_in(self.admission.done(ticket, trio.current_time()))

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
        first_s = self._predicted_first_s(lane, model, demand_of(request))
        dog = watchdog(first_s, self.rates.of(lane).gap_s, now, self._patience)
        run = EngineRun(
            lane, sink, self.rates, dog, control, self._sweeper, partial(self._suspect, backend)
        )
        try:
            if request.kind is Kind.EMBED:
                await run.emit_whole(await backend.embed(request, model, control))
            else:
                await backend.run(request, model, run.emit, control)
        except MeshdError as e:
            if (failure := _failure(e, model.name, run, control)) is None:
                raise
            raise failure from e
        finally:
            run.over()

    def _find(self, order: Order) -> tuple[Backend, ModelInfo]:
        found = self._backends.holders(order.model)
        if order.backend:
            found = [pair for pair in found if pair[0].id == order.backend]
        if not found:
            if self.had(order.model):
                raise _away(order.model, "has stopped")
            raise failed(
                FailureKind.NOT_FOUND, f"this node has no model {order.model!r} (any more)", 404
            )
        return min(found, key=lambda pair: self._fullness(pair[0].id, pair[1].name))

    def _fullness(self, backend_id: str, model_name: str) -> float:
        running, queued = self.admission.lane_load((backend_id, model_name))
        return (running + queued) / max(1, self._slots_of(backend_id))

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


def _failure(
    error: MeshdError, model: str, run: EngineRun, control: RunControl
) -> BackendFailed | None:
    """What a run that broke is to be called; None: what it is called already."""
    if run.hung is not None and isinstance(error, BackendFailed | StreamBroken):
        return BackendFailed(run.hung)
    if isinstance(error, DialFailed):
        return _away(model, f"cannot be reached: {str(error).removesuffix('.')}")
    if isinstance(error, StreamBroken):
        if control.aborted is not None:
            return failed(FailureKind.CANCELLED, control.aborted, 499)
        return failed(FailureKind.BROKEN, f"the engine's answer broke off: {error}", 502)
    if isinstance(error, ProtocolError):
        return failed(FailureKind.BACKEND, f"the engine sent what is no answer: {error}", 502)
    return None


def _away(model: str, why: str) -> BackendFailed:
    return failed(FailureKind.ENGINE_AWAY, f"the engine of model {model!r} {why}", 503)


def _busy(wait_s: float) -> BackendFailed:
    return failed(FailureKind.BUSY, "all slots are taken here", 503, round(wait_s, 2))
