"""OpenAI's libraries ask again when their timeout is over: the engine is asked once."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.memory_engine import Fault
from meshd.testing.world import Machine, until
from tests.sim.meshes import WHOLE, Mesh, mesh, pass_time, some_text
from tests.sim.test_clients import SOON_S, cancelled

RETRY = "x-stainless-retry-count"


def ask(m: Mesh, machine: Machine, count: int, *headers: str, **more: Any) -> MemoryAnswer:
    """What the library sends at its `count`th retry; it is under way."""
    answer = machine.client.openai("tiny", f"{RETRY}: {count}", *headers, **more)
    m.world.nursery.start_soon(answer.run)
    return answer


def runs(m: Mesh) -> int:
    return sum(len(m.engine(holder).requests) for holder in m.holders)


def clean(m: Mesh) -> bool:
    """Nothing is kept or waited for any more."""
    rooms = [machine.running.room.held_bytes for machine in m.machines]
    counts = [machine.running.jobs.keyed.in_flight.count for machine in m.machines]
    return m.running == 0 and not any(rooms) and not any(counts)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_retry_is_given_the_first_trys_run_from_its_first_byte(
    autojump_clock: MockClock, entry: str, stream: bool
) -> None:
    async with mesh(tokens_per_s=20) as m:
        machine = {"a": m.a, "b": m.b}[entry]
        first = ask(m, machine, 0, stream=stream)
        await m.busy()
        await pass_time(2.0)
        first.leave()
        await pass_time(0.5)
        again = ask(m, machine, 1, stream=stream)
        await m.answered(again)
        assert (again.how, again.text) == ("whole", WHOLE)
        assert again.raw.startswith(first.raw)
        assert again.headers["x-meshd-replayed"] == "true"
        assert again.headers["x-request-id"] != first.headers.get("x-request-id")
        assert again.holder in ("b", "c")
        assert runs(m) == 1
        await until(lambda: clean(m), within_s=SOON_S)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_is_whole_before_the_retry_comes_is_kept_for_it(
    autojump_clock: MockClock, stream: bool
) -> None:
    async with mesh(tokens_per_s=100) as m:
        first = ask(m, m.a, 0, stream=stream, max_tokens=20)
        await m.busy()
        first.leave()
        await pass_time(1.0)
        assert m.running == 0
        again = await m.answered(ask(m, m.a, 1, stream=stream, max_tokens=20))
        assert again.how == "whole"
        assert runs(m) == 1
        await until(lambda: clean(m), within_s=SOON_S)


async def test_a_client_that_stays_away_ends_the_run_after_the_grace(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=5) as m:
        first = ask(m, m.a, 0)
        await some_text(first)
        first.leave()
        await pass_time(limits.RETRY_GRACE_S - 0.1)
        assert m.running == 1
        await until(lambda: m.running == 0, within_s=0.1 + SOON_S)
        assert cancelled(m) == 1
        late = ask(m, m.a, 1, max_tokens=5)
        assert (await m.answered(late)).how == "whole"
        assert runs(m) == 2
        await until(lambda: clean(m), within_s=SOON_S)


async def test_a_run_is_taken_over_once(autojump_clock: MockClock) -> None:
    async with mesh(tokens_per_s=5) as m:
        first = ask(m, m.a, 0)
        await some_text(first)
        first.leave()
        await pass_time(0.5)
        second, at_once = ask(m, m.a, 1), ask(m, m.a, 1)
        await some_text(second)
        await some_text(at_once)
        assert runs(m) == 2, "one of the two got a run of its own"
        replayed = [answer for answer in (second, at_once) if "x-meshd-replayed" in answer.headers]
        assert len(replayed) == 1
        replayed[0].leave()
        await until(lambda: m.running == 1, within_s=SOON_S)
        assert cancelled(m) == 1


@pytest.mark.parametrize(
    ("header", "more"),
    [
        (f"{RETRY}: 0", {}),
        (f"{RETRY}: many", {}),
        (f"{RETRY}: 1", {"max_tokens": 3}),
        (f"{RETRY}: 1", {"authorization": "Bearer other"}),
    ],
)
async def test_only_a_retry_of_the_same_request_with_the_same_credentials_joins(
    autojump_clock: MockClock, header: str, more: dict[str, Any]
) -> None:
    async with mesh(tokens_per_s=5) as m:
        first = ask(m, m.a, 0, "authorization: Bearer one")
        await some_text(first)
        first.leave()
        await pass_time(0.5)
        credentials = "authorization: " + more.pop("authorization", "Bearer one")
        other = m.a.client.openai("tiny", header, credentials, **more)
        m.world.nursery.start_soon(other.run)
        await some_text(other, 2)
        assert "x-meshd-replayed" not in other.headers
        assert runs(m) == 2


async def test_a_retry_at_another_entry_is_a_request_of_its_own(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=5) as m:
        first = ask(m, m.a, 0)
        await some_text(first)
        first.leave()
        await pass_time(0.5)
        other = ask(m, m.b, 1)
        await some_text(other)
        assert "x-meshd-replayed" not in other.headers


async def test_a_retry_while_the_first_client_is_there_is_a_request_of_its_own(
    autojump_clock: MockClock,
) -> None:
    async with mesh(tokens_per_s=20) as m:
        first = ask(m, m.a, 0)
        await some_text(first)
        other = ask(m, m.a, 1)
        assert (await m.answered(first)).text == WHOLE
        assert (await m.answered(other)).text == WHOLE
        assert runs(m) == 2


async def test_a_run_that_fails_while_its_client_is_away_is_not_told_to_the_retry(
    autojump_clock: MockClock,
) -> None:
    async with mesh(prefill_s=0.5) as m:
        for holder in m.holders:
            m.engine(holder).fault = Fault.ERROR
            m.engine(holder).fault_after = 0
        first = ask(m, m.a, 0)
        await m.busy()
        first.leave()
        await until(lambda: m.a.count("failed") == 1)
        again = await m.answered(ask(m, m.a, 1))
        assert (again.how, again.text) == ("whole", WHOLE)
        assert "x-meshd-replayed" not in again.headers


async def test_the_librarys_timeout_is_not_the_end_of_a_whole_answer(
    autojump_clock: MockClock,
) -> None:
    """It says how long it waits; the run has that long again for the next try."""
    async with mesh(tokens_per_s=40) as m:
        timeout_s = len(WHOLE.split()) / 40 * 0.7
        patience = f"x-stainless-read-timeout: {timeout_s}"
        first = ask(m, m.a, 0, patience, stream=False)
        await pass_time(timeout_s)
        assert not first.over
        first.leave()
        await pass_time(0.4)
        again = await m.answered(ask(m, m.a, 1, patience, stream=False))
        assert (again.how, again.text) == ("whole", WHOLE)
        assert runs(m) == 1


async def test_so_many_may_be_away_and_of_so_much(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RETRIES_AWAY", 1)
    monkeypatch.setattr(limits, "RETRY_KEPT_BYTES", 20_000)
    async with mesh(tokens_per_s=50, slots=4) as m:
        long = ask(m, m.a, 0)
        short = [ask(m, m.a, 0, seed=seed) for seed in range(2)]
        await until(lambda: len(long.raw) > 20_000)
        long.leave()
        await until(lambda: cancelled(m) == 1, within_s=SOON_S)
        for answer in short:
            assert not answer.over
        # Both have said too much by now; two that have not:
        young = [ask(m, m.a, 0, seed=seed) for seed in range(2, 4)]
        await until(lambda: all(answer.pieces for answer in young))
        young[0].leave()
        young[1].leave()
        await until(lambda: cancelled(m) == 2, within_s=SOON_S)
        again = [ask(m, m.a, 1, seed=seed) for seed in range(2, 4)]
        await until(lambda: all(answer.pieces for answer in again))
        assert sorted("x-meshd-replayed" in answer.headers for answer in again) == [False, True]
        for answer in (*short, *again):
            assert (await m.answered(answer)).text == WHOLE
        await until(lambda: clean(m), within_s=SOON_S)


async def test_one_that_is_away_while_too_much_is_said_is_given_up(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RETRY_KEPT_BYTES", 5_000)
    async with mesh(tokens_per_s=50) as m:
        first = ask(m, m.a, 0)
        await some_text(first)
        left_at = trio.current_time()
        first.leave()
        await until(lambda: m.running == 0, within_s=limits.RETRY_GRACE_S - 0.5)
        assert trio.current_time() > left_at + 0.1
        await until(lambda: clean(m), within_s=SOON_S)
