"""What gossip and links tell each other, in whole nodes on a network in memory."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from meshd.ids import Address
from meshd.node.kept_addresses import KeptAddresses
from meshd.peers.addresses import AddressBook, Source
from meshd.testing.world import PATHS, PEER_PORT, Machine, World
from tests.unit.peers.rig import until


def link_leads_to(near: Machine, far: Machine, host: str) -> bool:
    link = near.running.mesh.links._asking.get(far.id)
    address = link.stream.remote.address if link is not None and link.greeted else None
    return address is not None and address.host == host


def failures(machine: Machine) -> int:
    return machine.running.mesh.gauges().get("failures", 0)


async def test_a_machine_that_moves_is_followed_and_nobody_is_held_for_gone(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = [await world.start(name) for name in "abc"]
        await world.settled()
        old = b.host.addresses[0]
        assert link_leads_to(a, b, old)
        world.network.readdress("b", ["10.8.8.8"])
        for other in (a, c):
            await until(lambda other=other: link_leads_to(other, b, "10.8.8.8"), within_s=5)
        await until(lambda: len(b.running.mesh.links.up()) == 2, within_s=5)
        await trio.sleep(10)
        assert [failures(machine) for machine in (a, b, c)] == [0, 0, 0]


async def test_more_addresses_cost_no_link(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b = [await world.start(name) for name in "ab"]
        await world.settled()
        links = [machine.running.mesh.links for machine in (a, b)]
        streams = [link.stream for each in links for link in each._asking.values()]
        world.network.readdress("b", [*b.host.addresses, "10.8.8.8"])
        await trio.sleep(10)
        assert [link.stream for each in links for link in each._asking.values()] == streams
        known = {address.host for address in a.running.mesh.addresses.of(b.id)}
        assert "10.8.8.8" in known


async def test_where_a_member_was_reached_is_known_after_a_restart(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b = [await world.start(name) for name in "ab"]
        await world.settled()
        (address,) = [Address(host, PEER_PORT) for host in b.host.addresses]
        assert a.running.mesh.addresses.of(b.id)[0] == address
        a.terminate()
        await a.until_over()
        book = AddressBook()
        KeptAddresses(a.disk, PATHS.data / "peers.json", book).restore()
        book.put(b.id, [Address("10.9.9.9", 1)], Source.LISTED)
        assert book.of(b.id)[0] == address
