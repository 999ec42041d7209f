"""Whole nodes in memory, in virtual time: from client to engine, and what happens on the way."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from meshd.identity import to_pem
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.memory_engine import Dialect
from meshd.testing.world import Machine, World, until
from tests.sim.meshes import WHOLE, engine_of, mesh, pass_time, some_text

HALF_A_YEAR_S = 183 * 86_400.0
"""A little over half of a certificate's life."""


async def answer_whole(answer: MemoryAnswer, holder: str) -> None:
    await answer.run()
    assert answer.how == "whole", (answer.error, answer.broken)
    assert answer.text == WHOLE
    assert (answer.finish, answer.holder) == ("stop", holder)


async def test_three_nodes_found_join_and_answer_for_each_other(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a = await world.start("a", engine_of("alpha"))
        b = await world.start("b", engine_of("beta", dialect=Dialect.OLLAMA))
        c = await world.start("c")
        await world.settled()
        for entry in (a, b, c):
            for model, holder in (("alpha", "a"), ("beta", "b")):
                for ask in (entry.client.openai, entry.client.ollama):
                    for stream in (True, False):
                        await answer_whole(ask(model, stream=stream), holder)


async def test_every_list_is_the_union_and_follows_who_is_there(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a = await world.start("a", engine_of("alpha"))
        b = await world.start("b", engine_of("beta", dialect=Dialect.OLLAMA))
        c = await world.start("c", engine_of("gamma"))
        await world.settled()

        async def listed(machine: Machine) -> tuple[set[str], set[str]]:
            models = await machine.client.get("/v1/models")
            tags = await machine.client.get("/api/tags")
            return {m["id"] for m in models["data"]}, {m["model"] for m in tags["models"]}

        for machine in (a, b, c):
            openai, ollama = await listed(machine)
            assert {name.removesuffix(":latest") for name in openai} == {"alpha", "beta", "gamma"}
            assert {name.removesuffix(":latest") for name in ollama} == {"alpha", "beta", "gamma"}
        c.crash(silent=True)
        answer = a.client.openai("gamma")
        await answer.run()
        assert (answer.status, answer.headers.get("retry-after")) == (503, "2"), answer.error
        for machine in (a, b):
            await until(lambda machine=machine: not machine.sees(c))
            openai, _ = await listed(machine)
            assert "gamma" not in openai
        await c.start()
        await world.settled()
        await answer_whole(a.client.openai("gamma"), "c")


async def test_requests_go_on_while_the_founder_is_away(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=20) as m:
        running = m.ask(m.b)
        await some_text(running)
        m.a.crash(silent=True)
        for n in range(20):
            for entry in m.holders:
                answer = await m.answered(m.ask(entry, max_tokens=2, seed=n))
                assert answer.how == "whole", answer.error
            await pass_time(1.0)
        assert not m.b.sees(m.a), "by now it is known"
        await m.answered(running)
        assert (running.how, running.text) == ("whole", WHOLE)
        await m.a.start()
        await m.world.settled()
        again = await m.answered(m.ask(m.a))
        assert (again.how, again.text) == ("whole", WHOLE)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_node_that_is_stopped_finishes_what_it_is_at(
    autojump_clock: MockClock, stream: bool
) -> None:
    async with mesh(tokens_per_s=50) as m:
        of_others = m.ask(m.a, stream=stream)
        holder = await m.busy()
        own = m.ask(holder, stream=stream)
        await until(lambda: m.running == 2)
        await pass_time(1.0)
        holder.terminate()
        await pass_time(1.0)
        for n in range(4):
            answer = await m.answered(m.ask(m.a, max_tokens=2, seed=n))
            assert (answer.how, answer.holder) == ("whole", m.other(holder).name)
        for answer in (of_others, own):
            await m.answered(answer)
            assert (answer.how, answer.text, answer.attempts) == ("whole", WHOLE, 1), answer.error
        await holder.until_over()
        assert holder.screen.last("stopped") == {"unfinished": 0}
        assert not m.a.sees(holder), "it said goodbye"


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
async def test_what_a_stopped_node_cannot_finish_ends_in_an_error_and_not_in_a_cut(
    autojump_clock: MockClock, dialect: str
) -> None:
    async with mesh(tokens_per_s=2, drain_timeout_s=5.0) as m:
        of_others = m.ask(m.a, dialect)
        holder = await m.busy()
        own = m.ask(holder, dialect)
        await until(lambda: m.running == 2)
        await pass_time(2.0)
        holder.terminate()
        for answer in (of_others, own):
            await m.answered(answer)
            assert answer.how == "error", (answer.how, answer.broken)
            assert "stopp" in answer.error or "shut" in answer.error
            assert WHOLE.startswith(answer.text)
        await holder.until_over()
        assert holder.screen.last("stopped") != {"unfinished": 0}


async def test_what_a_stopped_node_cannot_finish_is_asked_elsewhere_if_nobody_has_seen_it(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=10, drain_timeout_s=5.0) as m:
        whole = m.ask(m.a, stream=False)
        holder = await m.busy()
        holder.terminate()
        await m.answered(whole)
        assert (whole.how, whole.text) == ("whole", WHOLE), whole.error
        assert whole.holder == m.other(holder).name


async def test_certificates_are_renewed_long_before_they_end_and_hold_after_a_restart(
    autojump_clock: MockClock,
) -> None:
    def valid_until(machine: Machine) -> int:
        return machine.running.mesh.standing.identity.certificate.not_after_unix_s

    async with mesh() as m:
        first = {machine: valid_until(machine) for machine in m.machines}
        for machine in m.machines:
            machine.clock.jump_wall(HALF_A_YEAR_S)
        await pass_time(60)
        for machine in m.machines:
            assert valid_until(machine) >= first[machine] + HALF_A_YEAR_S
            shown = machine.host.credentials().certificate_pem
            assert shown == to_pem(machine.running.mesh.standing.identity.certificate_der)
        renewed = valid_until(m.b)
        m.b.terminate()
        await m.b.until_over()
        m.b.clock.jump_wall(HALF_A_YEAR_S)
        m.a.clock.jump_wall(HALF_A_YEAR_S)
        await m.b.start()
        assert valid_until(m.b) == renewed, "it was kept on disk"
        await m.world.settled()
        answer = await m.answered(m.ask(m.a))
        assert (answer.how, answer.text) == ("whole", WHOLE)


async def test_a_machine_that_has_moved_is_called_by_its_new_address(
    autojump_clock: MockClock,
) -> None:
    """Addresses that a web site can have count only while they are this machine's."""
    async with World.open() as world:
        a = await world.start("a")
        world.network.readdress("a", ["203.0.114.7"])
        await pass_time(5.0)
        assert a.running._access().host_allowed(b"203.0.114.7:11435")
        world.network.readdress("a", ["203.0.114.8"])
        await pass_time(5.0)
        assert a.running._access().host_allowed(b"203.0.114.8:11435")
        assert not a.running._access().host_allowed(b"203.0.114.7:11435")
