"""A second run beside one whose first token is late: whoever begins first answers (trio shell).

Off unless the config says otherwise.  What is decided is decided in `race.py`; here are the tasks
of the two runs, their watch, and what the rest of the entry is told (relay/DESIGN.md, "Hedging").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from meshd import limits
from meshd.backends import BackendFailed, RunControl
from meshd.http import Sweeper
from meshd.ids import NodeId
from meshd.inference import Failure, Kind, Request
from meshd.modelnames import normalise
from meshd.relay.budget import RetryBudget
from meshd.relay.directives import Attempt, Directive
from meshd.relay.ends import cut, unheard
from meshd.relay.holder import Order
from meshd.relay.incoming import RemoteSink
from meshd.relay.machine import Relay
from meshd.relay.race import Race, Racer, ends_both
from meshd.relay.sinks import AnswerItem, SinkClosed
from meshd.routing.catalogue import Target
from meshd.routing.demand import demand_of
from meshd.routing.first_waits import FirstWaits
from meshd.routing.placement import Dispatch, Placement

_QUICKER = "another node was quicker"
_AT_ONCE_S = 0.05
"""A holder that begins to read within this has nothing to wait for first."""

Serve = Callable[[Attempt, Order, RemoteSink, RunControl], Awaitable[None]]
"""Have a request served by the attempt's target; raises BackendFailed, SinkClosed."""


class Asking(Protocol):
    """What a race needs of the exchange that it is about."""

    request: Request
    relay: Relay
    control: RunControl | None
    may_hedge: bool


class Sink(RemoteSink, Protocol):
    """Where the answer goes."""

    def asking(self, attempt: Attempt) -> None:
        """That run is the answer."""
        ...


class Hedging:
    """One entry's second runs."""

    def __init__(
        self,
        node: NodeId,
        placement: Placement,
        budget: RetryBudget,
        sweeper: Sweeper,
        counters: Counter[str],
        carry_out: Callable[[Sequence[Directive]], None],
    ) -> None:
        """`carry_out` is given what is to be done about a run that failed beside another."""
        self.node = node
        self.placement = placement
        self.sweeper = sweeper
        self.counters = counters
        self.carry_out = carry_out
        self.waits = FirstWaits(least=limits.HEDGE_WAITS_MIN)
        self._budget = budget

    def concerns(self, attempt: Attempt, asking: Asking) -> bool:
        """Whether a second run beside this one makes sense: of the first run, of a request that
        is to say something, and where another could be asked."""
        request = asking.request
        says = request.kind is not Kind.EMBED and bool(request.messages or request.prompt)
        first = attempt.number == 1 and attempt.way is None
        return asking.may_hedge and says and first and attempt.others > 0 and not attempt.wait_s

    async def run(
        self, attempt: Attempt, order: Order, asking: Asking, sink: Sink, serve: Serve
    ) -> Target:
        """See the attempt to its end, perhaps by another run; returns who answered.

        Raises BackendFailed, SinkClosed.
        """
        return await _Hedged(self, attempt, order, asking, sink, serve).run()

    def second(self, attempt: Attempt, request: Request) -> tuple[Target, bool] | None:
        """Who could be asked besides, and whether that is another node; None: nobody, or enough
        was tried twice of late."""
        now = trio.current_time()
        demand = demand_of(request)
        choice = self.placement.choose(request.model, demand, {attempt.target.key}, now)
        if choice is None:
            return None
        if not self._budget.may_hedge(now):
            self.counters["hedges_refused"] += 1
            return None
        self.counters["hedges"] += 1
        return choice.target, not choice.local


class _Hedged:
    """One attempt that may become two."""

    def __init__(
        self,
        hedging: Hedging,
        attempt: Attempt,
        order: Order,
        asking: Asking,
        sink: Sink,
        serve: Serve,
    ) -> None:
        self._hedging, self._attempt, self._order = hedging, attempt, order
        self._asking, self._sink, self._serve = asking, sink, serve
        self._began_at = now = trio.current_time()
        self._model = normalise(asking.request.model)
        before_s = hedging.placement.before_reading_s(attempt.target, demand_of(asking.request))
        self._reads_at_once = before_s < _AT_ONCE_S
        late_s = max(limits.HEDGE_MIN_S, before_s + hedging.waits.late_s(self._model))
        first = Racer(attempt.target, attempt.target.node != hedging.node, attempt.number)
        first.watch.asked(now)
        self._race = Race(first, now + late_s)
        self._attempts: dict[Racer, Attempt] = {first: attempt}
        self._controls: dict[Racer, RunControl] = {first: RunControl()}
        self._late, self._over = trio.Event(), trio.Event()
        self._error: BackendFailed | SinkClosed | None = None
        self._late_s = hedging.sweeper.late_s
        self._watch = hedging.sweeper.watch(self._tick, self._race.wake_at)

    async def run(self) -> Target:
        (first,) = self._race.runs
        self._asking.relay.holder_watch.stop()  # until it is known who answers both are watched
        assert self._asking.control is not None
        try:
            async with trio.open_nursery() as nursery:
                self._asking.control.attach(self)
                nursery.start_soon(self._run, first)
                nursery.start_soon(self._begin_another, nursery)
                await self._over.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._hedging.sweeper.unwatch(self._watch)
            self._asking.control.detach()
        if self._error is not None:
            raise self._error
        assert self._race.winner is not None
        return self._race.winner.target

    def abort(self, reason: str) -> None:
        """The client went away, its time is over, or this node ends."""
        for run in list(self._race.runs):
            self._controls[run].abort(reason)

    def _tick(self) -> None:
        now, sweeper, race = trio.current_time(), self._hedging.sweeper, self._race
        race.was_deaf(sweeper.late_s - self._late_s)
        self._late_s = sweeper.late_s
        for run in race.silent(now):
            self._controls[run].abort(unheard().message)
        if race.is_late(now):
            self._late.set()
        self._watch.at = race.wake_at

    # ---------------------------------------------------------------- the runs

    async def _begin_another(self, nursery: trio.Nursery) -> None:
        await self._late.wait()
        found = self._hedging.second(self._attempt, self._asking.request)
        if found is None:
            return
        target, remote = found
        number, ask = self._asking.relay.hedged()
        run = Racer(target, remote, number)
        run.watch.asked(trio.current_time())
        if self._race.begins(run):
            self._attempts[run] = Attempt(target, number, 0.0, ask, others=1)
            self._controls[run] = RunControl()
            self._watch.at = self._race.wake_at
            nursery.start_soon(self._run, run)

    async def _run(self, run: Racer) -> None:
        attempt, order = self._attempts[run], self._order
        left_s = self._asking.relay.deadline_at - trio.current_time()
        target = run.target
        order = Order(order.request, target.backend, target.model.name, attempt.wait_s, left_s)
        placement = self._hedging.placement
        dispatch = placement.dispatched(target)
        sink = _RunSink(self, run, dispatch)
        try:
            await self._serve(attempt, order, sink, self._controls[run])
            if self._race.winner is run:
                self._over.set()
            else:
                self._failed(run, cut())
        except BackendFailed as e:
            self._failed(run, e.failure)
        except SinkClosed as e:
            self._error = e
            self._over.set()
        finally:
            placement.returned(dispatch)

    def _failed(self, run: Racer, failure: Failure) -> None:
        race, relay = self._race, self._asking.relay
        if run not in race.runs:
            return  # it was beaten, and called off
        assert self._asking.control is not None
        goes_on = race.failed(run) and not ends_both(failure)
        if self._asking.control.aborted is None and goes_on:
            self._hedging.carry_out(relay.lost_one(run.target, failure))
            (other,) = race.runs
            relay.moved(other.target, other.remote, trio.current_time())
            relay.holder_watch.stop()
            self._watch.at = race.wake_at
            return
        for other in race.runs:
            self._controls[other].abort(failure.message)
        if race.winner is not run:  # else the relay is at it already, and knows what it said
            relay.moved(run.target, run.remote, trio.current_time())
        self._error = BackendFailed(failure)
        self._over.set()

    # ---------------------------------------------------------------- what they say

    async def emit(self, run: Racer, items: Sequence[AnswerItem]) -> None:
        now = trio.current_time()
        run.watch.heard(now)
        items, won = self._race.says(run, items)
        if won:
            self._won(run, now)
        if items:
            await self._sink.emit(items)

    def _won(self, run: Racer, now: float) -> None:
        for beaten in self._race.beaten():
            self._controls[beaten].abort(_QUICKER)
        if self._reads_at_once:
            self._hedging.waits.observe(self._model, now - self._began_at)
        self._asking.relay.moved(run.target, run.remote, now)
        if self._attempts[run] is not self._attempt:
            self._hedging.counters["hedges_won"] += 1
            self._sink.asking(self._attempts[run])

    def begun(self) -> None:
        self._sink.begun()

    def heard(self, run: Racer) -> None:
        run.watch.heard(trio.current_time())
        if self._race.winner is run:
            self._sink.heard()
        self._watch.at = self._race.wake_at

    def sent(self, run: Racer, size_bytes: int) -> None:
        run.watch.sent(size_bytes, trio.current_time())
        self._watch.at = self._race.wake_at


class _RunSink(RemoteSink):
    """What one of the runs says."""

    __slots__ = ("_dispatch", "_hedged", "_run")

    def __init__(self, hedged: _Hedged, run: Racer, dispatch: Dispatch) -> None:
        self._hedged, self._run, self._dispatch = hedged, run, dispatch

    async def emit(self, items: Sequence[AnswerItem]) -> None:
        self._dispatch.reached = True
        await self._hedged.emit(self._run, items)

    def begun(self) -> None:
        self._hedged.begun()

    def heard(self) -> None:
        self._dispatch.reached = True
        self._hedged.heard(self._run)

    def sent(self, size_bytes: int) -> None:
        self._hedged.sent(self._run, size_bytes)
