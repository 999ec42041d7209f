"""The mesh port's door: who is let in, who gives way, who is cut."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from meshd import limits
from meshd.errors import DialFailed, ProtocolError, StreamBroken
from meshd.ports import Alpn, ByteStream
from tests.unit.peers.rig import A, B, C, Peer, Town, until


@pytest.fixture
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PEER_CONNECTIONS", 8)
    monkeypatch.setattr(limits, "JOIN_CONNECTIONS", 3)
    monkeypatch.setattr(limits, "JOIN_CONNECTIONS_PER_ADDRESS", 3)


async def echo(stream: ByteStream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def serving(town: Town) -> Peer:
    a = town.member(A)
    a.door._visits = {Alpn.CONTROL: echo, Alpn.HTTP: echo, Alpn.JOIN: echo}
    town.run(a)
    await trio.testing.wait_all_tasks_blocked()
    return a


async def echoes(stream: ByteStream) -> bool:
    await stream.send_all(b"x")
    return await stream.receive_some() == b"x"


async def mute(town: Town, far: Peer, count: int) -> list[ByteStream]:
    """Connections that never begin their handshake."""
    host = town.world.host(f"mute {count} {trio.current_time()}")
    listener = far.host._listeners["", far.address.port]
    from meshd.testing.memory_host import _Call

    handshake = listener.handshake

    async def only_members(stream: ByteStream) -> ByteStream:
        if stream in stuck:
            await trio.sleep_forever()
        return await handshake(stream)

    stuck: set[ByteStream] = set()
    listener.handshake = only_members  # type: ignore[method-assign]
    streams: list[ByteStream] = []
    for _ in range(count):
        near = host._connect(listener, far.host, far.address, far.address, _Call(None, b""))
        stuck.add(listener._queue[-1])
        streams.append(near)
    await trio.testing.wait_all_tasks_blocked()
    return streams


async def test_members_get_in_while_others_hold_every_place_and_say_nothing(
    few_places: None, autojump_clock: MockClock
) -> None:
    async with Town.open() as town:
        a, b = await serving(town), town.member(B)
        silent = await mute(town, a, 2 * limits.PEER_CONNECTIONS)
        for _ in range(4):
            assert await echoes(await b.host.dial_peer(A, [a.address], Alpn.HTTP, 1))
        for stream in silent:
            with pytest.raises(StreamBroken):
                await stream.receive_some()
        assert a.door.counters["peer_refused"] == len(silent)
        assert len(a.bad) == len(silent)


async def test_who_says_nothing_is_sent_away_after_its_time(autojump_clock: MockClock) -> None:
    async with Town.open() as town:
        a = await serving(town)
        began = trio.current_time()
        (stream,) = await mute(town, a, 1)
        with pytest.raises(StreamBroken):
            await stream.receive_some()
        assert trio.current_time() - began == pytest.approx(limits.PEER_HANDSHAKE_S)
        assert "no handshake" in a.bad[0]


async def test_members_are_bounded_too(few_places: None, autojump_clock: MockClock) -> None:
    async with Town.open() as town:
        a, b = await serving(town), town.member(B)
        held = [
            await b.host.dial_peer(A, [a.address], Alpn.HTTP, 1)
            for _ in range(limits.PEER_CONNECTIONS)
        ]
        with pytest.raises(DialFailed):
            await b.host.dial_peer(A, [a.address], Alpn.HTTP, 1)
        assert "too many connections" in a.bad[0]
        held.pop().abort("done")
        await trio.testing.wait_all_tasks_blocked()
        assert await echoes(await b.host.dial_peer(A, [a.address], Alpn.HTTP, 1))


async def test_strangers_have_few_places_of_their_own(
    few_places: None, autojump_clock: MockClock
) -> None:
    async with Town.open() as town:
        a, b = await serving(town), town.member(B)
        inside = [await b.host.dial_join(a.address, 1) for _ in range(limits.JOIN_CONNECTIONS)]
        more = await b.host.dial_join(a.address, 1)
        with pytest.raises(StreamBroken):
            await more.receive_some()
        assert [await echoes(stream) for stream in inside] == [True] * limits.JOIN_CONNECTIONS
        assert await echoes(await b.host.dial_peer(A, [a.address], Alpn.HTTP, 1))


async def test_a_stranger_at_one_address_leaves_places_for_those_elsewhere(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, b, c = await serving(town), town.member(B), town.member(C)
        for _ in range(2 * limits.JOIN_CONNECTIONS):
            await b.host.dial_join(a.address, 1)
        assert await echoes(await c.host.dial_join(a.address, 1))
        refused = 2 * limits.JOIN_CONNECTIONS - limits.JOIN_CONNECTIONS_PER_ADDRESS
        assert len(a.bad) == refused


async def test_what_a_removed_node_has_open_is_cut_but_for_its_goodbye(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, b, c = await serving(town), town.member(B), town.member(C)
        http = await b.host.dial_peer(A, [a.address], Alpn.HTTP, 1)
        link = await b.host.dial_peer(A, [a.address], Alpn.CONTROL, 1)
        other = await c.host.dial_peer(A, [a.address], Alpn.HTTP, 1)
        assert await echoes(http)
        a.door.cut(B, "it is no member any more")
        with pytest.raises(StreamBroken):
            await http.receive_some()
        assert await echoes(link)
        assert await echoes(other)


async def test_faults_of_visits_are_counted_by_source_and_bugs_end_nothing(
    autojump_clock: MockClock,
) -> None:
    async with Town.open() as town:
        a, b = await serving(town), town.member(B)

        async def bad(stream: ByteStream) -> None:
            raise ProtocolError("not what was agreed")

        async def bug(stream: ByteStream) -> None:
            raise KeyError("nobody thought of this")

        a.door._visits = {Alpn.CONTROL: bad, Alpn.HTTP: bug, Alpn.JOIN: echo}
        for alpn in (Alpn.CONTROL, Alpn.HTTP):
            stream = await b.host.dial_peer(A, [a.address], alpn, 1)
            with pytest.raises(StreamBroken):
                await stream.receive_some()
        await until(lambda: a.bad == ["not what was agreed"])
        assert a.door.counters["peer_refused"] == 1
        assert await echoes(await b.host.dial_join(a.address, 1))
