"""A model whose holders are all away for a moment: 503 and who they are, not 404."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from meshd import limits
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.world import Machine, World, until
from tests.sim.meshes import Mesh, engine_of, mesh, pass_time

DIALECTS = ["openai", "ollama"]


async def refused(m: Mesh, dialect: str, status: int, model: str = "tiny") -> MemoryAnswer:
    asking = m.a.client.openai if dialect == "openai" else m.a.client.ollama
    answer = asking(model)
    await answer.run()
    assert answer.status == status, (answer.status, answer.error, answer.broken)
    assert answer.headers.get("retry-after") == ("2" if status == 503 else None)
    assert answer.error, "in the dialect's form"
    return answer


async def whole(m: Mesh, dialect: str) -> None:
    answer = await m.answered(m.ask(m.a, dialect, max_tokens=2))
    assert answer.how == "whole", answer.error


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_while_all_engines_of_a_model_restart_it_is_away(
    autojump_clock: MockClock, dialect: str
) -> None:
    async with mesh() as m:
        for holder in m.holders:
            m.engine(holder).crash()
        await until(lambda: not m.a.running.data.placement.catalogue.names())
        answer = await refused(m, dialect, 503)
        assert "'tiny'" in answer.error
        assert answer.error.endswith("is away, or its engine is: b, c"), answer.error
        assert (await m.a.client.get("/v1/models"))["data"] == []
        assert (await m.a.client.get("/api/tags"))["models"] == []
        status, _ = await m.a.client.call("POST", "/api/show", {"model": "tiny"})
        assert status == 503
        await refused(m, dialect, 404, "never")
        for holder in m.holders:
            await holder.start_engines()
        await m.world.settled()
        await until(lambda: bool(m.a.running.data.placement.holders("tiny")))
        await whole(m, dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("how", ["daemons killed", "cut off", "stopped"])
async def test_while_all_holders_are_away_it_is_too_and_they_are_named(
    autojump_clock: MockClock, how: str, dialect: str
) -> None:
    async with mesh() as m:
        for holder in m.holders:
            match how:
                case "daemons killed":
                    holder.kill()
                case "cut off":
                    m.world.network.isolate(holder.name)
                case "stopped":
                    holder.terminate()
        await refused(m, dialect, 503)
        await until(lambda: not any(map(m.a.sees, m.holders)), within_s=60.0)
        answer = await refused(m, dialect, 503)
        assert answer.error.endswith(": b, c"), answer.error
        await refused(m, dialect, 404, "never")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_holders_that_come_back_before_their_engines_are_named(
    autojump_clock: MockClock, dialect: str
) -> None:
    async with mesh() as m:
        for holder in m.holders:
            m.engine(holder).crash()
            holder.kill()
            await holder.until_over()
        for holder in m.holders:
            engines, holder.engines = holder.engines, ()
            await holder.start()
            holder.engines = engines
        await m.world.settled()
        answer = await refused(m, dialect, 503)
        assert answer.error.endswith(": b, c"), answer.error


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_entry_that_has_just_started_calls_no_model_unknown_before_it_has_heard(
    autojump_clock: MockClock, dialect: str
) -> None:
    async with mesh() as m:
        m.b.kill()
        m.world.network.isolate("c")
        m.a.kill()
        await m.a.until_over()
        await m.a.start()
        answer = await refused(m, dialect, 503)
        assert answer.error.endswith("not heard yet: b, c"), answer.error
        await pass_time(limits.UNHEARD_S)
        await refused(m, dialect, 404)


async def test_a_model_that_was_removed_from_an_engine_is_unknown_at_once(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a: Machine = await world.start("a", engine_of("old"))
        await world.settled()
        a.engines[0].model = "new"
        await until(lambda: a.running.data.placement.catalogue.names() == ["new"], within_s=60.0)
        answer = a.client.openai("old")
        await answer.run()
        assert answer.status == 404, answer.error
