"""What was over before a node joined can be asked for there as anywhere, in memory."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from meshd import limits
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.memory_engine import MemoryEngine
from meshd.testing.models import expected_text
from meshd.testing.world import Machine, World, until
from tests.sim.job_orders import JOBS
from tests.sim.meshes import three

SHORT, LONG = 5, 200
"""Tokens of an answer that is in the log, and of one that is a blob."""


async def ask(machine: Machine, key: str, tokens: int) -> MemoryAnswer:
    answer = machine.client.openai("tiny", f"idempotency-key: {key}", max_tokens=tokens)
    await answer.run()
    return answer


@pytest.mark.parametrize("tokens", [SHORT, LONG])
async def test_a_newcomer_knows_the_answers_of_before(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    monkeypatch.setattr(limits, "RECORD_SNAPSHOT_EVERY", 5)
    monkeypatch.setattr(limits, "RAFT_TRAILING", 5)
    async with World.open() as world:
        engine = MemoryEngine("tiny", tokens_per_s=500)
        a, b, _ = await three(world, engine)
        first = await ask(a, "k1", tokens)
        for number in range(20):  # until the log has forgotten it
            await ask(b, f"other{number}", 1)
        d = await world.start("d")
        await world.settled()
        await until(lambda: d.running.record.ledger.state.nodes.is_founded)
        again = await ask(d, "k1", tokens)
        assert (again.how, again.text) == ("whole", expected_text(max_tokens=tokens)), again.error
        assert again.raw == first.raw
        job = again.headers["x-meshd-job"]
        status, view = await d.client.call("GET", f"{JOBS}/{job}")
        assert (status, view["state"]) == (200, "done"), view
        status, view = await d.client.call("GET", f"{JOBS}/j{2**40}")
        assert (status, view["error"]["code"]) == (404, "no_such_job")
        assert len(engine.requests) == 21
