"""The entry of a keyed request dies: at whole nodes in memory, its holder goes on in its place."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.relay.splice import Way
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.memory_engine import Dialect, MemoryEngine
from meshd.testing.world import Machine, World, until
from tests.sim.meshes import pass_time, some_text
from tests.sim.test_jobs import JOBS, three
from tests.sim.test_keyed_streams import TEXT, TOKENS, Mesh, mesh, over, said

SOON_S = limits.ADOPT_AFTER_S + 2.0
"""From an entry's death to the first word of its run at another node."""


async def ask_until_heard(m: Mesh, machine: Machine, *headers: str, **more: object) -> MemoryAnswer:
    """As a client that fails over: the same request again and again, until somebody answers."""
    while True:
        answer = machine.client.openai(
            "tiny", "idempotency-key: k1", *headers, max_tokens=TOKENS, **more
        )
        m.world.nursery.start_soon(answer.run)
        await until(lambda answer=answer: answer.over or bool(answer.pieces), within_s=60.0)
        if answer.status != 503:
            return answer
        await trio.sleep(0.5)


async def test_the_holder_goes_on_and_a_repeat_hears_it_from_the_first_token(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=6) as m:  # c runs it
        first = m.ask(m.a)
        await some_text(first, 10)
        m.a.crash()
        died_at = trio.current_time()
        again = await ask_until_heard(m, m.b)
        assert trio.current_time() - died_at < SOON_S
        at_the_holder = m.ask(m.c)
        await over(again, at_the_holder)
        assert (again.how, again.text) == ("whole", TEXT)
        assert said(at_the_holder) == said(again)
        assert said(again).startswith(said(first)), "the same bytes, ids and all"
        assert (len(m.engine.requests), m.engine.cancelled) == (1, 0)
        later = m.ask(m.b)
        await over(later)
        assert said(later) == said(again)


async def test_a_repeat_goes_on_after_what_the_dead_entry_told(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=6) as m:
        first = m.ask(m.a)
        await some_text(first, 10)
        had, job = first.raw, first.headers["x-meshd-job"]
        m.a.crash()
        again = await ask_until_heard(m, m.b, f"last-event-id: {first.last_id}")
        by_id = m.b.client.stream(f"{JOBS}/{job}/stream?from={first.last_id.partition('-')[0]}")
        await by_id.run()
        await over(again)
        whole = m.ask(m.c)
        await over(whole)
        assert (again.how, by_id.how, whole.text) == ("whole", "whole", TEXT)
        assert had + said(again) == had + said(by_id) == said(whole)
        assert len(m.engine.requests) == 1


async def test_who_listens_at_another_node_hears_on_without_a_seam(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=6) as m:
        first, again = m.ask(m.a), m.ask(m.b)
        await some_text(again, 10)
        m.a.crash()
        await over(again)
        assert first.how == "broken"
        assert (again.how, again.text) == ("whole", TEXT)
        assert len(m.engine.requests) == 1


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
async def test_an_answer_that_is_not_streamed_is_the_keys_too(
    autojump_clock: MockClock, dialect: str
) -> None:
    async with mesh(tokens_per_s=6) as m:

        def ask(machine: Machine) -> MemoryAnswer:
            asking = machine.client.openai if dialect == "openai" else machine.client.ollama
            more = {"max_tokens": TOKENS} if dialect == "openai" else {}
            options = {} if more else {"options": {"num_predict": TOKENS}}
            answer = asking("tiny", "idempotency-key: k1", stream=False, **more, **options)
            m.world.nursery.start_soon(answer.run)
            return answer

        ask(m.a)
        await until(lambda: m.engine.running == 1)
        m.a.crash()
        again = ask(m.b)
        await over(again)
        assert (again.how, again.text.strip()) == ("whole", TEXT.strip())
        assert len(m.engine.requests) == 1


async def test_what_the_holder_had_to_its_end_before_it_knew_is_stored(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=60) as m:  # over before anybody calls the entry gone
        first = m.ask(m.a)
        await some_text(first, 10)
        m.a.crash()
        await pass_time(20.0)
        again = m.ask(m.b)
        await over(again)
        assert (again.how, again.text) == ("whole", TEXT)
        assert len(m.engine.requests) == 1


@pytest.mark.parametrize("tokens_per_s", [6, 60])
async def test_an_entry_that_is_cut_off_in_silence_is_replaced_too(
    autojump_clock: MockClock, tokens_per_s: float
) -> None:
    """Its links take all that is said, also the last of it, and nobody hears it."""
    async with mesh(tokens_per_s=tokens_per_s) as m:
        first = m.ask(m.a)
        await some_text(first, 10)
        m.world.network.isolate("a")
        again = await ask_until_heard(m, m.b)
        await over(again, first)
        assert (again.how, again.text) == ("whole", TEXT)
        assert first.how == "error", "it may not say that it is whole"
        assert len(m.engine.requests) == 1
        m.world.network.rejoin("a")
        await until(lambda: m.a.sees(m.b), within_s=60.0)
        once_more = await ask_until_heard(m, m.a)
        await over(once_more)
        assert said(once_more) == said(again)


async def test_when_the_entry_was_the_holder_a_repeat_runs_it_before_the_lease_is_over(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        engines = [MemoryEngine("tiny", tokens_per_s=4), MemoryEngine("tiny", tokens_per_s=20)]
        a, b, c = await three(world, *engines)
        m = Mesh(world, engines[1], [a, b, c])
        first = m.ask(b)
        await some_text(first, 5)
        assert first.holder == "b"
        b.crash()
        died_at = trio.current_time()
        again = await ask_until_heard(m, a)
        assert trio.current_time() - died_at < 0.7 * limits.JOB_LEASE_S
        await over(again)
        assert (again.how, again.text) == ("whole", TEXT)
        # It is the same model: the words are the same, and so is the place in them.
        rest = m.ask(c)
        await over(rest)
        assert said(rest) == said(again)


async def test_a_holder_that_alone_lost_sight_of_the_entry_takes_nothing_from_it(
    autojump_clock: MockClock,
) -> None:
    """The others hear it, and it says so: its client goes on with another holder."""
    async with World.open() as world:
        kind = Dialect.OLLAMA  # which tells that both are the very same model
        engines = [MemoryEngine("tiny", tokens_per_s=4, dialect=kind) for _ in "bc"]
        a, b, c = await three(world, *engines)
        m = Mesh(world, engines[0], [a, b, c])
        first = m.ask(a)
        await some_text(first, 5)
        holder = b if first.holder == "b" else c
        world.network.partition("a", holder.name)
        await over(first)
        assert (first.how, first.text) == ("whole", TEXT), first.error
        await until(lambda: not any(engine.running for engine in engines))
        world.network.heal("a", holder.name)
        again = m.ask(holder)
        await over(again)
        assert said(again) == said(first)


@pytest.mark.parametrize("way", list(Way))
async def test_a_run_in_the_place_of_one_that_broke_off_is_gone_on_with_if_it_has_the_whole_answer(
    autojump_clock: MockClock, way: Way
) -> None:
    """One that repeats the answer has it, one that continues it has only the rest: then it is run
    anew, and not ended by the engine that broke off first."""
    async with World.open() as world:
        kind = Dialect.OLLAMA  # which tells that both are the very same model
        engines = [MemoryEngine("tiny", tokens_per_s=6, dialect=kind) for _ in "bc"]
        a, b, c = await three(world, *engines)
        m = Mesh(world, engines[0], [a, b, c])
        body = {"seed": 7} if way is Way.REGENERATE else {}
        first = m.ask(a, **body)
        await some_text(first, 5)
        died, second = engines if first.holder == "b" else engines[::-1]
        where = b if first.holder == "b" else c
        died.crash()
        await some_text(first, 10)
        had = said(first)
        a.crash()
        rest = await ask_until_heard(m, where, f"last-event-id: {first.last_id}", **body)
        again = m.ask(where, **body)
        await over(rest, again)
        assert (again.how, again.text) == ("whole", TEXT), again.error
        if way is Way.REGENERATE:
            assert (rest.how, had + said(rest)) == ("whole", said(again)), rest.error
            assert len(second.requests) == 1
        else:
            assert (rest.how, "another run" in rest.error) == ("refused", True)
            assert len(second.requests) == 2


async def test_a_cancelled_job_ends_the_run_that_was_gone_on_with(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=2) as m:
        first = m.ask(m.a)
        await some_text(first, 3)
        job = first.headers["x-meshd-job"]
        m.a.crash()
        again = await ask_until_heard(m, m.b)
        status, _ = await m.b.client.call("DELETE", f"{JOBS}/{job}")
        assert status == 200
        await over(again)
        assert (again.how, "is cancelled" in again.error) == ("error", True)
        await until(lambda: m.engine.running == 0, within_s=1.0)


async def test_an_entry_that_is_removed_leaves_nothing_running(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=2) as m:
        first = m.ask(m.a)
        await some_text(first, 3)
        m.a.crash()
        m.c.running.data.service.cut(m.a.id, "the node is no member any more")
        await until(lambda: m.engine.running == 0, within_s=5.0)
