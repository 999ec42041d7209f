"""Datagrams over UDP and in memory; control sockets; which addresses are announced."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meshd.errors import DialFailed, ListenFailed, StreamAborted
from meshd.ids import Address
from meshd.machine.interfaces import rank
from meshd.machine.network import RealNetwork
from meshd.ports import Datagrams, Network
from meshd.testing.memory_datagrams import INBOX_DATAGRAMS
from meshd.testing.network import MemoryNetwork


class Two:
    """Two datagram sockets, and where each finds the other."""

    def __init__(self, near: Datagrams, far: Datagrams, host: str | None) -> None:
        self.near, self.far = near, far
        self.near_at = Address(host or near.address.host, near.address.port)
        self.far_at = Address(host or far.address.host, far.address.port)


@pytest.fixture(params=["udp v4", "udp v6", "memory"])
async def two(request: pytest.FixtureRequest) -> AsyncIterator[Two]:
    near: Network
    far: Network
    host = None
    if request.param == "memory":
        world = MemoryNetwork()
        near, far = world.host("near"), world.host("far")
    else:
        near = far = RealNetwork()
        host = "127.0.0.1" if request.param == "udp v4" else "::1"
        if host == "::1" and not socket.has_dualstack_ipv6():
            pytest.skip("this machine has no IPv6")
    pair = Two(await near.listen_datagrams(0), await far.listen_datagrams(0), host)
    yield pair
    await pair.near.aclose()
    await pair.far.aclose()


async def test_a_datagram_arrives_with_the_address_that_answers_reach(two: Two) -> None:
    await two.near.send(b"ping", two.far_at)
    data, sender = await two.far.receive()
    assert (data, sender) == (b"ping", two.near_at)
    await two.far.send(b"pong", sender)
    assert await two.near.receive() == (b"pong", two.far_at)


async def test_datagrams_keep_their_bounds(two: Two) -> None:
    for data in (b"", b"a", b"b" * 1200):
        await two.near.send(data, two.far_at)
    assert [(await two.far.receive())[0] for _ in range(3)] == [b"", b"a", b"b" * 1200]


async def test_what_cannot_be_sent_is_lost_without_an_error(two: Two) -> None:
    for to in (
        Address(two.far_at.host, 1),
        Address("192.0.2.1", 9),
        Address("not-an-address", 9),
        Address("999.1.1.1", 9),
        Address("255.255.255.255", 9),
    ):
        await two.near.send(b"x", to)
    await two.near.send(b"x" * 100_000, two.far_at)
    await two.near.send(b"after", two.far_at)
    assert (await two.far.receive())[0] == b"after"


async def test_closing_ends_a_waiting_receive(two: Two) -> None:
    async def receive() -> None:
        with pytest.raises(StreamAborted):
            await two.far.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await two.far.aclose()
    await two.far.aclose()
    await two.far.send(b"x", two.near_at)


async def test_the_udp_port_is_the_number_of_the_tcp_port() -> None:
    network = RealNetwork()
    listener = await network.listen_peers(0)
    assert listener.address is not None
    datagrams = await network.listen_datagrams(listener.address.port)
    assert datagrams.address.port == listener.address.port
    await datagrams.aclose()
    await listener.aclose()


async def test_a_port_whose_udp_side_is_taken_is_refused_with_a_sentence() -> None:
    network = RealNetwork()
    taken = await network.listen_datagrams(0)
    with pytest.raises(ListenFailed, match=rf"UDP port {taken.address.port} is in use"):
        await network.listen_peers(taken.address.port)
    await taken.aclose()
    again = await network.listen_peers(taken.address.port)  # and its TCP side was let go
    await again.aclose()


# --- datagrams in memory: late, lost, doubled, cut


async def run_lossy(seed: int) -> list[bytes]:
    world = MemoryNetwork(
        seed=seed, latency_s=0.01, jitter_s=0.05, datagram_loss=0.3, datagram_duplication=0.2
    )
    near = await world.host("near").listen_datagrams(0)
    far = await world.host("far").listen_datagrams(0)
    received: list[bytes] = []
    for number in range(100):
        await near.send(b"%d" % number, far.address)
    with trio.move_on_after(1):
        while True:
            received.append((await far.receive())[0])
    return received


async def test_loss_duplication_and_order_come_from_the_seed(autojump_clock: object) -> None:
    first = await run_lossy(1)
    assert first == await run_lossy(1)
    assert first != await run_lossy(2)
    assert len(set(first)) < 90
    assert len(set(first)) < len(first)
    assert first != sorted(first, key=int)


async def test_a_partition_in_memory_is_per_direction(autojump_clock: object) -> None:
    world = MemoryNetwork()
    near = await world.host("near").listen_datagrams(0)
    far = await world.host("far").listen_datagrams(0)
    world.partition("near", "far", one_way=True)
    await near.send(b"lost", far.address)
    await far.send(b"heard", near.address)
    assert (await near.receive())[0] == b"heard"
    world.heal("near", "far")
    await near.send(b"now", far.address)
    assert (await far.receive())[0] == b"now"


async def test_an_inbox_in_memory_has_an_end() -> None:
    world = MemoryNetwork()
    near = await world.host("near").listen_datagrams(0)
    far = await world.host("far").listen_datagrams(0)
    for number in range(INBOX_DATAGRAMS + 10):
        await near.send(b"%d" % number, far.address)
    for number in range(INBOX_DATAGRAMS):
        assert (await far.receive())[0] == b"%d" % number
    await near.send(b"next", far.address)
    assert (await far.receive())[0] == b"next"


# --- control sockets


async def test_a_control_socket_is_private_and_its_file_goes_when_it_closes(tmp_path: Path) -> None:
    path = tmp_path / "run" / "control.sock"
    listener = await RealNetwork().listen_control(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(path.parent).st_mode) == 0o700
    client = await trio.open_unix_socket(str(path))
    stream = await listener.handshake(await listener.accept())
    assert stream.remote.address is None
    await client.send_all(b"hello")
    assert await stream.receive_some() == b"hello"
    await stream.aclose()
    await client.aclose()
    await listener.aclose()
    assert not path.exists()


async def test_a_control_socket_left_by_a_crash_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    listener = await RealNetwork().listen_control(path)
    await (await trio.open_unix_socket(str(path))).aclose()
    await listener.aclose()


async def test_a_control_socket_that_answers_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    network = RealNetwork()
    first = await network.listen_control(path)
    with pytest.raises(ListenFailed, match="Another daemon answers"):
        await network.listen_control(path)
    await first.aclose()


async def test_closing_does_not_take_away_a_successors_socket(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    network = RealNetwork()
    first = await network.listen_control(path)
    path.unlink()
    second = await network.listen_control(path)
    await first.aclose()
    assert path.exists()
    await second.aclose()


async def test_a_path_too_long_for_a_socket_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ListenFailed, match=r"too long.*shorter"):
        await RealNetwork().listen_control(tmp_path / ("x" * 120))


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("mine")
    with pytest.raises(ListenFailed):
        await RealNetwork().listen_control(path)
    assert path.read_text() == "mine"


# --- dialling plainly, and addresses


async def test_a_name_is_dialled_at_whichever_of_its_addresses_answers() -> None:
    network = RealNetwork()
    listener = await network.listen_clients("127.0.0.1", 0)
    assert listener.address is not None
    stream = await network.dial_plain(Address("localhost", listener.address.port), 10)
    await stream.aclose()
    await listener.aclose()


async def test_a_name_that_does_not_exist_fails_with_a_sentence() -> None:
    with pytest.raises(DialFailed, match="has no address"):
        await RealNetwork().dial_plain(Address("no-such-name.invalid", 1), 10)


def test_addresses_are_announced_best_first() -> None:
    assert rank(
        [
            ("lo", "127.0.0.1"),
            ("lo", "::1"),
            ("docker0", "172.17.0.1"),
            ("tailscale0", "100.100.1.1"),
            ("eth0", "fe80::1%eth0"),
            ("eth0", "fe80::1"),
            ("eth0", "2001:db8:1::1"),
            ("eth0", "8.8.4.4"),
            ("wlan0", "192.168.1.5"),
            ("wlan0", "169.254.3.3"),
            ("eth1", "192.168.1.5"),
        ]
    ) == ["192.168.1.5", "8.8.4.4", "2001:db8:1::1", "100.100.1.1", "172.17.0.1"]


def test_a_machine_without_any_network_announces_loopback() -> None:
    assert rank([("lo", "::1"), ("lo", "127.0.0.1")]) == ["127.0.0.1", "::1"]


def test_this_machines_addresses_are_literals() -> None:
    addresses = RealNetwork().interface_addresses()
    assert addresses, "loopback at least"
    for address in addresses:
        assert socket.getaddrinfo(address, 1, flags=socket.AI_NUMERICHOST)
