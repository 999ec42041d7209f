"""What only the network in memory can do: cuts, resets, crashes, virtual time."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio

from meshd.errors import DialFailed, StreamAborted, StreamBroken
from meshd.ids import Address, NodeId
from meshd.ports import Alpn, ByteStream, Listener
from meshd.testing.network import MemoryNetwork, memory_credentials

A, B = NodeId("a" * 26), NodeId("b" * 26)


@dataclass
class Setup:
    world: MemoryNetwork
    listener: Listener
    near: ByteStream
    far: ByteStream

    @property
    def address(self) -> Address:
        assert self.listener.address is not None
        return self.listener.address


async def connect(latency_s: float = 0.0) -> Setup:
    world = MemoryNetwork(latency_s=latency_s)
    a, b = world.host("a"), world.host("b")
    listener = await b.listen_clients("0.0.0.0", 80)
    assert listener.address is not None
    near = await a.dial_plain(listener.address, 5)
    return Setup(world, listener, near, await listener.accept())


async def test_bytes_take_their_time(autojump_clock: object) -> None:
    setup = await connect(latency_s=0.1)
    start = trio.current_time()
    await setup.near.send_all(b"x")
    assert await setup.far.receive_some() == b"x"
    assert trio.current_time() - start == pytest.approx(0.1)
    await setup.near.aclose()
    assert await setup.far.receive_some() == b""
    assert trio.current_time() - start == pytest.approx(0.2)


async def test_a_peer_dial_takes_the_round_trips_of_tcp_and_tls(autojump_clock: object) -> None:
    world = MemoryNetwork(latency_s=0.1)
    a, b = world.host("a"), world.host("b")
    a.use(memory_credentials(A))
    b.use(memory_credentials(B))
    listener = await b.listen_peers(0)
    assert listener.address is not None

    async def accept() -> None:
        await listener.handshake(await listener.accept())

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await a.dial_peer(B, [listener.address], Alpn.CONTROL, 5)
    assert trio.current_time() - start == pytest.approx(0.6)


async def test_a_cut_holds_bytes_back_until_it_heals(autojump_clock: object) -> None:
    setup = await connect(latency_s=0.1)
    await setup.near.send_all(b"on its way ")
    setup.world.partition("a", "b", one_way=True)
    await setup.near.send_all(b"and behind")
    await setup.far.send_all(b"the other way is open")
    assert await setup.near.receive_some() == b"the other way is open"
    with trio.move_on_after(60) as scope:
        await setup.far.receive_some()
    assert scope.cancelled_caught
    setup.world.heal("a", "b")
    assert await setup.far.receive_some() == b"on its way and behind"


async def test_a_cut_hides_an_end_and_a_reset(autojump_clock: object) -> None:
    for leave in ("close", "abort"):
        setup = await connect()
        setup.world.partition("a", "b")
        setup.near.close() if leave == "close" else setup.near.abort("bye")
        with trio.move_on_after(60) as scope:
            await setup.far.receive_some()
        assert scope.cancelled_caught
        setup.world.heal("a", "b")
        if leave == "close":
            assert await setup.far.receive_some() == b""
        else:  # the reset was lost, and shows when something is sent
            await setup.far.send_all(b"still there?")
            with pytest.raises(StreamBroken):
                await setup.far.receive_some()


@pytest.mark.parametrize("gone", ["closed in the cut", "without power"])
async def test_who_waits_for_room_at_somebody_who_is_gone_is_told_when_that_can_be_known(
    autojump_clock: object, gone: str
) -> None:
    setup = await connect()
    told: list[StreamBroken] = []

    async def send() -> None:
        try:
            await setup.near.send_all(b"x" * 1_000_000)
        except StreamBroken as error:
            told.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(1.0)
        if gone == "without power":
            setup.world.crash("b", silent=True)
        else:
            setup.world.partition("a", "b")
            setup.far.abort("bye")
        await trio.sleep(60.0)
        assert not told
        setup.world.heal("a", "b")
        await setup.world.hosts["b"].listen_clients("127.0.0.1", 0)
    assert told


async def test_what_was_sent_in_a_cut_to_somebody_who_left_is_answered_with_a_reset_later(
    autojump_clock: object,
) -> None:
    setup = await connect()
    setup.world.partition("a", "b")
    setup.far.abort("bye")
    await setup.near.send_all(b"is anybody there?")
    setup.world.heal("a", "b")
    with pytest.raises(StreamBroken):
        await setup.near.receive_some()


async def test_a_dial_across_a_cut_waits_for_its_timeout_or_the_healing(
    autojump_clock: object,
) -> None:
    setup = await connect()
    a = setup.world.hosts["a"]
    setup.world.partition("b", "a", one_way=True)
    start = trio.current_time()
    with pytest.raises(DialFailed, match="within 2 s"):
        await a.dial_plain(setup.address, 2)
    assert trio.current_time() - start == pytest.approx(2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.dial_plain, setup.address, 5)
        await trio.sleep(1)
        setup.world.heal("a", "b")


async def test_a_dial_to_an_address_of_nobody_times_out_and_to_a_closed_port_is_refused(
    autojump_clock: object,
) -> None:
    setup = await connect()
    a = setup.world.hosts["a"]
    with pytest.raises(DialFailed, match="within 3 s"):
        await a.dial_plain(Address("10.9.9.9", 80), 3)
    start = trio.current_time()
    with pytest.raises(DialFailed, match="refused"):
        await a.dial_plain(Address(setup.address.host, 81), 3)
    assert trio.current_time() == start


async def test_a_killed_process_resets_and_a_dead_machine_says_nothing(
    autojump_clock: object,
) -> None:
    for silent in (False, True):
        setup = await connect()
        setup.world.crash("b", silent=silent)
        with pytest.raises(StreamAborted):
            await setup.far.receive_some()
        with pytest.raises(StreamAborted):
            await setup.listener.accept()
        if silent:
            with trio.move_on_after(60) as scope:
                await setup.near.receive_some()
            assert scope.cancelled_caught
        else:
            with pytest.raises(StreamBroken):
                await setup.near.receive_some()
        # and it can come back
        listener = await setup.world.hosts["b"].listen_clients("0.0.0.0", 80)
        await setup.world.hosts["a"].dial_plain(setup.address, 1)
        await listener.accept()


async def test_a_reset_of_the_way_between_breaks_both_ends() -> None:
    setup = await connect()
    setup.world.reset("a", "b")
    for stream in (setup.near, setup.far):
        with pytest.raises(StreamBroken):
            await stream.receive_some()


async def test_a_host_that_moves_is_found_at_its_new_address_alone(autojump_clock: object) -> None:
    setup = await connect()
    setup.world.readdress("b", ["10.7.7.7"])
    a = setup.world.hosts["a"]
    assert setup.world.hosts["b"].interface_addresses() == ["10.7.7.7"]
    await a.dial_plain(Address("10.7.7.7", 80), 1)
    with pytest.raises(DialFailed):
        await a.dial_plain(setup.address, 1)


async def test_loopback_is_ones_own() -> None:
    world = MemoryNetwork()
    a, b = world.host("a"), world.host("b")
    for host in (a, b):
        await host.listen_clients("127.0.0.1", 80)
    for name in ("127.0.0.1", "localhost", "::1"):
        stream = await a.dial_plain(Address(name, 80), 1)
        assert isinstance(stream.remote.address, Address)
    with pytest.raises(DialFailed):
        await a.dial_plain(Address(b.addresses[0], 80), 1)
