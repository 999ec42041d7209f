"""The mesh that most tests of whole nodes use, and questions about it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from meshd import limits
from meshd.control import RecordReport
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.memory_engine import MemoryEngine
from meshd.testing.models import expected_text
from meshd.testing.world import Machine, World, until

ANSWER_WORDS = 150
"""Long enough for anything to happen in the middle; each word costs time."""
WHOLE = expected_text(max_tokens=ANSWER_WORDS)
LATENCY_S = 0.001


class Mesh:
    """Founder `a` has no engine; `b` and `c` both have the model "tiny"."""

    def __init__(self, world: World, a: Machine, b: Machine, c: Machine) -> None:
        self.world = world
        self.a, self.b, self.c = a, b, c

    @property
    def holders(self) -> tuple[Machine, Machine]:
        return self.b, self.c

    @property
    def machines(self) -> tuple[Machine, Machine, Machine]:
        return self.a, self.b, self.c

    def engine(self, machine: Machine) -> MemoryEngine:
        return machine.engines[0]

    def other(self, holder: Machine) -> Machine:
        return self.c if holder is self.b else self.b

    @property
    def running(self) -> int:
        """Answers that engines are at."""
        return sum(self.engine(m).running for m in self.holders)

    async def busy(self) -> Machine:
        """The holder whose engine is at an answer, as soon as one is."""
        await until(lambda: self.running > 0)
        return next(m for m in self.holders if self.engine(m).running)

    def ask(self, machine: Machine, dialect: str = "openai", **more: Any) -> MemoryAnswer:
        """A chat that is under way; `more` goes into its body."""
        asking = machine.client.openai if dialect == "openai" else machine.client.ollama
        answer = asking("tiny", **more)
        self.world.nursery.start_soon(answer.run)
        return answer

    async def answered(self, answer: MemoryAnswer, within_s: float = 700.0) -> MemoryAnswer:
        """The answer, when it is over."""
        await until(lambda: answer.over, within_s=within_s)
        return answer


def engine_of(model: str, **fields: Any) -> MemoryEngine:
    """An engine whose whole answer is `WHOLE`, unless `fields` say otherwise."""
    return MemoryEngine(model, **{"answer_words": ANSWER_WORDS, **fields})


@asynccontextmanager
async def mesh(
    *,
    slots: int | None = None,
    buffer_bytes: int = 65536,
    seed: int = 1,
    drain_timeout_s: float = limits.DRAIN_S,
    **engine: Any,
) -> AsyncIterator[Mesh]:
    """`engine`: fields of both `MemoryEngine`s; `slots`: what the holders' configs say of them."""
    async with World.open(seed=seed, latency_s=LATENCY_S, buffer_bytes=buffer_bytes) as world:
        a = await world.start("a")
        b, c = [
            await world.start(
                name, engine_of("tiny", **engine), slots=slots, drain_timeout_s=drain_timeout_s
            )
            for name in ("b", "c")
        ]
        await world.settled()
        yield Mesh(world, a, b, c)


async def three(
    world: World, *engines: MemoryEngine, **settings: Any
) -> tuple[Machine, Machine, Machine]:
    """Three nodes whose record has three voters; `b` and `c` have an engine if given."""
    a = await world.start("a", **settings)
    b = await world.start("b", *engines[:1], **settings)
    c = await world.start("c", *engines[1:2], **settings)
    await world.settled()
    await until(lambda: all(len(voters(m)) == 3 for m in (a, b, c)), within_s=60.0)
    return a, b, c


def report(machine: Machine) -> RecordReport:
    """What this node tells of the record."""
    return machine.running.record.report()


def voters(machine: Machine) -> set[str]:
    """Who has a vote in the record, as this node knows."""
    return {row.name for row in report(machine).voters if row.part in ("leads", "votes")}


async def some_text(answer: MemoryAnswer, words: int = 5) -> None:
    """Until the client has so many words of it."""
    await until(lambda: len(answer.pieces) >= words)


async def pass_time(seconds: float) -> None:
    """So much virtual time; nothing depends on the machine's speed."""
    await trio.sleep(seconds)
