"""A voter's disk is put back to an earlier image of itself: it has forgotten what it promised."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from meshd.consensus.history import Checked
from meshd.record.commands_registry import SetAlias
from meshd.testing.disk import MemoryDisk
from meshd.testing.world import until
from tests.unit.ledger.meshes import LATENCY_S, LedgerMesh, LedgerNode, ledgers, settled


def image_of(node: LedgerNode) -> MemoryDisk:
    copy = MemoryDisk()
    for path, data in node.disk.files.items():
        copy.write(path, bytes(data), private=True)
    return copy


async def write(node: LedgerNode, *aliases: str) -> None:
    for alias in aliases:
        await node.runs.execute(SetAlias(alias=alias, model="m"), timeout_s=30.0)


def aliases(node: LedgerNode) -> set[str]:
    return set(node.state.settings.aliases())


def pair(mesh: LedgerMesh) -> tuple[LedgerNode, LedgerNode, LedgerNode]:
    """The leader and the two others."""
    leader = mesh.leader()
    assert leader is not None
    one, two = (node for node in mesh.nodes.values() if node is not leader)
    return leader, one, two


async def checked(node: LedgerNode) -> Checked:
    await until(
        lambda: node.runs.driver is not None and node.runs.driver.checked is not Checked.PENDING,
        within_s=5.0,
    )
    assert node.runs.driver is not None
    return node.runs.driver.checked


async def test_each_start_is_on_record(autojump_clock: MockClock) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        mesh["b"].kill()
        mesh["b"].start()
        b = mesh["b"].id
        await until(lambda: mesh["c"].state.nodes.get(b).generation == 2, within_s=10.0)  # type: ignore[union-attr]


async def test_a_disk_from_before_its_last_start_is_told_by_those_who_know_of_that_start(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        leader, victim, third = pair(mesh)
        await write(leader, "before")
        image = image_of(victim)
        victim.kill()
        victim.start()
        await until(lambda: leader.state.nodes.get(victim.id).generation == 2, within_s=10.0)  # type: ignore[union-attr]
        await write(leader, "after")
        for node in mesh.nodes.values():  # so that nobody remembers more than is on the disks
            node.kill()
        victim.disk = image
        for node in mesh.nodes.values():
            node.start()
        await until(lambda: victim.void, within_s=30.0)
        await until(lambda: not victim.void, within_s=60.0)
        await settled(mesh)
        await until(lambda: aliases(victim) == {"before", "after"}, within_s=30.0)
        assert victim.place.aside(victim.disk), "nothing is deleted"
        assert not leader.void
        assert not third.void


async def test_a_disk_of_the_same_start_is_told_by_those_who_heard_its_acknowledgements(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        leader, victim, third = pair(mesh)
        mesh.cut(third.name)
        image = image_of(victim)
        await write(leader, "kept")  # by these two alone
        victim.kill()
        victim.disk = image
        victim.start()
        await until(lambda: victim.void, within_s=5.0)
        leader.kill()
        mesh.heal()
        await trio.sleep(60)
        assert mesh.leader() is None, "as a majority they would have forgotten it"
        leader.start()
        await until(lambda: "kept" in aliases(third), within_s=60.0)
        await settled(mesh)


async def test_a_start_with_all_there_waits_for_a_round_trip_and_no_longer(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("abc") as mesh:
        await settled(mesh)
        _, victim, _ = pair(mesh)
        victim.kill()
        await trio.sleep(1.0)
        victim.start()
        began = trio.current_time()
        assert await checked(victim) is Checked.PASSED
        assert trio.current_time() - began <= 10 * LATENCY_S
        assert not victim.void


async def test_a_sole_voter_that_finds_nobody_says_that_it_was_not_checked(
    autojump_clock: MockClock,
) -> None:
    async with ledgers("ab") as mesh:
        await write(mesh["b"], "x")
        for node in mesh.nodes.values():
            node.kill()
        mesh["a"].start()
        assert await checked(mesh["a"]) is Checked.UNANSWERED
        await write(mesh["a"], "y")


async def test_a_sole_voter_asks_who_follows_it(autojump_clock: MockClock) -> None:
    async with ledgers("ab") as mesh:
        await write(mesh["b"], "x")
        image = image_of(mesh["a"])
        mesh["a"].kill()
        mesh["a"].start()
        await write(mesh["b"], "later")
        mesh["a"].kill()
        mesh["a"].disk = image
        mesh["a"].start()
        await until(lambda: mesh["a"].void, within_s=5.0)
        await trio.sleep(60)
        assert mesh.leader() is None
        assert "later" in aliases(mesh["b"])
