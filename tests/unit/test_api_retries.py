"""A client of a library that retries, between its run and its next try."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from meshd import limits
from meshd.api.openai_encode import ChatEncoder, Terms
from meshd.api.retries import LeavingClient, Retries, deadline_s, is_retry, tell_again
from meshd.errors import StreamBroken
from meshd.http import Room, ServerRequest, Sweeper

SSE = [(b"content-type", b"text/event-stream"), (b"x-request-id", b"first")]
JSON = [(b"content-type", b"application/json"), (b"access-control-allow-origin", b"http://a")]
BIG = b"x" * limits.BODY_COUNTED_BYTES


class FakeClient:
    """A `Responder` that notes what it was told; `leaves` at the next thing it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.started = self.finished = self.disconnected = False
        self.on_disconnect: Callable[[], None] | None = None
        self.leaves = False

    def leave(self) -> None:
        self.disconnected = True
        if self.on_disconnect is not None and not self.finished:
            self.on_disconnect()

    async def _tell(self, *what: Any) -> None:
        await trio.lowlevel.checkpoint()
        if self.leaves:
            self.leave()
        if self.disconnected:
            raise StreamBroken("the client went away")
        self.told.append(what)

    async def send(self, status: int, headers: Any, body: bytes) -> None:
        self.started = self.finished = True
        await self._tell(status, headers, body)

    async def start(self, status: int, headers: Any, data: bytes = b"") -> None:
        self.started = True
        await self._tell(status, headers, data)

    async def write(self, data: bytes) -> None:
        await self._tell(data)

    async def finish(self, data: bytes = b"") -> None:
        self.finished = True
        await self._tell(data)


def request(count: bytes = b"0", **more: Any) -> ServerRequest:
    fields = {"method": "POST", "path": "/v1/chat/completions", "query": "", "body": b"{}", **more}
    headers = [(b"x-stainless-retry-count", count), *fields.pop("headers", [])]
    return ServerRequest(fields["method"], fields["path"], fields["query"], headers, fields["body"])


def encoder() -> ChatEncoder:
    return ChatEncoder(Terms("r1", 0, "m"))


class Entry:
    """Retries of one node, and a client that has sent its first try."""

    def __init__(self, sweeper: Sweeper) -> None:
        self.room = Room()
        self.retries = Retries(sweeper, self.room)
        self.there = FakeClient()
        self.ended: list[float] = []
        self.run: LeavingClient = self.retries.client(
            request(),
            self.there,  # type: ignore[arg-type]
            encoder(),
        )
        self.run.on_disconnect = lambda: self.ended.append(trio.current_time())

    async def again(self) -> FakeClient:
        """The next try, told all that there is."""
        client, found = FakeClient(), self.retries.take(request(b"1"))
        assert found is self.run
        await tell_again(found, client, encoder(), [(b"x-request-id", b"second")])  # type: ignore[arg-type]
        return client


@asynccontextmanager
async def entry() -> AsyncIterator[Entry]:
    sweeper = Sweeper()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        made = Entry(sweeper)
        yield made
        await trio.sleep(limits.RETRY_GRACE_S + 1.0)
        assert made.room.held_bytes == 0, "something is kept for ever"
        assert made.retries.take(request(b"1")) is None
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("count", "key", "is_one"),
    [
        (b"0", False, False),
        (b"1", False, True),
        (b"10", False, True),
        (b"-1", False, False),
        (b"1.5", False, False),
        (b"", False, False),
        (b"9" * 5000, False, True),
        (b"1", True, False),
    ],
)
def test_what_is_a_retry(count: bytes, key: bool, is_one: bool) -> None:
    headers = [(b"idempotency-key", b"k")] if key else []
    assert is_retry(request(count, headers=headers)) is is_one


def test_a_whole_answer_has_time_for_two_tries() -> None:
    assert deadline_s(None) is None
    assert deadline_s(10.0) == 20.0 + limits.RETRY_GRACE_S


async def test_a_client_that_stays_is_told_as_ever(autojump_clock: MockClock) -> None:
    async with entry() as e:
        await e.run.start(200, SSE, b"1")
        await e.run.write(b"2")
        e.run.ending(())
        await e.run.finish(b"3")
        e.run.close()
        assert e.there.told == [(200, SSE, b"1"), (b"2",), (b"3",)]
        assert (e.ended, e.run.finished, e.run.disconnected) == ([], True, False)


async def test_one_that_left_with_the_very_last_of_it_is_told_again(
    autojump_clock: MockClock,
) -> None:
    async with entry() as e:
        e.there.leaves = True
        await e.run.send(200, JSON, BIG)
        e.run.close()
        assert e.room.held_bytes == len(BIG)
        [(status, headers, body)] = (await e.again()).told
        assert (status, body) == (200, BIG)
        assert headers == [
            (b"content-type", b"application/json"),
            (b"x-meshd-replayed", b"true"),
            (b"x-request-id", b"second"),
        ]
        assert e.ended == []


async def test_one_that_stays_away_ends_its_run_once(autojump_clock: MockClock) -> None:
    async with entry() as e:
        await e.run.start(200, SSE, BIG)
        e.there.leave()
        left_at = trio.current_time()
        await e.run.write(b"2")
        assert e.ended == []
        await trio.sleep(limits.RETRY_GRACE_S + 0.1)
        [ended_at] = e.ended
        assert 0 <= ended_at - left_at - limits.RETRY_GRACE_S <= 0.1
        with pytest.raises(StreamBroken):
            await e.run.write(b"3")
        e.run.close()


async def test_one_that_comes_back_hears_silence_and_an_error_in_the_stream(
    autojump_clock: MockClock,
) -> None:
    async with entry() as e:
        e.there.leave()
        assert e.run.start_nowait(200, SSE, b": keep-alive\n\n")
        came_back: list[FakeClient] = []
        async with trio.open_nursery() as nursery:

            async def again() -> None:
                came_back.append(await e.again())

            nursery.start_soon(again)
            await wait_all_tasks_blocked()
            assert e.run.write_nowait(b": keep-alive\n\n")
            await wait_all_tasks_blocked()
            await e.run.write(b"data: 1\n\n")
            await wait_all_tasks_blocked()
            await e.run.finish(b"data: error\n\n")  # not announced by `ending`
            e.run.close()
        [(status, _, first), *rest] = came_back[0].told
        assert (status, first) == (200, encoder().start())
        # Without an empty line of its own: see `places.comment`.
        assert rest == [(b": keep-alive\n",), (b"data: 1\n\n",), (b"data: error\n\n",)]


async def test_one_that_leaves_a_second_time_ends_its_run_at_once(
    autojump_clock: MockClock,
) -> None:
    async with entry() as e:
        await e.run.start(200, SSE, BIG)
        e.there.leave()
        found = e.retries.take(request(b"1"))
        assert found is not None
        second = FakeClient()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell_again, found, second, encoder(), [])
            await wait_all_tasks_blocked()
            second.leave()
            assert len(e.ended) == 1
        with pytest.raises(StreamBroken):
            await e.run.write(b"2")
        e.run.close()


@pytest.mark.parametrize(
    "other",
    [
        {"method": "PUT"},
        {"path": "/v1/completions"},
        {"query": "a=b"},
        {"body": b"{ }"},
        {"headers": [(b"authorization", b"Bearer x")]},
    ],
)
async def test_another_request_does_not_take_it_over(
    autojump_clock: MockClock, other: dict[str, Any]
) -> None:
    async with entry() as e:
        e.there.leave()
        assert e.retries.take(request(b"1", **other)) is None
        assert e.retries.take(request(b"1")) is e.run
        assert e.retries.take(request(b"2")) is None, "once"
        e.run.leave()
        e.run.close()


async def test_what_is_too_large_is_not_kept(autojump_clock: MockClock) -> None:
    async with entry() as e:
        await e.run.start(200, SSE, b"x" * limits.RETRY_KEPT_BYTES)
        assert e.room.held_bytes == limits.RETRY_KEPT_BYTES
        await e.run.write(b"x")
        assert e.room.held_bytes == 0
        e.there.leave()
        assert len(e.ended) == 1
        e.run.close()
