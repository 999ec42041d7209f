"""Whole nodes in memory, in virtual time: from client to engine, and what happens on the way."""

from __future__ import annotations

from trio.testing import MockClock

from meshd.testing.memory_engine import Dialect, MemoryEngine
from meshd.testing.models import expected_text
from meshd.testing.world import World

WHOLE = expected_text()


async def test_three_nodes_found_join_and_answer_for_each_other(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a = await world.start("a", MemoryEngine("alpha"))
        b = await world.start("b", MemoryEngine("beta", dialect=Dialect.OLLAMA))
        c = await world.start("c")
        await world.settled()
        for entry in (a, b, c):
            for model, holder in (("alpha", "a"), ("beta", "b")):
                for ask in (entry.client.openai, entry.client.ollama):
                    for stream in (True, False):
                        answer = ask(model, stream=stream)
                        await answer.run()
                        assert answer.how == "whole", (answer.error, answer.broken)
                        assert answer.text == WHOLE
                        assert (answer.finish, answer.holder) == ("stop", holder)
