"""How many may join at a time, and how often."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.errors import MeshdError
from meshd.ids import Address
from meshd.peers.join_client import join_with_token
from meshd.peers.join_limits import SourceLimiter, source_of
from meshd.testing.entropy import SeededEntropy
from meshd.wire.join import JoinRefusal, Reason
from tests.joins import HOST, Mesh, newcomer
from tests.unit.strangers import Stranger


async def test_one_address_may_knock_only_so_often(autojump_clock: MockClock) -> None:
    mesh = Mesh()
    words = []
    async with trio.open_nursery() as nursery:
        for _ in range(limits.JOIN_BURST + 1):
            stranger = Stranger(mesh, nursery)
            await stranger.stream.send_all(b"\0\0\0\0")
            word = await stranger.talk.receive()
            assert isinstance(word, JoinRefusal)
            words.append(word.known_reason)
            await stranger.stream.aclose()
        other = Stranger(mesh, nursery, Address("192.168.7.77", 1))
        await other.hello()
        await other.stream.aclose()
        await trio.sleep(1)
        again = Stranger(mesh, nursery)
        await again.hello()
        await again.stream.aclose()
    assert words == [Reason.MALFORMED] * limits.JOIN_BURST + [Reason.BUSY]


async def test_only_sixteen_may_be_open(autojump_clock: MockClock) -> None:
    mesh = Mesh()
    async with trio.open_nursery() as nursery:
        strangers = [
            Stranger(mesh, nursery, Address(f"10.0.0.{n}", 1)) for n in range(limits.JOIN_OPEN)
        ]
        for stranger in strangers:
            await stranger.hello()
        late = Stranger(mesh, nursery, Address("10.0.1.1", 1))
        assert await late.last_word() is Reason.BUSY
        await late.stream.aclose()
        await strangers[0].stream.aclose()
        await strangers[0].over.wait()
        later = Stranger(mesh, nursery, Address("10.0.1.2", 1))
        await later.hello()
        nursery.cancel_scope.cancel()


async def test_one_stranger_cannot_keep_all_others_out(autojump_clock: MockClock) -> None:
    """It comes as often as it may, says hello and falls silent, as many times as it likes."""
    mesh = Mesh()
    async with trio.open_nursery() as nursery:
        for _ in range(3 * limits.JOIN_OPEN):
            with suppress(MeshdError):  # at times it is told that it comes too often
                await Stranger(mesh, nursery).hello()
            await trio.sleep(1 / limits.JOIN_PER_ADDRESS_PER_S)
        again = Stranger(mesh, nursery)
        assert await again.last_word() is Reason.BUSY
        other = Stranger(mesh, nursery, Address("10.0.1.1", 1))
        await other.hello()
        nursery.cancel_scope.cancel()


async def test_a_newcomer_with_a_token_waits_its_turn(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    mesh = Mesh()
    token = mesh.token(uses=20)
    net = mesh.network(nursery)
    async with trio.open_nursery() as crowd:
        for n in range(limits.JOIN_BURST + 3):
            crowd.start_soon(
                join_with_token, net.network, SeededEntropy(n), HOST, token, newcomer(n, f"n{n}")
            )
    assert len(mesh.names) == limits.JOIN_BURST + 4


@pytest.mark.parametrize(
    ("address", "source"),
    [
        (Address("192.168.1.7", 5), "192.168.1.7"),
        (Address("::ffff:192.168.1.7", 5), "192.168.1.7"),
        (Address("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"),
        (Address("fe80::1%eth0", 5), "fe80::/64"),
        (Address("somewhere", 5), "somewhere"),
        (None, "local"),
    ],
)
def test_a_source_is_an_address_or_a_network_that_one_machine_may_own(
    address: Address | None, source: str
) -> None:
    assert source_of(address) == source


def test_the_limiter_tells_how_long_to_wait_and_forgets_the_quiet() -> None:
    limiter = SourceLimiter(per_s=0.5, burst=2, sources=2)
    assert [limiter.wait_s("a", 0.0) for _ in range(3)] == [0.0, 0.0, 2.0]
    assert limiter.wait_s("a", 1.0) == 1.0
    assert limiter.wait_s("a", 2.0) == 0.0
    assert limiter.wait_s("a", 1.0) > 0  # a clock that goes back gives nothing away
    limiter.wait_s("b", 3.0)
    limiter.wait_s("c", 3.0)
    assert limiter.wait_s("a", 3.0) == 0.0
