"""The agent on datagrams in memory, in virtual time: sealing, timers, exchanges, callbacks."""

from __future__ import annotations

import errno
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from meshd import limits
from meshd.errors import DialFailed, DiskFailed, ProtocolError
from meshd.ids import Address, MeshId, NodeId
from meshd.membership.agent import Agent, encode_state
from meshd.membership.core import Core
from meshd.membership.members import State
from meshd.membership.views import Change
from meshd.ports import Datagrams
from meshd.testing.clock import SimClock
from meshd.testing.network import MemoryNetwork
from meshd.wire.envelope import Envelope
from meshd.wire.gossip import Load, Profile
from tests.sim.swim_world import node_id, sign, verify
from tests.unit.membership.bench import word

PORT = 11436
MESH = MeshId("m" * 26)
OLD, NEW = b"o" * 32, b"n" * 32


class Machine:
    """One machine of the house: its agent and what surrounds it."""

    def __init__(self, house: House, index: int, generation: int) -> None:
        self.house = house
        self.id = node_id(index)
        self.host = f"h{index}"
        self.address = Address(f"10.0.0.{index}", PORT)
        self.clock = SimClock()
        self.generations = [generation]
        self.disk_full = False
        self.refused_generations: list[int] = []
        self.changes: list[Change] = []
        self.woke: list[float] = []
        self.unknown_keys = 0
        self.scope = trio.CancelScope()
        self.datagrams: Datagrams
        self.agent: Agent
        self.envelope: Envelope

    async def start(self) -> None:
        host = self.house.world.hosts.get(self.host) or self.house.world.host(
            self.host, [self.address.host]
        )
        self.datagrams = await host.listen_datagrams(PORT)
        profile = Profile(self.host, (self.address,))
        core = Core(
            self.id,
            self.generations[-1],
            profile,
            sign=sign,
            verify=verify,
            chance=random.Random(self.host),
            now=trio.current_time(),
        )
        self.envelope = Envelope(
            MESH, self.id, self.generations[-1], {1: OLD}, 1, self.house.members.__contains__
        )
        self.agent = Agent(
            core,
            self.datagrams,
            self.clock,
            self.envelope,
            tcp_ping=self._tcp_ping,
            push_pull=self._push_pull,
            persist_generation=self._keep_generation,
            on_unknown_key=self._count_unknown_key,
            on_woke=self.woke.append,
        )
        self.agent.subscribe(self.changes.append)
        self.agent.admitted(frozenset(self.house.members))
        self.house.nursery.start_soon(self._run)

    async def _run(self) -> None:
        with self.scope:
            await self.agent.run()

    def stop(self) -> None:
        """Power off."""
        self.house.machines.remove(self)
        self.scope.cancel()
        self.house.world.crash(self.host, silent=True)

    def state_of(self, other: Machine) -> State | None:
        view = self.agent.member(other.id)
        return None if view is None else view.state

    def _keep_generation(self, generation: int) -> None:
        if self.disk_full:
            self.refused_generations.append(generation)
            raise DiskFailed(errno.ENOSPC, "there is no space left on the disk")
        self.generations.append(generation)

    def _count_unknown_key(self) -> None:
        self.unknown_keys += 1

    def _reach(self, node: NodeId) -> Machine:
        """The stand-in for the peer link."""
        for machine in self.house.machines:
            if machine.id == node and machine is not self:
                return machine
        raise DialFailed(f"{node} does not answer.")

    async def _tcp_ping(self, node: NodeId, addresses: object) -> bool:
        self._reach(node)
        await trio.lowlevel.checkpoint()
        return True

    async def _push_pull(self, node: NodeId, state: bytes) -> bytes:
        await trio.sleep(0.01)
        return await self._reach(node).agent.handle_push_pull(self.id, state)


class House:
    """Machines in one memory network."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.world = MemoryNetwork(seed=1, latency_s=0.001)
        self.nursery = nursery
        self.machines: list[Machine] = []
        self.members = {node_id(index) for index in range(1, 6)}

    async def add(self, index: int, *, generation: int = 1) -> Machine:
        machine = Machine(self, index, generation)
        self.machines.append(machine)
        await machine.start()
        return machine


@asynccontextmanager
async def house_of(count: int) -> AsyncIterator[tuple[House, list[Machine]]]:
    """Machines that have met."""
    async with trio.open_nursery() as nursery:
        house = House(nursery)
        machines = [await house.add(index) for index in range(1, count + 1)]
        for machine in machines[1:]:
            machine.agent.found(machines[0].id, [machines[0].address])
        await trio.sleep(5.0)
        yield house, machines
        nursery.cancel_scope.cancel()


async def test_machines_meet_and_see_each_other_alive(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with house_of(3) as (_, machines):
        for machine in machines:
            views = machine.agent.members()
            assert len(views) == 2
            assert {view.state for view in views} == {State.ALIVE}
            assert {change.before for change in machine.changes} == {None}
            assert not machine.agent.problems()
        assert machines[0].agent.counters()["datagrams_received"] > 5


async def test_a_machine_that_dies_is_failed_for_the_others_and_comes_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with house_of(3) as (house, (one, two, three)):
        three.stop()
        await trio.sleep(40.0)
        assert one.state_of(three) is two.state_of(three) is State.FAILED
        path = [change.after for change in one.changes if change.node == three.id]
        assert path == [State.ALIVE, State.SUSPECT, State.FAILED]
        again = await house.add(3, generation=2)
        again.agent.found(one.id, [one.address])
        await trio.sleep(5.0)
        assert one.state_of(again) is two.state_of(again) is State.ALIVE


async def test_a_profile_reaches_everybody(autojump_clock: trio.testing.MockClock) -> None:
    async with house_of(3) as (_, (one, two, three)):
        busy = Profile("one", (one.address,), inventory=4, load=Load(3, 1, 4))
        one.agent.set_profile(busy)
        await trio.sleep(3.0)
        for other in (two, three):
            view = other.agent.member(one.id)
            assert view is not None
            assert view.profile == busy
            told = [change.view for change in other.changes if change.node == one.id][-1]
            assert told is not None
            assert told.profile == busy


async def test_leaving_returns_when_it_was_told(autojump_clock: trio.testing.MockClock) -> None:
    async with house_of(3) as (_, (one, two, three)):
        assert await three.agent.leave()
        three.stop()
        await trio.sleep(30.0)
        assert one.state_of(three) is two.state_of(three) is State.LEFT


async def test_a_full_disk_makes_a_node_mute_with_a_generation_it_cannot_keep_and_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with house_of(2) as (house, (one, _)):
        three = await house.add(3, generation=5)
        three.agent.found(one.id, [one.address])
        await trio.sleep(5.0)
        three.stop()
        await trio.sleep(1.0)
        # Its data directory comes from an old copy, and the disk is full.
        again = await house.add(3, generation=2)
        again.disk_full = True
        again.agent.found(one.id, [one.address])
        await trio.sleep(60.0)
        assert again.refused_generations[:2] == [6, 6], "it is tried again"
        assert len(again.refused_generations) <= 60 / 5 + 1
        assert again.generations == [2]
        assert any("disk" in sentence for sentence in again.agent.problems())
        sent = again.agent.counters().get("datagrams_sent", 0)
        await trio.sleep(30.0)
        assert again.agent.counters().get("datagrams_sent", 0) == sent, "nonces could come again"
        again.disk_full = False
        await trio.sleep(60.0)
        assert again.generations == [2, 6]
        assert again.agent.problems() == []
        assert again.agent.counters().get("datagrams_sent", 0) > sent
        assert one.state_of(again) is State.ALIVE


async def test_a_hint_suspects_and_the_suspect_refutes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with house_of(3) as (_, (one, _, three)):
        before = three.agent.word.version
        one.agent.suspect(three.id, "connection reset")
        assert one.state_of(three) is State.SUSPECT
        await trio.sleep(1.0)
        assert one.state_of(three) is State.ALIVE
        assert three.agent.word.version > before


async def test_waking_up_is_noticed_before_anything_is_judged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with house_of(3) as (house, (one, two, three)):
        house.world.isolate(one.host)
        await trio.sleep(2.0)  # the last two seconds before the lid was shut
        one.clock.wake_after(3600.0)
        house.world.rejoin(one.host)
        await trio.sleep(5.0)
        assert one.woke == [3600.0]
        assert one.state_of(two) is one.state_of(three) is State.ALIVE
        assert two.state_of(one) is State.ALIVE
        assert State.FAILED not in {change.after for change in one.changes}


async def test_bad_datagrams_are_counted_and_change_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with house_of(2) as (house, (one, two)):
        stranger = await house.world.host("h9", ["10.0.0.9"]).listen_datagrams(PORT)
        before = (one.agent.members()[0].state, one.agent.word)
        await stranger.send(b"garbage", one.address)
        await stranger.send(b"\x07" + bytes(99), one.address)
        await stranger.send(b"\x01" + bytes(99), one.address)
        foreign = Envelope(MESH, two.id, 9, {1: NEW}, 1, lambda node: True)
        await stranger.send(foreign.seal(b"hi"), one.address)
        outsider = Envelope(MESH, node_id(77), 1, {1: OLD}, 1, lambda node: True)
        await stranger.send(outsider.seal(b"hi"), one.address)
        insider = Envelope(MESH, node_id(5), 1, {1: OLD}, 1, lambda node: True)
        sealed = insider.seal(b"\xc1 not msgpack")
        await stranger.send(sealed, one.address)
        await stranger.send(sealed, one.address)
        await trio.sleep(0.5)
        counters = one.agent.counters()
        assert {
            name: counters[name]
            for name in counters
            if name.startswith("datagrams_")
            and name not in ("datagrams_sent", "datagrams_received")
        } == {
            "datagrams_garbage": 1,
            "datagrams_wrong_version": 1,
            "datagrams_unknown_key": 1,
            "datagrams_unauthenticated": 1,
            "datagrams_unknown_sender": 1,
            "datagrams_malformed": 1,
            "datagrams_replayed": 1,
        }
        assert one.unknown_keys == 1
        assert (one.agent.members()[0].state, one.agent.word) == before


async def test_who_missed_a_rotation_is_told_to_fetch_the_keyring_once_in_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with house_of(3) as (_, (one, two, three)):
        for machine in (one, two):
            machine.envelope.set_keys({1: OLD, 2: NEW}, 2)
        await trio.sleep(5.0)
        assert three.unknown_keys == 1
        three.envelope.set_keys({1: OLD, 2: NEW}, 2)
        await trio.sleep(20.0)
        assert {view.state for view in three.agent.members()} == {State.ALIVE}


async def test_a_generation_that_was_used_before_is_replaced_on_disk_and_in_the_envelope(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with house_of(2) as (_, (one, two)):
        state = encode_state([word(two.id), word(one.id, 3, generation=7)])
        await one.agent.handle_push_pull(two.id, state)
        assert one.generations == [1, 8]
        await trio.sleep(3.0)
        view = two.agent.member(one.id)
        assert view is not None
        assert view.version[0] == 8
        assert view.state is State.ALIVE


async def test_an_exchange_that_cannot_be_read_is_an_error_to_the_other_side(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with house_of(1) as (_, (one,)):
        with pytest.raises(ProtocolError):
            await one.agent.handle_push_pull(node_id(2), b"\xc1")


async def test_who_is_removed_is_not_heard_any_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with house_of(2) as (house, (one, two)):
        house.members.remove(two.id)
        one.agent.admitted(frozenset(house.members))
        assert one.agent.members() == []
        await trio.sleep(5.0)
        assert one.agent.members() == []
        assert one.agent.counters()["datagrams_unknown_sender"] > 0


def test_a_state_over_the_limit_is_cut_to_what_fits() -> None:
    many = [word(node_id(index)) for index in range(10)] * 1000
    data = encode_state(many)
    assert limits.GOSSIP_STATE_BYTES - 1000 < len(data) <= limits.GOSSIP_STATE_BYTES
