"""Whole nodes in memory without a vote: each follows a voter, reads and writes through it."""

from __future__ import annotations

from collections import Counter

import trio
from trio.testing import MockClock

from meshd.consensus.messages import decode
from meshd.ids import NodeId
from meshd.record.commands_registry import SetAlias
from meshd.testing.world import Machine, World, until
from tests.sim.meshes import report, voters

NAMES = "abcdefghi"
SIGN_S = 5.0


def followed(machine: Machine) -> str:
    """The name of the voter that it follows, empty if none."""
    return next(row.follows for row in report(machine).voters if row.state == "here")


def followers(machines: list[Machine]) -> list[Machine]:
    kept_by = voters(machines[0])
    return [machine for machine in machines if machine.name not in kept_by]


async def mesh(world: World, nodes: int, voting: int) -> list[Machine]:
    """So many nodes, of which so many vote, and all others follow one."""
    machines = [await world.start(name) for name in NAMES[:nodes]]
    await world.settled()
    await until(
        lambda: (
            all(len(voters(machine)) == voting for machine in machines)
            and all(followed(machine) for machine in followers(machines))
        ),
        within_s=120.0,
    )
    return machines


def equal(machines: list[Machine]) -> bool:
    return len({report(machine).digest for machine in machines}) == 1


async def write(machine: Machine, alias: str) -> None:
    await machine.running.record.ledger.execute(SetAlias(alias=alias, model="m"), timeout_s=20.0)


async def test_followers_spare_the_leader_and_read_and_write_through_other_voters(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        machines = await mesh(world, 9, 5)
        rest = followers(machines)
        leader = report(machines[0]).leader
        assert leader not in {followed(machine) for machine in rest}

        for machine in rest:
            await write(machine, f"by-{machine.name}")
        for machine in rest:  # reads see what was acknowledged anywhere, without a wait for luck
            ledger = machine.running.record.ledger
            await ledger.read_barrier()
            assert {f"by-{other.name}" for other in rest} <= set(ledger.state.settings.aliases())
        await until(lambda: equal(machines), within_s=5.0)


async def test_a_follower_goes_on_when_its_voter_is_killed_and_learns_what_it_missed_asleep(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        machines = await mesh(world, 5, 3)
        first, second = followers(machines)[:2]
        source = world.machines[followed(first)]
        second.crash()
        source.crash()
        await write(first, "after")
        assert followed(first) not in ("", source.name)
        await second.start()
        await source.start()
        await until(lambda: equal(machines), within_s=60.0)


async def test_an_idle_follower_hears_signs_of_life_and_nothing_else(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        machines = await mesh(world, 4, 3)
        await trio.sleep(60.0)
        heard: Counter[str] = Counter()
        one = followers(machines)[0]
        ledger = one.running.record.ledger
        received = ledger.received

        def note(node: NodeId, data: bytes) -> None:
            heard[type(decode(data)).__name__] += 1
            received(node, data)

        ledger.received = note  # type: ignore[method-assign]
        index = ledger.state.index
        await trio.sleep(60.0)
        assert set(heard) == {"Feed"}
        written = ledger.state.index - index
        assert 60.0 / SIGN_S - 2 <= heard["Feed"] <= 60.0 / SIGN_S + 1 + written
