"""A node as holder: which engine, who runs, who waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.backends import BackendFailed, RunControl
from meshd.errors import DialFailed
from meshd.http import Sweeper
from meshd.ids import NodeId
from meshd.inference import (
    BackendInfo,
    Delta,
    Embedding,
    FailureKind,
    Inventory,
    Kind,
    ModelInfo,
    Request,
    Usage,
)
from meshd.relay.holder import Holder, Order
from meshd.relay.kinds import OF_THE_NODE
from meshd.relay.sinks import AnswerItem

HERE = NodeId("h" * 26)
TINY = ModelInfo("tiny", resident=True)
CHAT = Request(Kind.CHAT, "tiny")
EMBED = Request(Kind.EMBED, "tiny", inputs=["x"])


class FakeBackend:
    """Answers a run when it is told to."""

    def __init__(self, backend_id: str) -> None:
        self.id = backend_id
        self.running = 0
        self.runs = 0
        self.go = trio.Event()
        self.alive = True
        self.dials = True

    async def run(self, request: Request, model: ModelInfo, emit: Any, control: RunControl) -> None:
        await self._work()
        await emit([Delta(text="a", finish_reason="stop"), Usage(1, 1)])

    async def embed(self, request: Request, model: ModelInfo, control: RunControl) -> Embedding:
        await self._work()
        return Embedding([[1.0]])

    async def lives(self) -> bool:
        await trio.sleep(1.0)
        return self.alive

    async def _work(self) -> None:
        if not self.dials:
            raise DialFailed("nobody listens.")
        self.runs += 1
        self.running += 1
        await self.go.wait()
        self.running -= 1


class FakeBackends:
    """One model, offered by each."""

    def __init__(self, *backends: FakeBackend) -> None:
        self.all = backends
        self.slots = 1

    def holders(self, name: str) -> list[tuple[FakeBackend, ModelInfo]]:
        return [(backend, TINY) for backend in self.all if name == "tiny"]

    def inventory(self) -> Inventory:
        infos = [BackendInfo(b.id, "vllm", slots=self.slots, models=[TINY]) for b in self.all]
        return Inventory(HERE, 1, 1, infos)


class Sink:
    """A client that takes `slowness_s` to read each piece."""

    def __init__(self, slowness_s: float = 0.0) -> None:
        self.items: list[AnswerItem] = []
        self.slowness_s = slowness_s
        self.begun_at: float | None = None

    def begun(self) -> None:
        self.begun_at = trio.current_time()

    async def emit(self, items: Sequence[AnswerItem]) -> None:
        await trio.sleep(self.slowness_s)
        self.items += items


@asynccontextmanager
async def holder_of(*backends: FakeBackend) -> AsyncIterator[tuple[Holder, Any, trio.Nursery]]:
    sweeper, engines = Sweeper(), FakeBackends(*backends)
    holder = Holder(HERE, engines, sweeper)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        nursery.start_soon(holder.run)
        yield holder, engines, nursery
        nursery.cancel_scope.cancel()


def order(backend: str = "e", wait_s: float = 60.0, request: Request = CHAT) -> Order:
    return Order(request, backend, "tiny", wait_s)


async def test_an_entry_may_leave_the_choice_of_the_engine_to_the_holder(
    autojump_clock: MockClock,
) -> None:
    one, two = FakeBackend("one"), FakeBackend("two")
    async with holder_of(one, two) as (holder, _, nursery):
        for _ in range(2):
            nursery.start_soon(holder.serve, order(""), Sink(), RunControl())
            await trio.sleep(1.0)
        assert (one.running, two.running) == (1, 1), "the emptier one is taken"
        with pytest.raises(BackendFailed) as raised:
            await holder.serve(order("three"), Sink(), RunControl())
        assert raised.value.failure.kind == FailureKind.NOT_FOUND


async def test_a_model_whose_engine_has_stopped_here_is_not_one_that_never_was_here(
    autojump_clock: MockClock,
) -> None:
    async with holder_of() as (holder, _, _nursery):
        for had, kind, status in (
            (True, FailureKind.ENGINE_AWAY, 503),
            (False, FailureKind.NOT_FOUND, 404),
        ):
            holder.had = {"tiny": had}.__getitem__
            with pytest.raises(BackendFailed) as raised:
                await holder.serve(order(), Sink(), RunControl())
            assert (raised.value.failure.kind, raised.value.failure.status) == (kind, status)


async def test_an_engine_that_cannot_be_dialled_is_away_and_its_node_is_not(
    autojump_clock: MockClock,
) -> None:
    engine = FakeBackend("e")
    engine.dials = False
    async with holder_of(engine) as (holder, _, _):
        with pytest.raises(BackendFailed) as raised:
            await holder.serve(order(), Sink(), RunControl())
    failure = raised.value.failure
    assert (failure.kind, failure.status) == (FailureKind.ENGINE_AWAY, 503)
    assert failure.message == "the engine of model 'tiny' cannot be reached: nobody listens"
    assert failure.kind not in OF_THE_NODE, "membership is told nothing against it"


async def test_a_sink_hears_when_its_request_leaves_the_queue(autojump_clock: MockClock) -> None:
    engine, first, second = FakeBackend("e"), Sink(), Sink()
    async with holder_of(engine) as (holder, engines, nursery):
        nursery.start_soon(holder.serve, order(), first, RunControl())
        await trio.sleep(1.0)
        nursery.start_soon(holder.serve, order(), second, RunControl())
        await trio.sleep(5.0)
        assert (first.begun_at is not None, second.begun_at) == (True, None)
        engines.slots = 2
        holder.offer_changed()
        await trio.sleep(1.0)
        assert second.begun_at is not None


async def test_who_waits_is_let_in_when_the_engine_turns_out_to_take_more(
    autojump_clock: MockClock,
) -> None:
    engine = FakeBackend("e")
    async with holder_of(engine) as (holder, engines, nursery):
        for _ in range(4):
            nursery.start_soon(holder.serve, order(), Sink(), RunControl())
        await trio.sleep(1.0)
        assert engine.running == 1
        engines.slots = 3
        holder.offer_changed()
        await trio.sleep(1.0)
        assert (engine.running, holder.admission.queued) == (3, 1)
        engine.go.set()
        await holder.in_flight.until_none()
        assert engine.runs == 4


@pytest.mark.parametrize("asked", [CHAT, EMBED], ids=["chat", "embed"])
@pytest.mark.parametrize("alive", [True, False])
async def test_a_client_that_reads_slowly_is_no_hung_engine(
    autojump_clock: MockClock, asked: Request, alive: bool
) -> None:
    engine, control, sink = FakeBackend("e"), RunControl(), Sink(200.0)
    engine.go.set()
    engine.alive = alive
    async with holder_of(engine) as (holder, _, _):
        await holder.serve(order(request=asked), sink, control)
    assert control.aborted is None
    assert sink.items


async def test_an_engine_that_answers_while_it_is_asked_whether_it_lives_lives(
    autojump_clock: MockClock,
) -> None:
    engine, control, sink = FakeBackend("e"), RunControl(), Sink(200.0)
    engine.alive = False
    async with holder_of(engine) as (holder, _, nursery):

        async def answer() -> None:
            being_asked_s = limits.FIRST_TOKEN_MIN_S - limits.PROBE_TIMEOUT_S + 0.5
            await trio.sleep(being_asked_s)
            engine.go.set()

        nursery.start_soon(answer)
        await holder.serve(order(request=EMBED), sink, control)
    assert control.aborted is None
    assert sink.items
