"""The record of several nodes, in virtual time: real kernels, journals and reducers."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.ledger.ledger import REOPEN_MAX_S
from meshd.ledger.session import MaybeWritten, NotWritten
from meshd.record.commands_registry import SetAlias
from meshd.record.results import RecordRefused
from meshd.testing.world import until
from tests.unit.ledger.meshes import (
    agree,
    aliases,
    ledgers,
    settled,
)


async def test_a_record_of_one_is_founded_and_written(autojump_clock: MockClock) -> None:
    async with ledgers("a") as mesh:
        await mesh["a"].runs.execute(SetAlias(alias="best", model="llama3.2"))
        assert aliases(mesh, "a") == {"best": "llama3.2"}
        assert mesh.voters() == {"a"}


async def test_the_third_node_makes_three_voters_and_all_hold_the_same(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        for name in "abc":  # written at any of them
            await mesh[name].runs.execute(SetAlias(alias=name, model="llama3.2"))
        await agree(mesh)
        assert set(aliases(mesh, "b")) == {"a", "b", "c"}


async def test_two_nodes_have_one_voter_and_both_read_and_write(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("ab") as mesh:
        await mesh["b"].runs.execute(SetAlias(alias="x", model="m"), timeout_s=60)
        await agree(mesh)
        assert mesh.voters() == {"a"}
        assert aliases(mesh, "a") == {"x": "m"}


async def test_what_was_acknowledged_outlives_the_leaders_power_loss(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        leader = mesh.leader()
        assert leader is not None
        await leader.runs.execute(SetAlias(alias="kept", model="m"))
        leader.kill(power=True)
        await until(lambda: mesh.leader() not in (None, leader), within_s=10.0)
        other = mesh.leader()
        assert other is not None
        await other.runs.read_barrier()
        assert "kept" in aliases(mesh, other.name)
        leader.start()
        await agree(mesh)


async def test_a_minority_refuses_and_says_so_and_writes_nothing(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        mesh.cut("c")
        with pytest.raises((NotWritten, MaybeWritten)):
            await mesh["c"].runs.execute(SetAlias(alias="lost", model="m"), timeout_s=5)
        await mesh["a"].runs.execute(SetAlias(alias="kept", model="m"), timeout_s=30)
        mesh.heal()
        await agree(mesh)
        assert set(aliases(mesh, "c")) == {"kept"}


async def test_all_lose_power_at_once_and_nothing_acknowledged_is_lost(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        for n in range(20):
            await mesh["b"].runs.execute(SetAlias(alias=f"x{n}", model="m"))
        for node in mesh.nodes.values():
            node.kill(power=True)
        await trio.sleep(5)
        for node in mesh.nodes.values():
            node.start()
        await until(lambda: mesh.leader() is not None, within_s=30.0)
        await mesh["c"].runs.execute(SetAlias(alias="after", model="m"), timeout_s=30)
        await agree(mesh)
        assert set(aliases(mesh, "a")) == {f"x{n}" for n in range(20)} | {"after"}


async def test_a_voter_that_stays_away_is_replaced(autojump_clock: MockClock) -> None:
    async with ledgers("abcd") as mesh:
        await settled(mesh)
        [spare] = set("abcd") - mesh.voters()
        gone = next(v for v in mesh.voters() if mesh[v] is not mesh.leader())
        mesh[gone].kill()
        mesh[gone].away_since -= limits.REPLACE_VOTER_AFTER_S - 30.0
        await trio.sleep(15.0)
        assert gone in mesh.voters()
        await until(lambda: spare in mesh.voters() and gone not in mesh.voters(), within_s=60.0)
        assert len(mesh.voters()) == 3


async def test_a_refusal_of_the_record_is_told_as_such(autojump_clock: MockClock) -> None:
    async with ledgers("a") as mesh:
        with pytest.raises(RecordRefused):
            await mesh["a"].runs.execute(SetAlias(alias="nothing"))


async def test_a_disk_that_fills_up_stops_the_record_here_and_not_elsewhere(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        leader = mesh.leader()
        assert leader is not None
        leader.disk.broken = "no space left on the disk"
        others = [node for node in mesh.nodes.values() if node is not leader]
        await others[0].runs.execute(SetAlias(alias="x", model="m"), timeout_s=30)
        await until(lambda: leader.runs.driver is None)
        assert "no space" in str(leader.runs.problem)
        leader.disk.broken = None
        await agree(mesh)
        assert aliases(mesh, leader.name) == {"x": "m"}


async def test_a_disk_that_was_full_for_a_moment_keeps_the_record_away_for_no_longer_than_that(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("a") as mesh:
        await settled(mesh, voters=1)
        only = mesh["a"]
        only.disk.broken = "no space left on the disk"
        with pytest.raises((MaybeWritten, NotWritten)):
            await only.runs.execute(SetAlias(alias="x", model="m"), timeout_s=3.0)
        only.disk.broken = None
        began = trio.current_time()
        await until(lambda: only.runs.problem is None, within_s=60.0)
        assert trio.current_time() - began < 5.0


async def test_a_disk_that_stays_full_is_tried_ever_less_often(autojump_clock: MockClock) -> None:
    async with ledgers("a") as mesh:
        await settled(mesh, voters=1)
        only = mesh["a"]
        only.disk.broken = "no space left on the disk"
        with pytest.raises((MaybeWritten, NotWritten)):
            await only.runs.execute(SetAlias(alias="x", model="m"), timeout_s=3.0)
        await trio.sleep(600.0)
        only.disk.broken = None
        began = trio.current_time()
        await until(lambda: only.runs.problem is None, within_s=60.0)
        assert trio.current_time() - began <= REOPEN_MAX_S + 1.0


async def test_a_node_that_comes_later_takes_part_within_moments(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("ab") as mesh:
        await settled(mesh, voters=1)
        mesh["b"].kill()
        await trio.sleep(60.0)  # nothing is to be done, and nobody looks for long
        mesh["b"].start()
        began = trio.current_time()
        await mesh["b"].runs.execute(SetAlias(alias="x", model="m"), timeout_s=30.0)
        assert trio.current_time() - began < 3.0
