"""Who is in the mesh, by the record of whole nodes in memory: let in and sent away at any node."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from meshd import control
from meshd.identity import PrivateKey
from meshd.peers.join_talk import JoinRefused
from meshd.record import MemberList, SignedMembers, sign, verify
from meshd.testing.world import Machine, World, until
from meshd.wire.join import Reason
from tests.member_lists import remove, set_drained
from tests.sim.meshes import report, three, voters


def names(machine: Machine) -> set[str]:
    return {member.name for member in machine.running.mesh.registry.members()}


def linked(machine: Machine, other: Machine) -> bool:
    assert other.id is not None
    return machine.running.mesh.links.is_up(other.id)


def holders(machine: Machine) -> set[str]:
    rows = machine.running.record.ledger.state.nodes.rows()
    return {row.name for row in rows if row.holds_ca}


async def removed(machine: Machine, other: Machine) -> control.Done:
    """That node is taken out, by an order at this one."""
    assert other.id is not None
    return await machine.running.mesh.office.remove(other.id)


async def all_hold_the_key(*machines: Machine) -> None:
    await until(lambda: len(holders(machines[0])) == len(machines), within_s=60.0)


def one_keyring(*machines: Machine) -> bool:
    """They have the one that the record names, and not the first."""
    rings = {machine.running.mesh.keys.keyring for machine in machines}
    mesh = machines[0].running.record.ledger.state.nodes.mesh
    (first, *others) = rings
    named = (mesh.keyring_generation, mesh.gossip_key)
    return not others and (first.version, first.primary.id) == named and first.version > 1


# ---------------------------------------------------------------- in


async def four(world: World) -> tuple[Machine, Machine, Machine, Machine]:
    """Three voters, and a fourth node that joined them."""
    a, b, c = await three(world)
    d = await world.start("d")
    await world.settled()
    return a, b, c, d


async def test_with_the_founder_gone_a_newcomer_joins_through_another_voter(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        await all_hold_the_key(a, b, c)
        a.crash()
        d = await world.start("d", via=b)
        await until(lambda: names(b) == names(c) == names(d) == {"a", "b", "c", "d"})
        await until(lambda: linked(d, b) and linked(d, c) and linked(c, d))
        assert d.id is not None
        row = b.running.record.ledger.state.nodes.member(d.id)
        assert len(row.certificates) == 1
        await a.start()
        await until(lambda: linked(a, d) and linked(d, a) and names(a) == names(d), within_s=60.0)


async def test_a_follower_s_door_finds_a_voter_that_can_decide(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, c, d = await four(world)
        await all_hold_the_key(a, b, c)
        a.crash()
        e = await world.start("e", via=d)
        await until(lambda: names(d) == names(e) == {"a", "b", "c", "d", "e"})


async def test_without_a_quorum_the_newcomer_is_told_why_and_who_is_missing(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        await all_hold_the_key(a, b, c)
        made = await b.running.mesh.office.create_token(control.TokenOrder())
        a.crash()
        c.crash()
        d = Machine(world, "d", [], replace(b.config, name="d"))
        with pytest.raises(ExceptionGroup) as caught:
            await d.start(join=b.peer_address, token=made.token)
        (refused,) = caught.value.exceptions
        assert isinstance(refused, JoinRefused)
        assert refused.reason is Reason.UNDECIDED
        assert "2 of its 3 voters are needed" in str(refused)
        assert re.search("Away: (a, c|c, a)[.] Start one of them", str(refused))
        assert names(b) == {"a", "b", "c"}
        await c.start()
        await until(lambda: report(b).problem == "", within_s=30.0)
        await d.start(join=b.peer_address, token=made.token)
        assert names(b) == {"a", "b", "c", "d"}


# ---------------------------------------------------------------- out


async def test_a_removal_closes_links_everywhere_within_two_seconds_and_rotates_the_key(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c, d = await four(world)
        await all_hold_the_key(a, b, c)
        before = d.running.mesh.keys.keyring
        await removed(b, d)
        began = trio.current_time()
        await until(lambda: not any(linked(machine, d) for machine in (a, b, c)), within_s=2.0)
        await until(lambda: one_keyring(a, b, c), within_s=5.0)
        assert trio.current_time() - began <= 5.0
        await trio.sleep(30)
        assert not any(linked(machine, d) for machine in (a, b, c))
        assert d.id is not None
        for machine in (a, b, c):
            assert machine.running.mesh.neighbours.agent.member(d.id) is None
        if d.node is not None:
            assert d.running.mesh.keys.keyring == before, "the new keys are not for it"
        assert voters(a) == {"a", "b", "c"}


async def test_a_voter_that_is_removed_has_no_vote_any_more(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, c, d = await four(world)
        await all_hold_the_key(a, b, c)
        await removed(d, c)
        await until(lambda: voters(a) == {"a", "b", "d"}, within_s=10.0)
        await until(lambda: report(a).problem == "")


async def test_the_leader_can_be_removed(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        await all_hold_the_key(a, b, c)
        assert report(b).leader == "a"
        await removed(b, a)
        await until(lambda: names(b) == names(c) == {"b", "c"}, within_s=30.0)
        await until(lambda: one_keyring(b, c), within_s=30.0)
        await until(lambda: a.node is None)
        said = a.screen.last("warning")
        assert said is not None
        assert "this node was removed from mesh" in str(said["sentence"])
        assert "fresh data directory" in str(said["sentence"])
        with pytest.raises(ExceptionGroup) as caught:
            await a.start()
        (refused,) = caught.value.exceptions
        assert "this node was removed from mesh a. To let this machine in again" in str(refused)


async def test_a_node_that_was_cut_off_learns_on_its_return_that_it_was_removed(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c, d = await four(world)
        world.network.isolate("d")
        await removed(a, d)
        await trio.sleep(60)
        assert d.running.mesh.problems() == [] or "removed" not in d.running.mesh.problems()[0]
        world.network.rejoin("d")
        await until(lambda: any("was removed" in p for p in d.running.mesh.problems()))
        (said,) = [p for p in d.running.mesh.problems() if "was removed" in p]
        assert "fresh data directory" in said
        assert not any(linked(machine, d) for machine in (a, b, c))


async def test_a_key_that_died_with_its_author_is_made_anew(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, c, d = await four(world)
        await all_hold_the_key(a, b, c)
        b.running.mesh.registry.subscribe(lambda change: b.crash())  # before it hands out anything
        async with trio.open_nursery() as nursery:
            nursery.start_soon(removed_or_not, b, d)
            await until(lambda: names(a) == names(c) == {"a", "b", "c"}, within_s=30.0)
            await until(lambda: one_keyring(a, c), within_s=60.0)
            nursery.cancel_scope.cancel()
        await b.start()
        await until(lambda: one_keyring(a, b, c), within_s=30.0)


async def removed_or_not(machine: Machine, other: Machine) -> None:
    """An order whose end this node does not live to see."""
    await removed(machine, other)


async def test_a_removal_is_remembered_over_a_restart_without_a_quorum(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c, d = await four(world)
        await removed(a, d)
        await until(lambda: names(b) == {"a", "b", "c"})
        for machine in (a, b, c):
            machine.crash()
            await machine.until_over()
        await b.start()
        await trio.sleep(30)
        assert names(b) == {"a", "b", "c"}
        assert d.id is not None
        assert b.running.mesh.registry.is_removed(d.id)
        assert not linked(b, d)


# ---------------------------------------------------------------- what was before


def rewrite_list(machine: Machine, change: object) -> MemberList:
    """Its signed list, as the founder of an earlier meshd would have gone on writing it."""
    (folder,) = {path.parent for path in machine.disk.files if path.name == "ca.key"}
    key = PrivateKey.from_pem(machine.disk.files[folder / "ca.key"])
    kept = SignedMembers.from_bytes(machine.disk.files[folder / "members"])
    later = change(verify(kept, key.public))  # type: ignore[operator]
    machine.disk.files[folder / "members"] = sign(later, key).to_bytes()
    machine.disk.files.pop(folder / "applied", None)
    return later


async def test_the_list_of_an_earlier_meshd_s_founder_is_taken_over(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three(world)
        assert b.id is not None
        assert c.id is not None
        b_id, c_id = b.id, c.id
        await until(lambda: a.running.record.ledger.state.nodes.member(c_id).holds_ca)
        for machine in (a, b, c):
            machine.kill()
            await machine.until_over()
        later = rewrite_list(a, lambda known: remove(set_drained(known, b_id, True), c_id, 1.0))
        for machine in (a, b):
            await machine.start()
        await until(lambda: names(a) == names(b) == {"a", "b"}, within_s=60.0)
        await until(lambda: a.running.mesh.registry.version > later.version, within_s=60.0)
        assert a.running.record.ledger.state.nodes.is_removed(c_id)
        assert a.running.record.ledger.state.nodes.member(b_id).drained
        # c had the CA's key: another one is made, and with it all tokens are revoked.
        ledger = a.running.record.ledger
        await until(lambda: ledger.state.nodes.mesh.ca_generation == 2, within_s=60.0)
        d = await world.start("d")
        await until(lambda: names(b) == names(d) == {"a", "b", "d"}, within_s=60.0)
