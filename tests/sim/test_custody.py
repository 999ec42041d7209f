"""The CA's key among whole nodes in memory: who has it, who gets it, who does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from meshd import control, limits
from meshd.errors import Refused
from meshd.identity import Authority, CertificateRefused, FormerCa
from meshd.identity.keys import PrivateKey
from meshd.ids import NodeId
from meshd.peers.join_talk import JoinRefused
from meshd.testing.world import PATHS, Machine, World, until
from meshd.wire.control_mesh import CaKeyRequest
from tests.joins import make_key
from tests.sim.meshes import three, voters


def key_file(machine: Machine) -> PurePosixPath:
    return PurePosixPath(PATHS.data) / machine.running.mesh.registry.mesh / "ca.key"


def has_key(machine: Machine) -> bool:
    """On its disk, in its memory and on its record."""
    node = machine.running
    row = node.record.ledger.state.nodes.get(node.mesh.id)
    on_disk = key_file(machine) in machine.disk.files
    in_memory = node.custody.authority() is not None
    assert not on_disk or key_file(machine) in machine.disk.private
    return on_disk and in_memory and row is not None and row.holds_ca


async def three_holders(world: World) -> tuple[Machine, Machine, Machine]:
    """Three voters, each with the key."""
    a, b, c = await three(world)
    await until(lambda: all(has_key(m) for m in (a, b, c)), within_s=10.0)
    return a, b, c


async def on_record(world: World, name: str) -> Machine:
    """One more node, which knows from the record that it is a member."""
    node = await world.start(name)
    await world.settled()
    running = node.running
    await until(lambda: running.record.ledger.state.nodes.get(running.mesh.id) is not None)
    return node


def count(machine: Machine, counter: str) -> int:
    return machine.running.mesh.switchboard.counters[counter]


async def test_all_three_voters_have_the_key_within_seconds(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, c = await three_holders(world)
        files = {m.disk.files[key_file(m)] for m in (a, b, c)}
        assert len(files) == 1
        assert sum(count(m, "ca_key_given") for m in (a, b, c)) == 2


async def test_a_member_without_a_vote_is_refused_the_key_and_counted(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three_holders(world)
        d = await on_record(world, "d")
        assert "d" not in voters(a)
        for holder in (a, b, c):
            with pytest.raises(Refused, match="is for voters"):
                await d.running.mesh.links.request(holder.running.mesh.id, CaKeyRequest())
            assert count(holder, "ca_key_refused") == 1
        assert not has_key(d)


async def test_a_node_that_needs_the_key_twice_waits_until_it_may_ask_again(
    autojump_clock: MockClock,
) -> None:
    """As when the CA's key is another one a moment after a new voter got it."""
    async with World.open() as world:
        a, b, _ = await three_holders(world)
        holder: NodeId = a.running.mesh.id
        first = await b.running.custody._ask(holder)
        assert (await b.running.custody._ask(holder)).public == first.public
        assert count(a, "ca_key_refused") == 0


async def test_a_key_that_nobody_gives_is_a_problem_until_somebody_does(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World.open() as world:
        _, b, _ = await three_holders(world)
        custody = b.running.custody

        async def ask(node: NodeId) -> PrivateKey:
            raise Refused("the disk there is full")

        with monkeypatch.context() as patch:
            patch.setattr(custody, "_ask", ask)
            custody._files.drop()  # as if the file were gone
            await trio.sleep(60.0)
            [problem] = custody.problems(str)
            assert "none of the nodes that have the CA's key gives it" in problem
        await until(lambda: has_key(b), within_s=30.0)
        await until(lambda: not custody.problems(str), within_s=10.0)


async def test_a_voter_that_asks_again_at_once_is_refused(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, b, _ = await three_holders(world)
        await trio.sleep(limits.CA_KEY_ASK_S)
        before = count(a, "ca_key_given")
        holder: NodeId = a.running.mesh.id
        links = b.running.mesh.links
        await links.request(holder, CaKeyRequest(), 5.0)
        with pytest.raises(Refused, match="once in 1 s"):
            await links.request(holder, CaKeyRequest(), 5.0)
        assert count(a, "ca_key_given") == before + 1


async def test_a_founder_whose_key_file_is_gone_gets_the_key_back(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, _, _ = await three_holders(world)
        path = key_file(a)
        key = a.disk.files[path]
        a.kill()
        await a.until_over()
        a.disk.delete(path)
        await a.start()
        assert a.running.custody.authority() is None
        await until(lambda: has_key(a), within_s=30.0)
        assert a.disk.files[path] == key


async def test_whoever_loses_its_vote_deletes_the_key(autojump_clock: MockClock) -> None:
    async with World.open() as world:
        a, _, c = await three_holders(world)
        path = key_file(c)
        c.kill()
        await c.until_over()
        c.config = replace(c.config, voter="never")
        await c.start()
        await until(lambda: path not in c.disk.files, within_s=60.0)
        assert "c" not in voters(c)
        assert c.running.custody.authority() is None
        row = a.running.record.ledger.state.nodes.get(c.running.mesh.id)
        assert row is not None
        assert not row.holds_ca
        assert row.held_ca == 1  # which is not forgotten


def ca_of(machine: Machine) -> str:
    """The CA that it goes by."""
    return machine.running.mesh.standing.identity.ca.id


def lets_in(machine: Machine, certificate_der: bytes) -> bool:
    """Whether a link with that certificate would be let in there."""
    try:
        machine.running.mesh.introduction.credentials().check_peer(certificate_der)
    except CertificateRefused:
        return False
    return True


async def remove(by: Machine, gone: Machine) -> None:
    """`meshd remove`."""
    await by.running.mesh.office.remove(gone.running.mesh.id)


async def test_removing_a_node_that_had_the_key_gives_the_mesh_another_one(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three_holders(world)
        mesh, former = a.running.mesh.registry.mesh, c.running.custody.authority()
        assert former is not None
        d = await on_record(world, "d")
        first = ca_of(a)
        await remove(a, c)
        # Every node goes by the new CA, and those with a vote have its key.
        await until(lambda: len({ca_of(m) for m in (a, b, d)} - {first}) == 1, within_s=10.0)
        await until(lambda: ca_of(a) == ca_of(b) == ca_of(d), within_s=10.0)
        await until(lambda: has_key(a) and has_key(b), within_s=30.0)
        assert a.disk.files[key_file(a)] == b.disk.files[key_file(b)]
        assert key_file(a).with_name("ca-next.key") not in a.disk.files
        assert a.running.mesh.registry.mesh == mesh == a.running.mesh.standing.identity.mesh
        # With the former key nobody new is let in, with the new one they are.
        now = a.running.custody.authority()
        assert now is not None
        stranger = make_key("stranger").public
        forged, good = (
            ca.issue(stranger, serial=bytes(16), now_unix_s=a.clock.wall()) for ca in (former, now)
        )
        for machine in (a, b, d):
            assert not lets_in(machine, forged)
            assert lets_in(machine, good)
        # Members stay linked, also over new connections, whatever their certificates say.
        for node in a.running.mesh.links.up():
            a.running.mesh.links.cut(node, "a test")
        await world.settled()
        # In time they have certificates of the new CA, which are on record.
        await until(
            lambda: all(m.running.mesh.standing.identity.is_current for m in (a, b, d)),
            within_s=60.0,
        )
        for machine in (a, b, d):
            shown = machine.running.mesh.standing.identity.certificate
            row = a.running.record.ledger.state.nodes.get(machine.running.mesh.id)
            assert row is not None
            assert row.certificates[-1].serial == shown.serial


async def test_a_token_of_before_the_change_of_the_ca_says_that_a_new_one_is_needed(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three_holders(world)
        office = a.running.mesh.office
        former = await office.create_token(control.TokenOrder(uses=5))
        first = ca_of(a)
        await remove(a, c)
        await until(lambda: ca_of(a) == ca_of(b) != first, within_s=30.0)
        d = world.machines["d"] = Machine(world, "d", [], replace(a.config, name="d"))
        with pytest.raises(ExceptionGroup) as refused:
            await d.start(join=a.peer_address, token=former.token)
        why = r"of before mesh .* got another key.*make a new one"
        assert refused.group_contains(JoinRefused, match=why)
        # A new one is good at once, at any member: the door waits for its own certificate.
        e = await world.start("e")
        assert ca_of(e) == ca_of(a)
        assert e.running.mesh.registry.mesh == a.running.mesh.registry.mesh
        await world.settled()
        # And a restart finds all in order.
        for machine in (a, e):
            machine.kill()
            await machine.until_over()
            await machine.start()
        assert a.running.custody.authority() is not None
        await world.settled()
        await until(lambda: has_key(a), within_s=10.0)


async def test_a_node_that_slept_through_the_change_of_the_ca_is_linked_and_learns_of_it(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a, b, c = await three_holders(world)
        d = await on_record(world, "d")
        first = ca_of(d)
        d.crash()
        await remove(a, c)
        await until(lambda: ca_of(a) == ca_of(b) != first, within_s=30.0)
        await d.start()
        assert ca_of(d) == first
        await world.settled()
        await until(lambda: ca_of(d) == ca_of(a), within_s=60.0)


async def test_no_key_of_the_ca_is_in_a_log_or_in_the_record(
    autojump_clock: MockClock,
) -> None:
    with capture_logs() as logs:
        async with World.open() as world:
            a, b, c = await three(world)
            await until(lambda: all(has_key(m) for m in (a, b, c)), within_s=10.0)
            former = a.running.custody.authority()
            assert former is not None
            await remove(a, c)
            await until(lambda: all(ca_of(m) != former.public.id for m in (a, b)), within_s=30.0)
            # Of two that are left one has a vote.
            await until(lambda: has_key(a) or has_key(b), within_s=30.0)
            authority = a.running.custody.authority() or b.running.custody.authority()
            assert authority is not None
            said = repr(logs)
            assert "the mesh has another CA" in said
            for key in (former.key, authority.key):
                pem = b"".join(key.pem().splitlines()[1:-1])
                secret = key.raw().private_numbers().private_value.to_bytes(32, "big")
                for machine in (a, b, c):
                    others = [
                        data for path, data in machine.disk.files.items() if path.suffix != ".key"
                    ]
                    assert not any(secret in data or pem in data for data in others)
                assert pem.decode() not in said
                assert secret.hex() not in said


async def test_a_record_of_before_two_changes_of_the_ca_is_brought_up_to_them_by_who_has_the_key(
    autojump_clock: MockClock,
) -> None:
    async with World.open() as world:
        a = await world.start("a")
        await until(lambda: has_key(a), within_s=10.0)
        standing = a.running.mesh.standing
        identity, authority = standing.identity, standing.identity.authority
        assert authority is not None
        a.kill()
        await a.until_over()
        # What its disk has is later than its record, as after a backup was restored.
        for name in ("second", "third"):
            key = make_key(name)
            made = authority.hand_over(
                key, serials=(bytes(16), bytes(16)), now_unix_s=a.clock.wall()
            )
            former = FormerCa(authority.certificate_der, made.link_der)
            identity = identity.succeeded(made.certificate_der, (former, *identity.former_cas))
            authority = Authority(key, made.certificate_der)
        standing.store.save_cas(identity)
        standing.store.ca_keys(identity.mesh).keep(authority.key)
        await a.start()
        ledger = a.running.record.ledger
        await until(lambda: ledger.state.nodes.is_founded, within_s=10.0)
        await until(lambda: ledger.state.nodes.mesh.ca_generation == 3, within_s=30.0)
        await until(lambda: has_key(a), within_s=30.0)
        assert ledger.state.nodes.mesh.ca_key == make_key("third").public.der
        assert ca_of(a) == make_key("third").public.id
        b = await world.start("b")
        await world.settled()
        await until(lambda: b.running.mesh.standing.identity.former_cas == identity.former_cas)
