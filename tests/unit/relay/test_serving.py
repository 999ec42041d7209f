"""The holder's end of a forwarded request: frames, beats, cancels, refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.backends import RunControl
from meshd.backends.control import failed
from meshd.errors import StreamBroken
from meshd.http import ServerRequest, Sweeper
from meshd.ids import NodeId
from meshd.inference import Delta, Failure, FailureKind, Kind, Load, Request, Usage
from meshd.ports import Alpn, Remote
from meshd.relay.holder import Order
from meshd.relay.serving import PeerService
from meshd.relay.sinks import AnswerSink
from meshd.wire.answer import AnswerFrame, AnswerReader, FrameKind
from meshd.wire.serve import (
    CANCEL_PATH,
    FORWARDED_HEADER,
    SERVE_PATH,
    CancelRequest,
    ServeRequest,
    encode_cancel,
    encode_serve,
)

A, B = NodeId("a" * 26), NodeId("b" * 26)


class FakeResponder:
    """Collects an answer; `broken` makes every write fail as on a reset connection."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.broken = self.disconnected = self.finished = False
        self.on_disconnect: object = None

    async def start(self, status: int, headers: object, data: bytes = b"") -> None:
        self.status = status
        await self.write(data)

    async def send(self, status: int, headers: object, body: bytes) -> None:
        self.status, self.finished = status, True
        await self.write(body)

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.write_nowait(data)

    def write_nowait(self, data: bytes) -> bool:
        if self.broken:
            raise StreamBroken("reset by the other side")
        self.body += data
        return True

    async def finish(self, data: bytes = b"") -> None:
        self.finished = True
        await self.write(data)

    def abort(self, reason: str) -> None:
        self.broken = True
        self.leave()

    def leave(self) -> None:
        """The connection breaks, and its reader sees it."""
        self.disconnected = True
        if callable(self.on_disconnect):
            self.on_disconnect()

    def frames(self) -> list[AnswerFrame]:
        return AnswerReader().feed(self.body)


class FakeHolder:
    """Answers with a script: items, seconds to sleep, or a failure to raise."""

    def __init__(self, *script: object) -> None:
        self.script = script
        self.ended: list[str] = []
        self.orders: list[Order] = []

    def load(self) -> Load:
        return Load(running=1)

    async def serve(self, order: Order, sink: AnswerSink, control: RunControl) -> None:
        self.orders.append(order)
        aborted = trio.Event()

        class Abort:
            def abort(self, reason: str) -> None:
                aborted.set()

        control.attach(Abort())
        for step in self.script:
            if step is BEGUN:
                sink.begun()
            elif isinstance(step, float):
                with trio.move_on_after(step):
                    await aborted.wait()
                    self.ended.append(control.aborted or "")
                    raise failed(FailureKind.CANCELLED, control.aborted or "", 499)
            elif isinstance(step, Failure):
                raise failed(FailureKind(step.kind), step.message, step.status)
            else:
                await sink.emit([step])  # type: ignore[list-item]


def request(path: str, body: bytes, node: NodeId = A, method: str = "POST") -> ServerRequest:
    made = ServerRequest.__new__(ServerRequest)
    made.method, made.path, made.query = method, path, ""
    made.headers, made.body = [(FORWARDED_HEADER, b"1")], body
    made.remote = Remote(None, node, Alpn.HTTP)
    return made


def ask(request_id: str = "r.1", **fields: Any) -> bytes:
    asked = Request(Kind.CHAT, "tiny")
    return encode_serve(
        ServeRequest(request_id=request_id, backend="e", model="tiny", request=asked, **fields)
    )


@asynccontextmanager
async def service(*script: object) -> AsyncIterator[tuple[PeerService, FakeHolder, trio.Nursery]]:
    sweeper, holder = Sweeper(), FakeHolder(*script)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        yield PeerService(holder, sweeper), holder, nursery  # type: ignore[arg-type]
        nursery.cancel_scope.cancel()


BEGUN = object()
WHOLE = (Delta(text="a"), Delta(finish_reason="stop"), Usage(3, 1))


async def test_an_answer_is_items_then_load_then_end(autojump_clock: MockClock) -> None:
    async with service(*WHOLE) as (peers, _, _):
        responder = FakeResponder()
        await peers.handle(request(SERVE_PATH, ask()), responder)  # type: ignore[arg-type]
    frames = responder.frames()
    assert [frame.kind for frame in frames] == [
        FrameKind.DELTA,
        FrameKind.DELTA,
        FrameKind.USAGE,
        FrameKind.LOAD,
        FrameKind.END,
    ]
    assert [item for frame in frames for item in frame.items] == list(WHOLE)
    assert (responder.status, responder.finished) == (200, True)


async def test_silence_is_filled_with_beats(autojump_clock: MockClock) -> None:
    async with service(30.0, *WHOLE) as (peers, _, _):
        responder = FakeResponder()
        await peers.handle(request(SERVE_PATH, ask()), responder)  # type: ignore[arg-type]
    beats = [frame for frame in responder.frames() if frame.kind is FrameKind.BEAT]
    assert len(beats) >= 30.0 / limits.HOLDER_SILENT_S, "more often than the entry's patience"
    assert len(beats) <= 30.0 / limits.BEAT_S


async def test_when_a_request_leaves_the_queue_the_next_beat_says_so(
    autojump_clock: MockClock,
) -> None:
    async with service(3.0, BEGUN, 3.0, *WHOLE) as (peers, _, _):
        responder = FakeResponder()
        await peers.handle(request(SERVE_PATH, ask()), responder)  # type: ignore[arg-type]
    kinds = [frame.kind for frame in responder.frames()]
    assert kinds.count(FrameKind.BEGUN) == 1
    at = kinds.index(FrameKind.BEGUN)
    assert kinds[:at].count(FrameKind.BEAT) >= 3
    assert kinds[at:].count(FrameKind.BEAT) >= 3


async def test_an_answer_that_begins_at_once_needs_no_word_of_that(
    autojump_clock: MockClock,
) -> None:
    async with service(BEGUN, *WHOLE, 3.0) as (peers, _, _):
        responder = FakeResponder()
        await peers.handle(request(SERVE_PATH, ask()), responder)  # type: ignore[arg-type]
    assert FrameKind.BEGUN not in [frame.kind for frame in responder.frames()]


@pytest.mark.parametrize("script", [(5.0, *WHOLE), (*[Delta(text="a"), 0.3] * 9, *WHOLE)])
async def test_a_long_answer_tells_soon_how_busy_the_node_is_with_it(
    autojump_clock: MockClock, script: tuple[object, ...]
) -> None:
    async with service(*script) as (peers, _, nursery):
        responder = FakeResponder()
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask()), responder)
        await trio.sleep(0.2)
        loads = [frame for frame in responder.frames() if frame.kind is FrameKind.LOAD]
        assert not loads, "an answer that ends at once tells it once"
        await trio.sleep(2 * limits.BEAT_S)
        loads = [frame for frame in responder.frames() if frame.kind is FrameKind.LOAD]
        assert len(loads) == 1
        assert loads[0].load == Load(running=1)


async def test_a_beat_on_a_connection_that_just_broke_harms_nobody(
    autojump_clock: MockClock,
) -> None:
    async with service(30.0, *WHOLE) as (peers, _, nursery):
        first, second = FakeResponder(), FakeResponder()
        for number, responder in enumerate((first, second)):
            asked = request(SERVE_PATH, ask(f"r.{number}"))
            nursery.start_soon(peers.handle, asked, responder)
        await trio.sleep(5.0)
        first.broken = True
        await trio.sleep(60.0)
        assert not first.finished or first.broken
        assert second.frames()[-1].kind is FrameKind.END


async def test_a_failure_is_the_last_frame(autojump_clock: MockClock) -> None:
    busy = Failure(FailureKind.BUSY, "all slots are taken here", 503)
    async with service(busy) as (peers, _, _):
        responder = FakeResponder()
        await peers.handle(request(SERVE_PATH, ask()), responder)  # type: ignore[arg-type]
    load, last = responder.frames()
    assert (load.kind, last.kind) == (FrameKind.LOAD, FrameKind.ERROR)
    assert last.failure is not None
    assert (last.failure.kind, last.failure.status) == (FailureKind.BUSY, 503)


@pytest.mark.parametrize(
    ("asked_s", "granted_s"),
    [
        (2.5, 2.5),
        (0.0, 0.0),
        (-1.0, 0.0),
        (float("nan"), 0.0),
        (1e300, limits.QUEUE_WAIT_MAX_S),
        (float("inf"), limits.QUEUE_WAIT_MAX_S),
    ],
)
async def test_a_request_queues_for_as_long_as_was_asked_within_reason(
    autojump_clock: MockClock, asked_s: float, granted_s: float
) -> None:
    async with service(*WHOLE) as (peers, holder, _):
        asked = request(SERVE_PATH, ask(wait_s=asked_s))
        await peers.handle(asked, FakeResponder())  # type: ignore[arg-type]
        assert [order.wait_s for order in holder.orders] == [granted_s]


@pytest.mark.parametrize(
    ("deadline_s", "ends_s"),
    [(5.0, 5.0), (0.0, 0.0), (-3.0, 0.0), (float("nan"), 0.0), (None, None), (1e300, None)],
)
async def test_a_run_ends_when_the_time_that_its_entry_has_is_over(
    autojump_clock: MockClock, deadline_s: float | None, ends_s: float | None
) -> None:
    async with service(limits.REQUEST_S + 10, *WHOLE) as (peers, _, _):
        responder, began = FakeResponder(), trio.current_time()
        await peers.handle(request(SERVE_PATH, ask(deadline_s=deadline_s)), responder)  # type: ignore[arg-type]
        took_s = trio.current_time() - began
    last = responder.frames()[-1]
    if ends_s is None:
        assert last.kind is FrameKind.END
    else:
        assert last.failure is not None
        assert (last.failure.kind, last.failure.status) == (FailureKind.DEADLINE, 504)
        assert ends_s <= took_s < ends_s + 0.5


@pytest.mark.parametrize("headers", [[], [(FORWARDED_HEADER, b"2")]])
async def test_what_is_not_marked_as_forwarded_is_refused(
    autojump_clock: MockClock, headers: list[tuple[bytes, bytes]]
) -> None:
    async with service(*WHOLE) as (peers, holder, _):
        asked, responder = request(SERVE_PATH, ask()), FakeResponder()
        asked.headers = headers
        await peers.handle(asked, responder)  # type: ignore[arg-type]
        assert (responder.status, holder.orders) == (400, [])


@pytest.mark.parametrize("who", [A, B])
async def test_only_who_asked_may_cancel(autojump_clock: MockClock, who: NodeId) -> None:
    async with service(30.0, *WHOLE) as (peers, holder, nursery):
        responder = FakeResponder()
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask()), responder)
        await trio.sleep(1.0)
        cancel = request(CANCEL_PATH, encode_cancel(CancelRequest("r.1")), who)
        answer = FakeResponder()
        await peers.handle(cancel, answer)  # type: ignore[arg-type]
        assert answer.status == 200, "it does not say which requests there are"
        await trio.sleep(1.0)
        assert bool(holder.ended) == (who == A)


async def test_what_a_removed_node_asked_for_ends(autojump_clock: MockClock) -> None:
    async with service(30.0, *WHOLE) as (peers, holder, nursery):
        for node in (A, B):
            nursery.start_soon(peers.handle, request(SERVE_PATH, ask(), node), FakeResponder())
        await trio.sleep(1.0)
        peers.cut(A, "it was removed")
        await trio.sleep(1.0)
        assert holder.ended == ["it was removed"]


async def test_a_stop_is_told_as_one_so_that_others_are_asked(autojump_clock: MockClock) -> None:
    async with service(30.0, *WHOLE) as (peers, _, nursery):
        responder = FakeResponder()
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask()), responder)
        await trio.sleep(1.0)
        peers.stop()
        await peers.in_flight.until_none()
    last = responder.frames()[-1]
    assert last.failure is not None
    assert last.failure.kind == FailureKind.DRAINING


async def test_one_attempt_runs_once(autojump_clock: MockClock) -> None:
    async with service(30.0, *WHOLE) as (peers, _, nursery):
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask()), FakeResponder())
        await trio.sleep(1.0)
        again, of_another = FakeResponder(), FakeResponder()
        await peers.handle(request(SERVE_PATH, ask()), again)  # type: ignore[arg-type]
        assert again.status == 409
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask(), B), of_another)
        await trio.sleep(1.0)
        assert of_another.status == 200, "ids are each node's own"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", SERVE_PATH, b"", 405),
        ("POST", "/mesh/v1/nothing", b"", 404),
        ("POST", SERVE_PATH, b"\xc1 garbage", 400),
        ("POST", SERVE_PATH, ask("r" * 200), 400),
        ("POST", CANCEL_PATH, b"", 400),
    ],
)
async def test_what_is_not_understood_is_refused(
    autojump_clock: MockClock, method: str, path: str, body: bytes, status: int
) -> None:
    async with service() as (peers, _, _):
        responder = FakeResponder()
        await peers.handle(request(path, body, method=method), responder)  # type: ignore[arg-type]
    assert responder.status == status
