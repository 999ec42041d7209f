"""What `meshd doctor` is told of the other members."""

from __future__ import annotations

from trio.testing import MockClock

from meshd.control import Finding
from meshd.ids import Address
from meshd.testing.world import Machine, World
from tests.unit.peers.rig import until


async def tcp(machine: Machine) -> Finding:
    (found,) = [f for f in await machine.running.mesh.findings() if f.code == "peer-tcp"]
    return found


async def test_a_member_that_stopped_is_called_stopped_and_is_no_trouble(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b = [await world.start(name) for name in "ab"]
        await world.settled()
        assert (await tcp(a)).severity == "ok"
        b.terminate()
        await b.until_over()
        await until(lambda: not a.running.mesh.links.is_up(b.id))
        found = await tcp(a)
        assert (found.severity, found.what) == ("ok", "b was stopped")


async def test_of_a_member_that_died_it_is_said_what_to_do_if_it_never_comes_back(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b = [await world.start(name) for name in "ab"]
        await world.settled()
        b.crash(silent=True)
        await until(lambda: not a.running.mesh.links.is_up(b.id))
        found = await tcp(a)
        assert found.severity == "fail"
        assert "gone for good" in found.remedy


async def test_a_node_that_advertises_is_looked_for_there_and_says_so(
    autojump_clock: MockClock,
) -> None:
    nowhere = Address("203.0.113.7", 4000)
    async with World.open() as world:
        a = await world.start("a")
        b = await world.start("b", advertise=(nowhere,))
        await until(lambda: b.running.mesh.links.is_up(a.id))
        assert b.id is not None
        assert a.running.mesh.presence(b.id).addresses == [nowhere]
        assert not a.running.mesh.links.is_up(b.id), "there is nobody at that address"
        said = [f for f in await b.running.mesh.findings() if f.code == "advertise"]
        assert [(f.severity, f.what) for f in said] == [
            ("ok", "the others are told to reach it at 203.0.113.7:4000")
        ]
        assert not [f for f in await a.running.mesh.findings() if f.code == "advertise"]
