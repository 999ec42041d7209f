"""One suite over every transport: what `ports.ByteStream` and `ports.Listener` promise."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from meshd.errors import DialFailed, ListenFailed, StreamAborted, StreamBroken
from meshd.ports import ByteStream
from tests.unit.network_worlds import KINDS, World, open_world


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with open_world(request.param) as opened:
        yield opened


async def read_exactly(stream: ByteStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await stream.receive_some()
        assert piece, f"ended after {len(data)} of {size} bytes"
        data += piece
    return data


async def send_for_ever(stream: ByteStream) -> None:
    while True:
        await stream.send_all(b"x" * 65536)
        await trio.lowlevel.checkpoint()


async def read_all(stream: ByteStream) -> bytes:
    data = b""
    while piece := await stream.receive_some():
        data += piece
    return data


async def read_all_and_send(stream: ByteStream) -> None:
    await read_all(stream)  # TLS says its goodbye before the reset shows
    await send_for_ever(stream)


async def until_stale(stream: ByteStream) -> None:
    """Until something has arrived on a stream that nobody reads."""
    with trio.fail_after(10):
        while not stream.is_stale():  # noqa: ASYNC110 (the kernel sets no event)
            await trio.sleep(0.001)


async def test_bytes_arrive_in_order_in_both_directions(world: World) -> None:
    near, far = await world.pair()
    await near.send_all(b"one")
    await near.send_all(bytearray(b"two"))
    await near.send_all(memoryview(b"three"))
    assert await read_exactly(far, 11) == b"onetwothree"
    await far.send_all(b"back")
    assert await read_exactly(near, 4) == b"back"


async def test_receive_some_gives_no_more_than_asked_and_keeps_the_rest(world: World) -> None:
    near, far = await world.pair()
    await near.send_all(b"abcdef")
    assert await far.receive_some(2) == b"ab"
    assert await read_exactly(far, 4) == b"cdef"


async def test_a_close_is_an_end_behind_what_was_sent(world: World) -> None:
    near, far = await world.pair()
    await near.send_all(b"last words")
    await near.aclose()
    assert await read_exactly(far, 10) == b"last words"
    assert await far.receive_some() == b""
    assert await far.receive_some() == b""


async def test_a_close_is_idempotent_and_ends_own_use(world: World) -> None:
    near, _ = await world.pair()
    near.close()
    await near.aclose()
    near.abort("too late")
    with pytest.raises(StreamAborted):
        await near.receive_some()
    with pytest.raises(StreamAborted):
        await near.send_all(b"x")
    with pytest.raises(StreamAborted):
        near.send_nowait(b"x")
    assert near.is_stale()


async def test_an_abort_breaks_the_other_side_and_is_no_orderly_end(world: World) -> None:
    near, far = await world.pair()
    near.abort("enough")
    with pytest.raises(StreamBroken) as caught:
        await far.receive_some()
    assert not isinstance(caught.value, StreamAborted)


async def test_an_abort_ends_a_read_that_waits_in_another_task(world: World) -> None:
    near, _ = await world.pair()
    reasons = []

    async def read() -> None:
        with pytest.raises(StreamAborted) as caught:
            await near.receive_some()
        reasons.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        near.abort("the deadline has passed")
        near.abort("a second reason does not replace the first")
    assert reasons == ["the deadline has passed"]


async def test_an_abort_ends_a_send_that_waits_in_another_task(world: World) -> None:
    near, _ = await world.pair()
    reasons = []

    async def send() -> None:
        with pytest.raises(StreamAborted) as caught:
            await send_for_ever(near)
        reasons.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        near.abort("nobody reads")
    assert reasons == ["nobody reads"]


async def test_one_task_reads_while_another_waits_to_send(world: World) -> None:
    near, far = await world.pair()
    size = 3_000_000

    async def send() -> None:
        await near.send_all(b"x" * size)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        await far.send_all(b"hello")
        assert await read_exactly(near, 5) == b"hello"
        assert len(await read_exactly(far, size)) == size


async def test_a_sender_waits_for_a_reader(world: World) -> None:
    near, far = await world.pair()
    sent = 0
    done = False

    async def send() -> None:
        nonlocal sent, done
        for _ in range(400):
            await near.send_all(b"x" * 65536)
            sent += 65536
        done = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert not done
        received = 0
        while received < 400 * 65536:
            received += len(await far.receive_some())
    assert done


async def test_a_large_transfer_is_whole(world: World) -> None:
    near, far = await world.pair()
    data = bytes(range(256)) * 40_000

    async def send() -> None:
        await near.send_all(data)
        await near.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        received = b""
        while piece := await far.receive_some():
            received += piece
    assert received == data


async def test_a_reset_raises_and_so_does_sending_to_somebody_who_closed(world: World) -> None:
    near, far = await world.pair()
    await far.aclose()
    with pytest.raises(StreamBroken):
        await send_for_ever(near)


async def test_closing_with_bytes_unread_is_a_reset(world: World) -> None:
    near, far = await world.pair()
    await near.send_all(b"never read")
    await until_stale(far)
    await far.aclose()
    with pytest.raises(StreamBroken):
        await read_all_and_send(near)


async def test_send_nowait_sends_what_fits_and_keeps_the_rest_in_order(world: World) -> None:
    near, far = await world.pair()
    assert near.send_nowait(b"small")
    assert near.unsent_bytes == 0
    assert await read_exactly(far, 5) == b"small"
    size = 0
    count = 0
    while near.unsent_bytes == 0:
        assert near.send_nowait(b"%08d" % count * 8192)
        size += 65536
        count += 1
    assert not near.send_nowait(b"refused while something waits")

    async def flush() -> None:
        await near.send_all(b"the end")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flush)
        received = await read_exactly(far, size + 7)
    assert near.unsent_bytes == 0
    assert received == b"".join(b"%08d" % i * 8192 for i in range(count)) + b"the end"


async def test_send_all_of_nothing_waits_until_the_rest_is_out(world: World) -> None:
    near, far = await world.pair()
    size = 0
    while near.unsent_bytes == 0:
        near.send_nowait(b"x" * 65536)
        size += 65536
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, b"")
        await read_exactly(far, size)
    assert near.unsent_bytes == 0


async def test_closing_with_a_rest_unsent_is_no_orderly_end(world: World) -> None:
    near, far = await world.pair()
    while near.unsent_bytes == 0:
        near.send_nowait(b"x" * 65536)
    near.close()
    with pytest.raises(StreamBroken):
        await read_all(far)


async def test_two_senders_at_once_are_a_bug_that_shows(world: World) -> None:
    near, _ = await world.pair()

    async def send() -> None:
        with pytest.raises(StreamAborted):
            await send_for_ever(near)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await near.send_all(b"y")
        near.abort("the end")


async def test_an_idle_stream_is_stale_once_the_other_side_closed_or_spoke(world: World) -> None:
    near, far = await world.pair()
    assert not near.is_stale()
    await far.aclose()
    await until_stale(near)

    near, far = await world.pair()
    assert not near.is_stale()
    await far.send_all(b"unasked")
    await until_stale(near)


async def test_receiving_is_a_checkpoint_also_when_bytes_are_there(world: World) -> None:
    near, far = await world.pair()
    await near.send_all(b"x" * 100)
    await read_exactly(far, 1)  # more of it is there now, on TLS already decrypted
    with trio.CancelScope() as scope:
        scope.cancel()
        await far.receive_some()
    assert scope.cancelled_caught


async def test_a_dial_to_nobody_fails(world: World) -> None:
    await world.listener.aclose()
    with pytest.raises(DialFailed):
        await world.dial()


async def test_a_closed_listener_ends_a_waiting_accept(world: World) -> None:
    async def accept() -> None:
        with pytest.raises(StreamAborted):
            await world.listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await wait_all_tasks_blocked()
        await world.listener.aclose()
    with pytest.raises(StreamAborted):
        await world.listener.accept()


async def test_many_connections_at_once_are_all_accepted(world: World) -> None:
    async def echo(stream: ByteStream) -> None:
        stream = await world.listener.handshake(stream)
        world.streams.append(stream)
        await stream.send_all(await stream.receive_some())

    async def ask(number: int) -> None:
        stream = await world.dial()
        await stream.send_all(b"%d" % number)
        assert await stream.receive_some() == b"%d" % number

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(ask, number)
        for _ in range(20):
            nursery.start_soon(echo, await world.listener.accept())


async def test_the_same_port_cannot_be_listened_on_twice(world: World) -> None:
    address = world.listener.address
    assert address is not None
    host = "0.0.0.0" if "memory" in world.kind else "127.0.0.1"
    listen = (
        world.far.listen_peers(address.port)
        if world.is_peer
        else world.far.listen_clients(host, address.port)
    )
    with pytest.raises(ListenFailed, match="in use"):
        await listen
