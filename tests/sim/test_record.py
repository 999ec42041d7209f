"""The record of whole nodes in memory: the same from every node, whoever dies."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd.ledger.session import MaybeWritten, NotWritten
from meshd.record.commands_registry import SetAlias
from meshd.testing.world import World, until
from tests.sim.meshes import report, three


async def test_the_third_node_makes_three_voters_and_all_have_the_same_record(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        await c.running.record.ledger.execute(SetAlias(alias="best", model="llama3.2"))
        await until(lambda: len({report(m).digest for m in (a, b, c)}) == 1)
        assert report(a).members == 3
        assert {report(m).leader for m in (a, b, c)} == {"a"}
        assert [report(m).problem for m in (a, b, c)] == ["", "", ""]


async def test_the_record_goes_on_without_its_leader_and_brings_it_up_to_date(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        a.crash()
        await b.running.record.ledger.execute(SetAlias(alias="best", model="m"), timeout_s=20.0)
        assert report(b).leader in ("b", "c")
        await a.start()
        await until(lambda: report(a).digest == report(b).digest == report(c).digest, within_s=30.0)


async def test_without_a_majority_it_says_who_is_missing_and_writes_nothing(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        b.crash()
        c.crash()
        await until(lambda: "cannot be written" in report(a).problem, within_s=30.0)
        assert "2 of its 3 voters are needed, and 1 can be reached" in report(a).problem
        assert "Away: " in report(a).problem
        with pytest.raises((NotWritten, MaybeWritten), match=r"2 of its 3 voters.*Away: "):
            await a.running.record.ledger.execute(SetAlias(alias="x", model="m"), timeout_s=5.0)
        assert any("Start one of them" in said for said in a.running.record.problems())
        await b.start()
        await a.running.record.ledger.execute(SetAlias(alias="y", model="m"), timeout_s=30.0)
        assert report(a).problem == ""


async def test_a_leap_of_the_clocks_is_held_until_a_person_confirms_it(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        for machine in (a, b, c):  # all off for a day
            machine.kill()
            await machine.until_over()
            machine.clock.jump_wall(86_400.0)
        for machine in (a, b, c):
            await machine.start()
        await world.settled()
        record = a.running.record
        await record.ledger.execute(SetAlias(alias="x", model="m"), timeout_s=30.0)
        await until(lambda: record.problems() != [], within_s=60.0)
        assert "confirm-clock" in record.problems()[0]
        before_ms = record.ledger.state.clock.now_unix_ms
        await b.running.record.confirm_clock()
        await until(lambda: record.problems() == [], within_s=10.0)
        assert record.ledger.state.clock.now_unix_ms - before_ms > 86_000_000


@pytest.mark.parametrize("ahead_s", [365 * 86_400.0, -365 * 86_400.0])
@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_one_clock_that_is_a_year_off_moves_nothing(
    autojump_clock: MockClock, who: str, ahead_s: float
) -> None:
    """The record clock follows the median of the clocks, wherever the wrong one is."""
    async with World.open() as world:
        machines = await three(world)
        leads = next(m for m in machines if report(m).leader == m.name)
        wrong = leads if who == "leader" else next(m for m in machines if m is not leads)
        record = leads.running.record
        await record.ledger.execute(SetAlias(alias="x", model="m"))
        before_ms, began_s = record.ledger.state.clock.now_unix_ms, trio.current_time()
        wrong.clock.jump_wall(ahead_s)
        for n in range(6):
            await trio.sleep(10.0)
            await wrong.running.record.ledger.execute(SetAlias(alias="x", model=f"m{n}"))
        moved_s = (record.ledger.state.clock.now_unix_ms - before_ms) / 1000
        assert 0 <= moved_s <= trio.current_time() - began_s + 30.0
        assert [m.running.record.problems() for m in machines] == [[], [], []]
