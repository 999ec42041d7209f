"""What a client sees when the node or engine that answers it fails, at every stage."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.http.sweeper import TICK_S
from meshd.testing.memory_engine import Fault
from meshd.testing.world import Machine, until
from tests.sim.meshes import LATENCY_S, WHOLE, Mesh, mesh, pass_time, some_text

SOON_S = TICK_S + 10 * LATENCY_S


def fail(mesh: Mesh, holder: Machine, how: str) -> None:
    match how:
        case "daemon killed":
            holder.kill()
        case "machine reset":
            holder.crash()
        case "power lost":
            holder.crash(silent=True)
        case "cut off":
            mesh.world.network.isolate(holder.name)
        case "engine killed":
            mesh.engine(holder).crash()
        case "links reset":
            mesh.world.network.reset("a", holder.name)


LOUD = ["daemon killed", "machine reset", "engine killed", "links reset"]
SILENT = ["power lost", "cut off"]


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
@pytest.mark.parametrize("how", [*(how for how in LOUD if how != "links reset"), *SILENT])
async def test_before_the_first_token_another_holder_answers_whole(
    autojump_clock: MockClock, how: str, dialect: str
) -> None:
    async with mesh(prefill_s=5.0, tokens_per_s=200) as m:
        answer = m.ask(m.a, dialect)
        first = await m.busy()
        await pass_time(2.0)
        fail(m, first, how)
        failed_at = trio.current_time()
        second = m.other(first)
        await until(lambda: m.engine(second).running > 0)
        bound_s = limits.HOLDER_SILENT_S if how in SILENT else 0.0
        assert trio.current_time() - failed_at <= bound_s + SOON_S + 0.01
        await m.answered(answer)
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error
        assert (answer.holder, answer.attempts) == (second.name, 2)
        assert m.a.count("retries") == 1


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
@pytest.mark.parametrize("how", [*(how for how in LOUD if how != "links reset"), *SILENT])
async def test_after_content_the_stream_ends_in_the_dialects_error(
    autojump_clock: MockClock, how: str, dialect: str
) -> None:
    async with mesh(tokens_per_s=20) as m:
        answer = m.ask(m.a, dialect)
        await some_text(answer)
        fail(m, await m.busy(), how)
        failed_at = trio.current_time()
        await m.answered(answer)
        assert answer.how == "error", (answer.how, answer.broken)
        assert answer.error
        assert WHOLE.startswith(answer.text)
        bound_s = limits.HOLDER_SILENT_S if how in SILENT else 0.0
        assert answer.ended_at is not None
        assert answer.ended_at - failed_at <= bound_s + SOON_S
        assert m.a.count("failed_in_stream") == 1


async def test_silence_is_waited_for_exactly_as_long_as_it_is_meant_to_be(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=20) as m:
        answer = m.ask(m.a)
        await some_text(answer)
        fail(m, await m.busy(), "cut off")
        await m.answered(answer)
        assert answer.ended_at is not None
        silent_s = answer.ended_at - answer.pieces[-1]
        assert limits.HOLDER_SILENT_S <= silent_s <= limits.HOLDER_SILENT_S + SOON_S
        assert "not been heard" in answer.error


@pytest.mark.parametrize("how", [*LOUD, *SILENT])
async def test_a_client_that_does_not_stream_never_hears_of_it(
    autojump_clock: MockClock, how: str
) -> None:
    async with mesh(tokens_per_s=30) as m:
        answer = m.ask(m.a, stream=False)
        first = await m.busy()
        await pass_time(2.0)
        fail(m, first, how)
        await m.answered(answer)
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error
        if how == "links reset":
            assert (answer.holder, answer.attempts) == (first.name, 1), (
                "it is had over another link"
            )
        else:
            assert (answer.holder, answer.attempts) == (m.other(first).name, 2)
        assert m.a.count("went_on_by_resume") == (how == "links reset")


@pytest.mark.parametrize("fault", [Fault.DIE, Fault.NO_FINISH, Fault.ERROR, Fault.GARBAGE])
@pytest.mark.parametrize("entry", ["a", "b"])
async def test_an_engine_that_breaks_off_is_never_taken_for_one_that_finished(
    autojump_clock: MockClock, fault: Fault, entry: str
) -> None:
    async with mesh() as m:
        for holder in m.holders:
            m.engine(holder).fault = fault
        machine = {"a": m.a, "b": m.b}[entry]
        streamed = await m.answered(m.ask(machine))
        assert streamed.how == "error", (streamed.how, streamed.broken)
        assert WHOLE.startswith(streamed.text)
        assert streamed.text


@pytest.mark.parametrize("fault", [Fault.NOT_FOUND, Fault.OVERFLOW, Fault.REFUSE])
@pytest.mark.parametrize("entry", ["a", "b"])
async def test_an_engine_that_will_not_have_it_is_passed_over(
    autojump_clock: MockClock, fault: Fault, entry: str
) -> None:
    async with mesh() as m:
        first = m.engine(m.b)
        first.fault, first.fault_stays = fault, True
        machine = {"a": m.a, "b": m.b}[entry]
        for _ in range(6):
            answer = await m.answered(m.ask(machine, max_tokens=3))
            assert answer.how == "whole", answer.error
            assert answer.holder == "c"
        assert first.requests, "it was asked"


async def test_a_slow_engine_that_lives_is_waited_for(autojump_clock: MockClock) -> None:
    async with mesh(prefill_s=30.0) as m:
        for stream in (True, False):
            answer = await m.answered(m.ask(m.a, stream=stream, max_tokens=3))
            assert (answer.how, answer.attempts) == ("whole", 1), answer.error
        assert m.a.count("retries") == 0


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_frozen_engine_is_found_out_by_asking_and_the_other_one_answers(
    autojump_clock: MockClock, entry: str
) -> None:
    async with mesh(prefill_s=1.0) as m:
        answer = m.ask({"a": m.a, "b": m.b}[entry], max_tokens=3)
        asked_at = trio.current_time()
        frozen = await m.busy()
        m.engine(frozen).freeze()
        await m.answered(answer)
        assert (answer.how, answer.holder) == ("whole", m.other(frozen).name), answer.error
        waited_s = trio.current_time() - asked_at
        least_s = limits.FIRST_TOKEN_MIN_S
        assert least_s <= waited_s <= least_s + 1.0 + 1.0, "suspected, asked, then given up"


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_an_engine_that_says_it_lives_is_not_waited_for_for_ever(
    autojump_clock: MockClock, entry: str
) -> None:
    async with mesh() as m:
        for holder in m.holders:
            m.engine(holder).fault = Fault.HANG
        answer = m.ask({"a": m.a, "b": m.b}[entry], max_tokens=3)
        asked_at = trio.current_time()
        hung = await m.busy()
        m.engine(m.other(hung)).fault = None
        await m.answered(answer)
        assert (answer.how, answer.holder) == ("whole", ""), "the head went out before"
        assert len(m.engine(m.other(hung)).requests) == 1
        waited_s = trio.current_time() - asked_at
        least_s = limits.FIRST_TOKEN_LIVING_MIN_S
        assert least_s <= waited_s <= least_s + 1.0
        await until(lambda: m.running == 0)
        assert m.engine(hung).cancelled == 1


async def test_an_engine_that_falls_silent_in_mid_answer_ends_it(
    autojump_clock: MockClock,
) -> None:
    async with mesh() as m:
        for holder in m.holders:
            m.engine(holder).fault = Fault.HANG_LATER
        answer = await m.answered(m.ask(m.a))
        assert answer.how == "error"
        assert "silent" in answer.error
        assert len(answer.pieces) == 3
        assert answer.ended_at is not None
        silent_s = answer.ended_at - answer.pieces[-1]
        assert limits.INTER_TOKEN_MIN_S <= silent_s <= limits.INTER_TOKEN_MAX_S + 1
        await until(lambda: m.running == 0)


async def test_a_broken_control_link_alone_ends_no_answer(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=50) as m:
        answer = m.ask(m.a)
        await some_text(answer)
        holder = await m.busy()
        broken: list[str] = []
        m.a.running.mesh.switchboard.on_unlinked(lambda node, reason: broken.append(node))
        m.a.running.mesh.links.cut(holder.running.mesh.id, "the test says so")
        await m.answered(answer)
        assert broken == [holder.running.mesh.id]
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error


@pytest.mark.parametrize("prefill_s", [0.0, 60.0])
async def test_an_entry_that_dies_frees_the_engine(
    autojump_clock: MockClock, prefill_s: float
) -> None:
    async with mesh(tokens_per_s=20, prefill_s=prefill_s) as m:
        answer = m.ask(m.a)
        holder = await m.busy()
        await pass_time(2.0)
        m.a.kill()
        await until(lambda: m.running == 0, within_s=limits.ORPHAN_GRACE_S + SOON_S)
        assert m.engine(holder).cancelled == 1
        await m.answered(answer)
        assert answer.how == "broken"


@pytest.mark.parametrize("prefill_s", [0.0, 110.0])
async def test_an_entry_that_falls_silent_frees_the_engine_when_it_is_known_to_be_gone(
    autojump_clock: MockClock, prefill_s: float
) -> None:
    async with mesh(tokens_per_s=1, prefill_s=prefill_s) as m:
        m.ask(m.a)
        await m.busy()
        await pass_time(2.0)
        m.world.network.isolate("a")
        await until(lambda: m.running == 0, within_s=40.0)


async def test_a_holder_that_comes_back_is_asked_again(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=200) as m:
        m.c.crash()
        m.b.kill()
        refused = await m.answered(m.ask(m.a, max_tokens=3))
        assert (refused.how, refused.status) == ("refused", 503)
        assert "retry-after" in refused.headers
        await m.b.start()
        await m.world.settled()
        answer = await m.answered(m.ask(m.a))
        assert (answer.how, answer.text, answer.holder) == ("whole", WHOLE, "b"), answer.error


@pytest.mark.parametrize("entry", ["a", "b"])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_died_a_moment_ago_is_passed_over_and_the_last_one_means_try_again(
    autojump_clock: MockClock, entry: str, stream: bool
) -> None:
    async with mesh(tokens_per_s=200) as m:
        machine = {"a": m.a, "b": m.b}[entry]
        warm = await m.answered(m.ask(machine, max_tokens=3))
        suspicions = machine.running.mesh.gauges().get("hints", 0)
        first = m.b if warm.holder == "b" else m.c
        fail(m, first, "engine killed")
        answer = await m.answered(m.ask(machine, stream=stream))
        assert (answer.how, answer.text) == ("whole", WHOLE), answer.error
        assert answer.holder == m.other(first).name
        fail(m, m.other(first), "engine killed")
        nobody = await m.answered(m.ask(machine, stream=stream))
        assert (nobody.how, nobody.status) == ("refused", 503), nobody.error
        assert nobody.headers["retry-after"] == "2"
        assert "cannot be reached: 127.0.0.1:" in nobody.error, "what happened"
        assert nobody.error.endswith("try again in a few seconds"), "what to do"
        told = machine.running.mesh.gauges().get("hints", 0) - suspicions
        assert told == 0, "the nodes are well, and membership is told nothing else"


async def test_what_a_model_is_like_is_asked_of_those_who_answer(
    autojump_clock: MockClock,
) -> None:
    async with mesh() as m:
        fail(m, m.b, "cut off")
        asked_at = trio.current_time()
        shown = m.a.client.post("/api/show", {"model": "tiny"})
        await shown.run()
        assert shown.status == 200, shown.error
        fail(m, m.c, "cut off")
        nobody = m.a.client.post("/api/show", {"model": "tiny"})
        await nobody.run()
        assert nobody.status == 503
        assert trio.current_time() - asked_at < 30.0
