"""The client's connections: kept, used again, retried, given up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meshd import limits
from meshd.errors import (
    StreamAborted,
    StreamBroken,
)
from meshd.http import ClientResponse, HttpClient
from meshd.ports import ByteStream
from tests.unit.http.rig import Script, upstream
from tests.unit.http.upstreams import OK, answers


async def use(client: HttpClient, count: int = 1) -> None:
    for _ in range(count):
        assert await (await client.request("GET", "/")).read(100) == b"hello"


async def test_connections_are_used_again_the_last_one_first() -> None:
    async with upstream(*[answers(OK, requests=10)] * 2) as rig:
        client = rig.client()
        first = await client.request("GET", "/")
        second = await client.request("GET", "/")
        assert rig.dials == 2
        await first.read(100)
        await second.read(100)
        assert client.idle_connections == 2
        streams: list[ByteStream] = []
        response = await client.request("GET", "/", on_stream=streams.append)
        assert response._connection is second._connection  # white box: LIFO keeps few warm
        await response.read(100)
        await use(client, 3)
        assert rig.dials == 2


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: timeout=0\r\n\r\nhello",
        OK + b"something that nobody asked for",
    ],
    ids=["close", "http/1.0", "keep-alive of none", "surplus"],
)
async def test_a_connection_that_cannot_be_kept_is_not_used_again(head: bytes) -> None:
    async with upstream(*[answers(head, close=False)] * 2) as rig:
        await use(rig.client(), 2)
        assert rig.dials == 2


async def test_an_answer_that_says_keep_alive_and_closes_all_the_same_costs_nothing() -> None:
    """llama.cpp does that after every SSE answer."""
    event = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=100\r\nContent-Length: 5\r\n\r\nhello"
    async with upstream(*[answers(event)] * 3) as rig:
        await use(rig.client(), 3)
        assert rig.dials == 3


async def test_a_pooled_connection_that_ends_under_a_request_is_retried_once_afresh() -> None:
    async def closes_on_the_second_request(stream: ByteStream) -> None:
        await answers(OK, close=False)(stream)
        await stream.receive_some()
        stream.abort("this is why")

    async with upstream(closes_on_the_second_request, answers(OK)) as rig:
        client = rig.client()
        streams: list[ByteStream] = []
        await use(client)
        response = await client.request("POST", "/", body=b"x", on_stream=streams.append)
        assert await response.read(100) == b"hello"
        assert rig.dials == 2
        assert len(streams) == 2


async def test_a_fresh_connection_is_not_retried() -> None:
    async with upstream(answers(), answers(OK)) as rig:
        with pytest.raises(StreamBroken, match="before an answer"):
            await rig.client().request("GET", "/")
        assert rig.dials == 1


async def test_a_pooled_connection_that_answered_partly_is_not_retried() -> None:
    async def half_on_the_second_request(stream: ByteStream) -> None:
        await answers(OK, close=False)(stream)
        await answers(b"HTTP/1.1 200 OK\r\nConte")(stream)

    async with upstream(half_on_the_second_request, answers(OK)) as rig:
        client = rig.client()
        await use(client)
        with pytest.raises(StreamBroken):
            await client.request("GET", "/")
        assert rig.dials == 1


async def test_an_aborted_request_is_not_retried(autojump_clock: object) -> None:
    async def silent_on_the_second_request(stream: ByteStream) -> None:
        await answers(OK, close=False)(stream)
        await trio.sleep_forever()

    async with upstream(silent_on_the_second_request, answers(OK)) as rig:
        client = rig.client()
        await use(client)

        def abort_soon(stream: ByteStream) -> None:
            rig.sweeper.watch(lambda: stream.abort("the deadline"), at=trio.current_time() + 3)

        with pytest.raises(StreamAborted, match="the deadline"):
            await client.request("GET", "/", on_stream=abort_soon)
        assert rig.dials == 1


async def test_idle_connections_are_closed_in_order_after_a_while(autojump_clock: object) -> None:
    ended: list[tuple[float, bytes]] = []

    def keeps(head: bytes) -> Script:
        async def script(stream: ByteStream) -> None:
            await answers(head, close=False)(stream)
            end = await stream.receive_some()
            ended.append((trio.current_time(), end))

        return script

    short = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: timeout=2\r\n\r\nhello"
    async with upstream(keeps(OK), keeps(short)) as rig:
        client = rig.client()
        start = trio.current_time()
        responses: Sequence[ClientResponse] = [await client.request("GET", "/") for _ in range(2)]
        for response in responses:
            await response.read(100)
        await trio.sleep(100)
        assert client.idle_connections == 0
    assert [(at - start, end) for at, end in ended] == [
        (pytest.approx(1.0, abs=0.1), b""),
        (pytest.approx(limits.HTTP_POOL_IDLE_S, abs=0.1), b""),
    ]


async def test_the_pool_keeps_no_more_than_it_may() -> None:
    async with upstream(*[answers(OK, requests=2)] * 3) as rig:
        client = HttpClient(rig.dial, host="x", sweeper=rig.sweeper, pool_size=2)
        responses = [await client.request("GET", "/") for _ in range(3)]
        for response in responses:
            await response.read(100)
        assert client.idle_connections == 2


async def test_close_idle_forgets_what_is_pooled_and_close_all_ends_what_runs() -> None:
    async with upstream(answers(OK), answers(OK[:-5], close=False), answers(OK)) as rig:
        client = rig.client()
        await use(client)
        client.close_idle()
        assert client.idle_connections == 0
        response = await client.request("GET", "/")

        async def read() -> None:
            with pytest.raises(StreamAborted, match="the node stops"):
                await response.read_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            client.close_all("the node stops")
        await use(client)
        assert client.idle_connections == 0
