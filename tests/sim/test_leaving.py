"""A node leaves its mesh: what only it had goes to others first."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs
from trio.testing import MockClock

from meshd.errors import Refused
from meshd.record.commands_registry import SetAlias
from meshd.record.node_rows import NodeRow
from meshd.testing.world import Machine, World, until
from tests.sim.meshes import report, three, voters


async def test_a_leader_leaves_and_the_others_write_on_and_can_admit(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        await a.running.departure.leave()
        await until(lambda: voters(b) < {"b", "c"} and not report(b).problem, within_s=30.0)
        await c.running.record.ledger.execute(SetAlias(alias="x", model="m"), timeout_s=20.0)
        rows = b.running.record.ledger.state.nodes.rows()
        assert {row.name for row in rows} == {"b", "c"}
        assert any(row.holds_ca for row in rows)


async def test_when_one_that_has_the_ca_key_leaves_nothing_is_said_that_frightens_without_reason(
    autojump_clock: MockClock,
) -> None:
    with capture_logs() as logs:
        async with World.open() as world:
            a, b, c = await three(world)
            d = await world.start("d")
            await world.settled()
            await until(lambda: sum(r.holds_ca for r in rows(a)) == 3, within_s=60.0)
            former = a.running.mesh.registry.ca
            await a.running.departure.leave()
            await until(lambda: {r.name for r in rows(d)} == {"b", "c", "d"}, within_s=30.0)
            by_others = [m.running.mesh.registry for m in (b, c, d)]
            await until(
                lambda: all(r.ca != former and r.is_signed for r in by_others), within_s=60.0
            )
            await until(lambda: sum(r.holds_ca for r in rows(b)) == 3, within_s=30.0)
    said = {line["event"] for line in logs if line["log_level"] in ("warning", "error")}
    assert not said & {"member list refused", "the CA's key was not given"}


def rows(machine: Machine) -> list[NodeRow]:
    return list(machine.running.record.ledger.state.nodes.rows())


async def test_the_only_one_that_can_hold_them_stays_and_names_the_way_to_end_the_mesh(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b = await world.start("a"), await world.start("b")
        await world.settled()
        await until(lambda: b.running.record.ledger.state.nodes.is_founded, within_s=60.0)
        b.crash()
        with pytest.raises(Refused, match="--destroy-mesh"):
            await a.running.departure.leave()
        assert voters(a) == {"a"}
        assert "1 other has not been told" in (await a.running.departure.destroy()).message


async def test_who_could_not_leave_in_time_hears_what_has_moved_and_what_to_do(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its vote and the lead go; the CA's key, by the record, stays with it alone."""
    async with World.open() as world:
        a, b, _ = await three(world)
        departure = a.running.departure
        monkeypatch.setattr(departure, "_holders", lambda: [a.running.mesh.id])
        with pytest.raises(Refused) as refused:
            await departure.leave()
        said = str(refused.value)
        assert "taken over the CA's key. This node is a member still; " in said
        assert "its vote and the lead went to others already" in said
        assert "`meshd voters promote a`" in said
        assert "a" not in voters(a)
        assert {row.vote for row in b.running.record.ledger.state.nodes.rows()} == {"auto"}


async def test_a_mesh_that_others_can_go_on_with_is_not_destroyed(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, *_ = await three(world)
        with pytest.raises(Refused, match="leave it"):
            await a.running.departure.destroy()
        assert {row.vote for row in a.running.record.ledger.state.nodes.rows()} == {"auto"}


async def test_a_mesh_of_one_is_only_ended_on_purpose(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a = await world.start("a")
        with pytest.raises(Refused, match="--destroy-mesh"):
            await a.running.departure.leave()
        assert "ended here" in (await a.running.departure.destroy()).message
