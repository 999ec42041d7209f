"""A repeat of a keyed stream hears the run as it goes, at whole nodes in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.config import LimitsConfig
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.memory_engine import MemoryEngine
from meshd.testing.models import expected_text
from meshd.testing.world import Machine, World, until
from tests.sim.job_orders import JOBS
from tests.sim.meshes import WHOLE, engine_of, pass_time, some_text, three

SOON_S = 0.2
TOKENS_PER_S = 20.0
TOKENS = 60
TEXT = expected_text(max_tokens=TOKENS)


class Mesh:
    """Three nodes with a vote; only `c` has the engine, and clients ask at `a` and `b`."""

    def __init__(self, world: World, engine: MemoryEngine, nodes: list[Machine]) -> None:
        self.world, self.engine = world, engine
        self.a, self.b, self.c = nodes

    def ask(self, machine: Machine, key: str = "k1", **more: Any) -> MemoryAnswer:
        """A keyed request that is under way."""
        body = {"max_tokens": TOKENS, **more}
        answer = machine.client.openai("tiny", f"idempotency-key: {key}", **body)
        self.world.nursery.start_soon(answer.run)
        return answer

    async def job(self) -> str:
        """The job that is claimed now."""
        _, page = await self.a.client.call("GET", f"{JOBS}?state=claimed")
        return str(page["jobs"][0]["id"])


@asynccontextmanager
async def mesh(
    *, tokens_per_s: float = TOKENS_PER_S, queue_wait_s: float = limits.QUEUE_WAIT_S, **more: Any
) -> AsyncIterator[Mesh]:
    buffer_bytes = more.pop("buffer_bytes", 65536)
    config = LimitsConfig(queue_wait_s=queue_wait_s)
    async with World.open(buffer_bytes=buffer_bytes) as world:
        engine = engine_of("tiny", tokens_per_s=tokens_per_s, **more)
        nodes = await three(world, engine_of("other"), engine, limits=config)
        yield Mesh(world, engine, list(nodes))


async def over(*answers: MemoryAnswer, within_s: float = 60.0) -> None:
    await until(lambda: all(answer.over for answer in answers), within_s=within_s)


def said(answer: MemoryAnswer) -> bytes:
    """The answer without what says nothing."""
    return b"".join(e for e in answer.raw.splitlines(True) if not e.startswith(b":"))


@pytest.mark.parametrize("where", ["a", "b", "c"])
async def test_a_repeat_is_given_what_was_said_at_once_and_the_rest_as_it_comes(
    autojump_clock: MockClock, where: str
) -> None:
    async with mesh() as m:
        first = m.ask(m.a)
        await some_text(first, 20)
        asked_at = trio.current_time()
        again = m.ask({"a": m.a, "b": m.b, "c": m.c}[where])
        await some_text(again, 20)
        assert trio.current_time() - asked_at < SOON_S
        assert again.headers["x-meshd-replayed"] == "true"
        await over(first, again)
        assert (first.how, again.how, again.text) == ("whole", "whole", TEXT)
        assert said(again) == said(first)
        assert "x-meshd-replayed" not in first.headers
        # It came as it went, and not all at the end.
        for at, again_at in zip(first.pieces[25:], again.pieces[25:], strict=True):
            assert abs(at - again_at) < SOON_S
        assert len(m.engine.requests) == 1


async def test_ollamas_dialect_streams_along_too(autojump_clock: MockClock) -> None:
    async with mesh() as m:
        answers = []
        for machine in (m.a, m.b):
            answers.append(
                machine.client.ollama("tiny", "idempotency-key: k1", options={"num_predict": 20})
            )
            m.world.nursery.start_soon(answers[-1].run)
            await until(lambda: len(answers[0].pieces) > 3)
        await over(*answers)
        assert [answer.how for answer in answers] == ["whole", "whole"]
        assert answers[0].raw == answers[1].raw
        assert len(m.engine.requests) == 1


async def test_a_slow_listener_holds_up_nobody_and_gets_all_of_it(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=200, buffer_bytes=2048) as m:
        began_at = trio.current_time()
        first = m.ask(m.a, max_tokens=None)
        await some_text(first)
        slow = [m.ask(m.a, max_tokens=None), m.ask(m.b, max_tokens=None)]
        await until(lambda: all(answer.pieces for answer in slow))
        for answer in slow:
            answer.pause()
        await over(first)
        assert trio.current_time() - began_at < len(WHOLE.split()) / 200 + 2.0
        assert not any(answer.over for answer in slow)
        for answer in slow:
            answer.resume()
        await over(*slow)
        assert [said(answer) for answer in slow] == [said(first)] * 2


async def test_a_first_client_that_does_not_read_holds_up_no_repeat(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=200, buffer_bytes=2048) as m:
        first = m.ask(m.a, max_tokens=None)
        await some_text(first)
        first.pause()
        again = m.ask(m.b, max_tokens=None)
        await over(again)
        assert (again.how, again.text) == ("whole", WHOLE)
        first.resume()
        await over(first)
        assert said(first) == said(again)


async def test_over_a_broken_link_a_repeat_goes_on_where_it_was(
    autojump_clock: MockClock,
) -> None:
    async with mesh() as m:
        first, again = m.ask(m.a), m.ask(m.b)
        await some_text(again, 10)
        m.world.network.reset("a", "b")
        await some_text(again, 30)
        m.world.network.isolate("b")
        await pass_time(2 * limits.HOLDER_SILENT_S)
        assert not again.over
        m.world.network.rejoin("b")
        await over(first, again)
        assert (again.how, again.text) == ("whole", TEXT)
        assert said(again) == said(first)


async def test_when_entry_and_holder_die_no_other_runs_words_are_put_behind_their_own(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        engines = [MemoryEngine("tiny", tokens_per_s=TOKENS_PER_S) for _ in "bc"]
        m = Mesh(world, engines[1], list(await three(world, *engines)))
        first = m.ask(m.b)
        await some_text(first, 2)
        assert first.holder == "b"
        again = m.ask(m.a)
        await some_text(again, 10)
        m.b.crash()
        # Who comes now was given nothing yet, and waits for a run of its own.
        later = m.ask(m.c)
        await over(again, later)
        assert first.how == "broken"
        assert (again.how, again.finish) == ("error", None)
        assert "repeat the request with the same key" in again.error
        assert (later.how, later.text) == ("whole", TEXT)
        assert len(m.engine.requests) == 1
        once_more = m.ask(m.a)
        await over(once_more)
        assert said(once_more) == said(later)


async def test_an_entry_that_dies_when_its_answer_was_stored_leaves_nobody_without_it(
    autojump_clock: MockClock,
) -> None:
    """What was given is the beginning of what is stored: the rest is told from there."""
    async with mesh() as m:
        first, again = m.ask(m.a), m.ask(m.b)
        await some_text(again, 10)
        # `b` hears no more of the run, and learns of its end from the record alone.
        m.world.network.partition("a", "b")
        await over(first)
        m.a.crash()
        await over(again)
        assert (first.how, again.how, again.text) == ("whole", "whole", TEXT)
        assert said(again) == said(first)
        assert len(m.engine.requests) == 1


async def test_a_client_that_listens_and_leaves_leaves_the_run_alone(
    autojump_clock: MockClock,
) -> None:
    async with mesh() as m:
        first = m.ask(m.a)
        listening = [m.ask(m.a), m.ask(m.b)]
        await until(lambda: all(answer.pieces for answer in listening))
        for answer in listening:
            answer.leave()
        await over(first)
        assert first.how == "whole"
        assert m.a.running.room.held_bytes == m.b.running.room.held_bytes == 0
        assert m.b.running.jobs.keyed.in_flight.count == 0


@pytest.mark.parametrize("by", ["a", "b"])
async def test_cancelling_ends_the_generation_and_all_who_listen_at_once(
    autojump_clock: MockClock, by: str
) -> None:
    async with mesh(tokens_per_s=2) as m:
        answers = [m.ask(m.a), m.ask(m.a), m.ask(m.b)]
        await until(lambda: all(answer.pieces for answer in answers))
        cancelled_at = trio.current_time()
        machine = {"a": m.a, "b": m.b}[by]
        status, view = await machine.client.call("DELETE", f"{JOBS}/{await m.job()}")
        assert (status, view["state"]) == (200, "cancelled")
        await over(*answers)
        await until(lambda: m.engine.running == 0)
        assert trio.current_time() - cancelled_at < SOON_S
        assert [answer.how for answer in answers] == ["error"] * 3
        assert all("is cancelled; use another key" in answer.error for answer in answers)
        again = m.ask(m.b)
        await over(again)
        assert (again.how, again.status) == ("refused", 409)
        assert len(m.engine.requests) == 1


async def test_the_holder_of_a_cancelled_run_is_told_that_nobody_waits(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only by a closed connection, which may be an accident on the way."""
    async with mesh(tokens_per_s=2) as m:
        told = []
        service = m.c.running.data.service
        monkeypatch.setattr(service, "cancel", lambda node, order: told.append(node))
        first = m.ask(m.a)
        await some_text(first, 1)
        await m.a.client.call("DELETE", f"{JOBS}/{await m.job()}")
        await over(first)
        await until(lambda: told == [m.a.id], within_s=SOON_S)


async def test_cancelling_a_whole_answer_is_told_with_a_status(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=2) as m:
        answers = [m.ask(machine, stream=False) for machine in (m.a, m.b)]
        await until(lambda: m.engine.running == 1)
        await m.a.client.call("DELETE", f"{JOBS}/{await m.job()}")
        await over(*answers, within_s=SOON_S)
        assert [(answer.how, answer.status) for answer in answers] == [("refused", 409)] * 2
        await until(lambda: m.engine.running == 0, within_s=SOON_S)


async def test_more_listeners_than_may_be_wait_for_the_whole(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SAID_LISTENERS", 2)  # one of them asked first
    async with mesh() as m:
        first = m.ask(m.a)
        await some_text(first)
        along = m.ask(m.b)
        await some_text(along)
        waiting = [m.ask(m.a), m.ask(m.b)]
        await some_text(along, 40)
        assert not any(answer.pieces for answer in waiting)
        await over(first, along, *waiting)
        assert {said(answer) for answer in (along, *waiting)} == {said(first)}
        assert len(m.engine.requests) == 1


async def test_a_node_that_stops_tells_those_who_listen_there(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=0.5) as m:
        first = m.ask(m.a)
        await some_text(first, 2)
        streamed, whole = m.ask(m.b), m.ask(m.b, "k2", stream=False)
        m.ask(m.a, "k2", stream=False)
        await some_text(streamed, 2)
        m.b.terminate()
        await over(streamed, within_s=limits.DRAIN_S + 5.0)
        assert streamed.how == "error"
        assert "at another node" in streamed.error
        assert whole.how in ("refused", "")


async def test_while_a_model_loads_those_who_listen_hear_that_somebody_is_there(
    autojump_clock: MockClock,
) -> None:
    async with mesh(load_s=40.0) as m:
        answers = [m.ask(m.a), m.ask(m.a), m.ask(m.b)]
        await over(*answers, within_s=120.0)
        assert [answer.text for answer in answers] == [TEXT] * 3
        # The first sign of life is the chunk that begins the stream.
        assert [len(answer.comments) for answer in answers] == [1] * 3
        assert len({said(answer) for answer in answers}) == 1
        assert len(m.engine.requests) == 1


@pytest.mark.parametrize(("where", "stream"), [("b", True), ("c", True), ("c", False)])
async def test_an_entry_that_was_started_again_gives_back_what_it_ran_before(
    autojump_clock: MockClock, where: str, stream: bool
) -> None:
    """Nobody waits for the end of a lease that nobody works under."""
    async with mesh(tokens_per_s=200) as m:
        m.ask(m.b, stream=stream)
        await until(lambda: m.engine.running == 1)
        killed_at = trio.current_time()
        m.b.kill()
        await m.b.until_over()
        await m.b.start()
        await m.world.settled()
        again = m.ask({"b": m.b, "c": m.c}[where], stream=stream)
        await over(again)
        assert trio.current_time() - killed_at < 0.6 * limits.JOB_LEASE_S
        assert (again.how, again.text) == ("whole", TEXT)


async def test_a_refusal_that_waits_for_the_record_is_not_overtaken_by_a_sign_of_life(
    autojump_clock: MockClock,
) -> None:
    """The record cannot be told why there is no answer, and the client is due to hear something."""
    async with mesh(prefill_s=600.0, queue_wait_s=5.0) as m:
        refused = m.ask(m.a)
        await until(lambda: m.engine.running == 1)
        m.world.network.isolate("a")
        await over(refused)
        assert (refused.how, refused.status) == ("refused", 502), refused.broken


async def test_who_heard_a_sign_of_life_of_one_run_is_told_in_the_stream_that_the_next_one_failed(
    autojump_clock: MockClock,
) -> None:
    async with mesh(load_s=600.0) as m:
        m.ask(m.a)
        heard = m.ask(m.b)
        await until(lambda: heard.comments != [])
        m.a.kill()
        await pass_time(30.0)  # c goes on with it, and b hears that
        m.engine.crash()
        await over(heard, within_s=120.0)
        assert heard.how == "error", heard.broken


@pytest.mark.parametrize("cut_s", [0.1, 3.0])
async def test_a_run_that_takes_the_place_of_one_that_was_heard_and_fails_ends_with_an_error(
    autojump_clock: MockClock, cut_s: float
) -> None:
    async with World.open() as world:
        engines = [
            engine_of("tiny", tokens_per_s=TOKENS_PER_S, load_s=load_s) for load_s in (0, 80)
        ]
        m = Mesh(world, engines[1], list(await three(world, *engines)))
        first = m.ask(m.b)
        await some_text(first, 2)
        again = m.ask(m.a)
        await some_text(again, 10)
        m.world.network.isolate("b")
        await pass_time(cut_s)
        later = m.ask(m.c)
        await pass_time(16.0)
        m.engine.crash()
        await over(again, later, within_s=100.0)
        assert again.how == "error", (again.how, again.raw[-100:])
        assert "with the same key" in again.error


async def test_a_run_that_takes_the_place_of_one_that_was_heard_and_says_less_ends_with_an_error(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        engines = [
            engine_of("tiny", tokens_per_s=TOKENS_PER_S),
            engine_of("tiny", tokens_per_s=0.2, answer_words=3),
        ]
        m = Mesh(world, engines[1], list(await three(world, *engines)))
        first = m.ask(m.b)
        await some_text(first, 2)
        again = m.ask(m.a)
        await some_text(again, 10)
        m.world.network.isolate("b")
        later = m.ask(m.c)
        await over(again, later, within_s=100.0)
        assert (later.how, later.text) == ("whole", expected_text(max_tokens=3))
        assert again.how == "error", (again.how, again.raw[-100:])
