"""Clients that are told what a run says that another request began, wherever it is (trio shell)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs

import trio

from meshd import limits, logs
from meshd.api.dialect import AnswerEncoder, DialectError, HeaderPair
from meshd.api.listening import REPLAYED, Delivery, GivenUp
from meshd.api.places import HEADER, BeyondTheEnd, OtherWords, Place, Rest, read_place
from meshd.api.routes import error_body
from meshd.errors import MeshdError, Refused
from meshd.http import Responder, ServerRequest
from meshd.inference import Failure, FailureKind
from meshd.jobs.answers import AnswerAway, AnswerGone, Ended, Stored
from meshd.jobs.keyed import KeyedRequests, Running
from meshd.jobs.said import NotHeard, Whole
from meshd.record.job_rows import job_name
from meshd.record.results import Code, RecordRefused
from meshd.relay.in_flight import InFlight

log = logs.get("jobs")

WITHHELD: Final = Failure(
    FailureKind.BACKEND,
    "the answer could not be made the one of this Idempotency-Key: repeat the request with the "
    "same key, here or at any other node",
    503,
    retry_after_s=2.0,
)
STOPPED: Final = Failure(
    FailureKind.DRAINING,
    "this node was stopped: repeat the request with the same key at another node",
    503,
    retry_after_s=2.0,
)
_NO_STREAM: Final = "this answer is no stream: there is no place in it to go on from"


@dataclass(frozen=True, slots=True)
class Asking:
    """A client that wants to hear an answer, and how it is to be told."""

    responder: Responder
    encoder: AnswerEncoder
    """Of the dialect; it writes nothing of the answer."""
    path: str
    """Of the request that was first asked: its dialect is the answer's."""
    headers: list[HeaderPair]
    place: Place = field(default_factory=Place)
    """What it has of the answer already."""

    def rest(self) -> Rest:
        """What a stream has beyond that."""
        return Rest(self.place, events=self.path.startswith("/v1/"))


class Followers:
    """Those at this node who are told what runs say."""

    def __init__(self, requests: KeyedRequests) -> None:
        self._requests = requests
        self._attached: dict[Delivery, None] = {}
        self._looking: dict[trio.CancelScope, None] = {}
        """Around what may take long and tells nothing: the record is asked, or other nodes are."""
        self._stopped = False
        self.in_flight = InFlight()
        """Clients who are told what is kept for them; the forwarder's has the runs."""

    def stop(self) -> None:
        """This node ends: those who wait are told so, in their dialect."""
        self._stopped = True
        for scope in self._looking:
            scope.cancel()
        for delivery in self._attached:
            delivery.give_up()

    def serve_again(self) -> None:
        """It does not end after all."""
        self._stopped = False

    @contextmanager
    def until_stopped(self, path: str) -> Iterator[None]:
        """Around what may take long and tells nothing.

        Raises DialectError if this node is stopped meanwhile, in the dialect of that path.
        """
        with self.in_flight, trio.CancelScope() as scope:
            self._looking[scope] = None
            if self._stopped:
                scope.cancel()
            try:
                yield
            finally:
                del self._looking[scope]
        if scope.cancelled_caught:
            raise _stopped(path)

    async def check(self, job: int, place: Place) -> None:
        """Whether a number alone says what a client has of that job's answer.

        Raises OtherWords if it was run more than once: then only the event's whole id tells.
        """
        if place.count and not place.check and not await self._requests.answers.ran_once(job):
            raise OtherWords(
                f"{job_name(job)} was run more than once, so a number of events does not say which "
                "words were read: say the id of the last event (as in 17-3fa9c1d2), or ask for the "
                "answer from its start"
            )

    async def attach(self, running: Running, asking: Asking, *, may_end: bool = False) -> bool:
        """Tell what that run says.  False: it is over, and nothing was told of it.

        One that does not stream says nothing before its end, and then the record has it.
        `may_end`: the client may have it run anew, so the claim of a node that is gone is ended.
        Raises DialectError, StreamBroken.
        """
        with self._delivery(running.job, asking) as delivery:
            try:
                with delivery.waiting():
                    await self.check(running.job, asking.place)
                return await self._follow(running, delivery, asking.place, may_end)
            except GivenUp:
                return await _given_up(asking, delivery)
            except (OtherWords, BeyondTheEnd) as error:
                if not delivery.begun:
                    raise refused(asking.path, error) from error
                await delivery.fail(WITHHELD)
                return True

    async def wait(self, changed: trio.Event, job: int, asking: Asking) -> bool:
        """Until that is set.  False: the client went away.

        Raises DialectError if this node ends before.
        """
        with self._delivery(job, asking) as delivery:
            try:
                with delivery.waiting():
                    await changed.wait()
            except GivenUp:
                return not await _given_up(asking, delivery)
            return True

    @contextmanager
    def _delivery(self, job: int, asking: Asking) -> Iterator[Delivery]:
        """To that client, until it goes away or this node ends."""
        responder = asking.responder
        kind = (b"content-type", asking.encoder.content_type_stream)
        headers = [kind, REPLAYED, job_header(job), *asking.headers]
        delivery = Delivery(responder, asking.encoder, lambda: headers, rest=asking.rest())
        responder.on_disconnect = delivery.give_up
        self._attached[delivery] = None
        if self._stopped:
            delivery.give_up()
        try:
            with self.in_flight:
                yield delivery
        finally:
            responder.on_disconnect = None
            del self._attached[delivery]

    async def _follow(
        self, running: Running, delivery: Delivery, place: Place, may_end: bool
    ) -> bool:
        requests, tries, gone_at = self._requests, 0, math.inf
        heard: int | None = None
        while (now := requests.run_of(running.job)) is not None:
            if now.fence != heard or delivery.comparing:
                # Another node goes on with it, if it begins with what was told.
                if heard is not None:
                    with delivery.waiting():
                        await self.check(running.job, place)
                heard, gone_at = now.fence, math.inf
                delivery.begin_again()
            had_bytes = delivery.heard_bytes
            try:
                async with AsyncExitStack() as listening:
                    with delivery.waiting():
                        listener = await listening.enter_async_context(
                            requests.listen(now, had_bytes)
                        )
                    end = await delivery.hear(listener)
            except NotHeard as error:
                log.info("a run is not heard", job=job_name(now.job), why=str(error))
            else:
                if delivery.begun or isinstance(end, Whole):
                    await delivery.tell(end)
                    return True
                return False
            tries = 1 if delivery.heard_bytes > had_bytes else tries + 1
            if may_end and requests.is_gone(now.node):
                gone_at = min(gone_at, trio.current_time())
                if trio.current_time() >= gone_at + limits.GONE_WAIT_S:
                    with delivery.waiting():
                        await requests.end_for(now)
            pause_s = limits.SAID_PAUSE_S[min(tries, len(limits.SAID_PAUSE_S)) - 1]
            with delivery.waiting():
                await requests.until_over(now, pause_s)
        if not delivery.begun:
            return False
        # Another run says something else, unless it was this one, and its entry is only away.
        with delivery.waiting():
            stored = await requests.answer_of(running)
        if stored is None or not await delivery.go_on_with(stored.body):
            await delivery.fail(WITHHELD)
        return True


def place_of(request: ServerRequest) -> Place:
    """What a client says that it has: `Last-Event-ID`, or `from=` in the query.  Raises Refused."""
    header = request.header(HEADER)
    asked = parse_qs(request.query, keep_blank_values=True).get("from")
    if header is None and asked is None:
        return Place()
    if header is None or asked is None:
        return read_place(header.decode("latin-1") if header is not None else (asked or [""])[-1])
    raise Refused("say Last-Event-ID or from=, not both: one might mean another place")


async def replay(stored: Stored, asking: Asking, *, streamed: bool) -> None:
    """Tell a stored answer, from the client's place on.  Raises DialectError, StreamBroken."""
    responder, encoder, body = asking.responder, asking.encoder, stored.body
    streamed = streamed and stored.status == 200
    kind = encoder.content_type_stream if streamed else encoder.content_type_whole
    headers = [(b"content-type", kind), REPLAYED, job_header(stored.job), *asking.headers]
    if not streamed:
        if asking.place.count:
            raise refused(asking.path, Refused(_NO_STREAM))
        await responder.send(stored.status, headers, body)
        return
    rest = asking.rest()
    try:
        body = rest.feed(body)
        rest.close()
    except (OtherWords, BeyondTheEnd) as error:
        raise refused(asking.path, error) from error
    await responder.start(stored.status, headers, body)
    await responder.finish()


def job_header(job: int) -> HeaderPair:
    """By which a client can ask for the answer again."""
    return (b"x-meshd-job", job_name(job).encode())


async def _given_up(asking: Asking, delivery: Delivery) -> bool:
    """The client went away, or this node ends, which is told: in the stream, or by a status.

    Raises DialectError.
    """
    if asking.responder.disconnected:
        return True
    if not delivery.begun:
        raise _stopped(asking.path)
    await delivery.fail(STOPPED)
    return True


def _stopped(path: str) -> DialectError:
    status, headers, body = error_body(path, STOPPED)
    return DialectError(status, body, headers)


def refused(path: str, error: MeshdError) -> DialectError:
    """What an error of a keyed request is in the dialect of its path."""
    match error:
        case RecordRefused(code=Code.KEY_REUSED):
            failure = Failure(FailureKind.BAD_REQUEST, str(error), 422)
        case RecordRefused(code=Code.TOO_MANY_KEYS | Code.TOO_MANY_JOBS):
            failure = Failure(FailureKind.BUSY, str(error), 429, retry_after_s=60.0)
        case Ended() | AnswerGone() | OtherWords():
            failure = Failure(FailureKind.BAD_REQUEST, str(error), 409)
        case Refused():
            failure = Failure(FailureKind.BAD_REQUEST, str(error), 400)
        case AnswerAway():
            text = f"{error}: repeat the request with the same key"
            failure = Failure(FailureKind.UNREACHABLE, text, 503, retry_after_s=2.0)
        case _:
            text = f"{error} Nothing ran; repeat the request with the same key."
            failure = Failure(FailureKind.UNREACHABLE, text, 503, retry_after_s=2.0)
    status, headers, body = error_body(path, failure)
    return DialectError(status, body, headers)
