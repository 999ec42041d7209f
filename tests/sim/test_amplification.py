"""How many runs the requests of a mesh may cost when all of its engines fail.

The bounds are those of relay/DESIGN.md, "How many runs a request may cost".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.http import Responder
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.memory_engine import Dialect, Fault, MemoryEngine
from meshd.testing.world import Machine, World, until
from tests.sim.meshes import LATENCY_S, WHOLE

EACH = 20
"""Requests of each entry."""
EVERY_S = 0.4


@dataclass(eq=False)
class Failing(MemoryEngine):
    """Every answer fails: a new one after `first` words, one that goes on after `more`."""

    first: int = 0
    more: int = 0
    wrong: Fault = Fault.ERROR

    async def _answer(
        self, path: str, body: dict[str, Any], responder: Responder, fault: Fault | None
    ) -> None:
        continued = body["messages"][-1]["role"] == "assistant"
        self.fault_after = self.more if continued else self.first
        await super()._answer(path, body, responder, self.wrong)


class Storm:
    """Three nodes, each with an engine; all are asked, and no engine answers whole."""

    def __init__(self, world: World, machines: list[Machine]) -> None:
        self.world, self.machines = world, machines
        self.most_under_way = 0
        self.began_at = trio.current_time()

    async def rage(self, *, stream: bool) -> list[MemoryAnswer]:
        """Ask, and wait for all the answers."""
        answers = []
        for n in range(EACH):
            for machine in self.machines:
                answer = machine.client.openai("tiny", seed=n, stream=stream)
                self.world.nursery.start_soon(answer.run)
                answers.append(answer)
            await trio.sleep(EVERY_S)
            under_way = [m.running.data.forwarder.in_flight.count for m in self.machines]
            self.most_under_way = max(self.most_under_way, *under_way)
        await until(lambda: all(answer.over for answer in answers))
        assert {answer.how for answer in answers} <= {"refused", "error"}
        return answers

    @property
    def requests(self) -> int:
        return EACH * len(self.machines)

    @property
    def runs(self) -> int:
        return sum(len(engine.requests) for m in self.machines for engine in m.engines)

    @property
    def budget(self) -> int:
        """Retries after runs that gave nothing, of all entries."""
        windows = math.ceil((trio.current_time() - self.began_at) / limits.RETRY_BUDGET_WINDOW_S)
        in_window = limits.RETRY_BUDGET_WINDOW_S / EVERY_S
        most = max(
            limits.RETRY_BUDGET_FLOOR, limits.RETRY_BUDGET_FRACTION * in_window, self.most_under_way
        )
        return int(len(self.machines) * windows * most)


async def storm(world: World, **engine: Any) -> Storm:
    machines = [
        await world.start(name, Failing("tiny", dialect=Dialect.OLLAMA, **engine))
        for name in ("a", "b", "c")
    ]
    await world.settled()
    return Storm(world, machines)


@pytest.mark.parametrize("stream", [True, False])
async def test_runs_that_give_nothing_are_bounded_by_the_budgets_of_the_entries(
    autojump_clock: MockClock, stream: bool
) -> None:
    async with World.open(latency_s=LATENCY_S) as world:
        it = await storm(world, first=0)
        await it.rage(stream=stream)
        assert it.runs <= it.requests + it.budget < limits.ATTEMPTS * it.requests
        assert it.runs > it.requests, "some were tried again"


async def test_engines_that_fail_at_every_continuation_are_asked_for_few(
    autojump_clock: MockClock,
) -> None:
    async with World.open(latency_s=LATENCY_S) as world:
        it = await storm(world, first=3, more=0)
        answers = await it.rage(stream=True)
        assert {len(answer.pieces) for answer in answers} == {3}
        # The first continuation replaces a run that gave something; the next ones are budgeted.
        assert it.runs <= 2 * it.requests + it.budget < limits.ATTEMPTS * it.requests


@pytest.mark.parametrize(
    ("wrong", "most"),
    [(Fault.ERROR, limits.ATTEMPTS), (Fault.DIE, limits.BACKEND_DEATHS_BEFORE_POISON)],
)
async def test_runs_that_all_give_something_are_bounded_by_the_attempts_of_each(
    autojump_clock: MockClock, wrong: Fault, most: int
) -> None:
    async with World.open(latency_s=LATENCY_S) as world:
        it = await storm(world, first=2, more=2, wrong=wrong)
        await it.rage(stream=True)
        assert it.runs <= most * it.requests


async def test_engines_that_are_too_busy_are_asked_and_given_nothing_to_run(
    autojump_clock: MockClock,
) -> None:
    async with World.open(latency_s=LATENCY_S) as world:
        machines = [
            await world.start(name, MemoryEngine("tiny", fault=Fault.REFUSE, fault_stays=True))
            for name in ("a", "b", "c")
        ]
        await world.settled()
        it = Storm(world, machines)
        answers = await it.rage(stream=True)
        assert {answer.status for answer in answers} == {503}
        assert it.runs <= (limits.REPICKS + 2) * it.requests
        assert sum(m.count("retries") for m in it.machines) == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_a_holder_that_had_them_all_may_die_and_no_answer_is_lost(
    autojump_clock: MockClock, stream: bool
) -> None:
    many = limits.RETRY_BUDGET_FLOOR + 4
    async with World.open(latency_s=LATENCY_S) as world:
        engine = {"dialect": Dialect.OLLAMA, "tokens_per_s": 5, "slots": many}
        a = await world.start("a")
        b = await world.start("b", MemoryEngine("tiny", **engine), slots=many)
        await world.settled()
        answers = [
            a.client.openai("tiny", seed=n, stream=stream, max_tokens=50) for n in range(many)
        ]
        for answer in answers:
            world.nursery.start_soon(answer.run)
        await until(lambda: b.engines[0].running == many)
        await world.start("c", MemoryEngine("tiny", **engine), slots=many)
        await world.settled()
        b.kill()
        await until(lambda: all(answer.over for answer in answers))
        for answer in answers:
            assert answer.how == "whole", answer.error
            assert answer.text.split() == WHOLE.split()[:50]
