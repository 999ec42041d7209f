"""Requests with an `Idempotency-Key` over HTTP: who gets which bytes, and when (trio shell).

A run says what it says into `jobs.said`, and goes on when its client goes away; its client, and
whoever sends the same request again, at this node or another one, listens there.  What they hear of
a stream is the stream, except that its last words wait until the whole is the key's answer for
good.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

from meshd.api.answered import Ending, attempts_of
from meshd.api.answering import Client
from meshd.api.dialect import Call, HeaderPair
from meshd.api.following import (
    WITHHELD,
    Asking,
    Followers,
    job_header,
    place_of,
    refused,
    replay,
)
from meshd.api.listening import Delivery
from meshd.api.places import BeyondTheEnd, Numbering, OtherWords
from meshd.api.routes import error_body
from meshd.backends.control import failed
from meshd.errors import MeshdError, Refused, StreamBroken
from meshd.http import Headers, Responder, ServerRequest
from meshd.inference import Failure, FailureKind
from meshd.jobs.answers import Stored
from meshd.jobs.finished import Attempt
from meshd.jobs.keyed import Key, KeyedRequests, Running, key_of
from meshd.jobs.keyed_run import KeyedRun
from meshd.jobs.said import Answer, Broken, Listener, TooMuchSaid, Whole
from meshd.modelnames import normalise
from meshd.relay.runs import Run
from meshd.wire.serve import KeyedClaim

HEADER: Final = b"idempotency-key"
_FINAL: Final = frozenset({400, 401, 403, 404, 405, 409, 413, 415, 422})
"""Statuses that another try of the same request would have again."""

_CANCELLED: Final = Failure(
    FailureKind.BAD_REQUEST, "The request with this key is cancelled; use another key.", 409
)
_NOTHING_TO_GO_ON_WITH: Final = (
    "no answer with this key is known that could be gone on with: ask for it from its start, "
    "without a place"
)

Answering = Callable[[Client, Ending, KeyedClaim | None], Awaitable[object]]
"""Answers the request to that client; the second is told how, the third is the claim under which it
runs."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a run is to do."""

    call: Call
    path: str
    headers: list[HeaderPair]
    """That go with what is not an answer of an engine."""
    answering: Answering


@dataclass(frozen=True, slots=True)
class Asked:
    """One client's request."""

    request: ServerRequest
    key: Key
    call: Call
    responder: Responder
    headers: list[HeaderPair]
    """That go with what is not an answer of an engine."""
    answering: Answering

    def work(self) -> Work:
        """The same, to be run."""
        return Work(self.call, self.request.path, self.headers, self.answering)

    def asking(self) -> Asking:
        """The same, of somebody else's run.  Raises Refused for what is no place in a stream."""
        request = self.request
        encoder = self.call.encoder
        return Asking(self.responder, encoder, request.path, self.headers, place_of(request))


class KeyedApi:
    """Answers requests that have a key."""

    def __init__(self, requests: KeyedRequests) -> None:
        self._requests = requests
        self.followers = Followers(requests)
        self.in_flight = self.followers.in_flight

    def key_of(self, request: ServerRequest, scope: str) -> Key:
        """Its key; `scope` is the API key's id.  Raises DialectError for what can be none."""
        text = request.header(HEADER) or b""
        try:
            return key_of(scope or "local", text, request.method, request.path, request.body)
        except Refused as error:
            raise refused(request.path, error) from error

    def knows(self, key: Key) -> bool:
        """Whether the key was used before, as far as this node has heard."""
        return self._requests.knows(key)

    def stop(self) -> None:
        """This node ends: those who wait are told so, in their dialect."""
        self._requests.hurry()
        self.followers.stop()

    def serve_again(self) -> None:
        """It does not end after all."""
        self.followers.serve_again()

    async def answer(self, asked: Asked) -> None:
        """Run it, or tell what another run says, or the stored answer.

        Raises DialectError for what is refused, StreamBroken.
        """
        request = asked.request
        try:
            asking = asked.asking()
        except Refused as error:
            raise refused(request.path, error) from error
        while True:
            match accepted := await self._accepted(asked):
                case Stored():
                    await self._check(accepted.job, asking)
                    return await replay(accepted, asking, streamed=asked.call.stream)
                case KeyedRun():
                    with self.in_flight:
                        return await _run(accepted, asked, asking)
                case Running() if await self.followers.attach(accepted, asking, may_end=True):
                    return None

    async def go_on(self, run: KeyedRun, work: Work) -> None:
        """Run it for whoever repeats it: the node that was asked is gone."""
        with self.in_flight:
            await _work(run, work)

    async def _accepted(self, asked: Asked) -> KeyedRun | Running | Stored:
        """What the record says.  Raises DialectError, also when this node is stopped meanwhile."""
        request = asked.request
        model, size_bytes = normalise(asked.call.request.model), len(request.body)
        with self.followers.until_stopped(request.path):
            try:
                return await self._requests.accept(asked.key, request.path, model, size_bytes)
            except MeshdError as error:
                raise refused(request.path, error) from error
        raise AssertionError("a node that is stopped has said so")

    async def _check(self, job: int, asking: Asking) -> None:
        try:
            with self.followers.until_stopped(asking.path):
                await self.followers.check(job, asking.place)
        except OtherWords as error:
            raise refused(asking.path, error) from error


# -------------------------------------------------------------------- a run of this node


async def _run(run: KeyedRun, asked: Asked, asking: Asking) -> None:
    """Run it, and tell the client what it says."""
    said, place = run.said, asking.place
    if place.count and (not place.check or not asked.call.stream):
        await run.end()  # nothing ran: somebody else may have it at once
        said.close()
        raise refused(asking.path, OtherWords(_NOTHING_TO_GO_ON_WITH))
    delivery = Delivery(
        asked.responder,
        asked.call.encoder,
        lambda: said.headers,
        rest=asking.rest(),
        more=[job_header(run.job)],
    )
    with said.listen() as listener:
        if not asked.call.stream:
            await _work(run, asked.work())
            await _tell(listener, delivery, asking.path)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell, listener, delivery, asking.path)
            await _work(run, asked.work())


async def _work(run: KeyedRun, work: Work) -> None:
    """The run itself, with its lease kept."""
    speaker = _Speaker(run, work)
    claim = KeyedClaim(run.job, run.fence, work.call.form)
    try:
        with run.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.hold)
                await work.answering(speaker, speaker.ending, claim)
                nursery.cancel_scope.cancel()
    finally:
        await run.end()
        # Nothing more is told if the run came to an end of its own.
        speaker.break_off(_CANCELLED if run.cancelled else WITHHELD)
        run.said.close()


async def _tell(listener: Listener, delivery: Delivery, path: str) -> None:
    """What it says, to the client that asked for it, if that is still there."""
    with suppress(StreamBroken):
        try:
            await delivery.tell(await delivery.hear(listener))
        except (OtherWords, BeyondTheEnd) as error:  # this run is not what the client has a part of
            if delivery.begun:
                await delivery.fail(WITHHELD)
                return
            problem = refused(path, error)
            await delivery.tell(Answer(problem.status, problem.headers, problem.body))


class _Speaker:
    """Stands where a client would: keeps what the run says, and withholds the last of it."""

    def __init__(self, run: KeyedRun, work: Work) -> None:
        self._run = run
        self._said = run.said
        self._encoder = work.call.encoder
        self._path = work.path
        self._headers = work.headers
        self._is_ending = False
        self._is_answering = False
        """Whether the whole of it is here: a sign of life that begins a stream comes too late."""
        self._attempts: tuple[Attempt, ...] = ()
        self._numbering = Numbering() if self._path.startswith("/v1/") else None
        self.on_disconnect: Callable[[], None] | None = None
        """Never called: the run goes on."""

    @property
    def started(self) -> bool:
        return self._said.begun

    @property
    def finished(self) -> bool:
        return self._is_answering or self._said.end is not None

    @property
    def disconnected(self) -> bool:
        return False

    def ending(self, runs: Sequence[Run]) -> None:
        """What comes now says that the answer is whole."""
        self._attempts = attempts_of(runs)
        self._is_ending = True
        self._said.hold_back()

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        self._is_answering = True
        if status != 200:
            await self._run.give_up(status, f"status {status}", body, final=status in _FINAL)
        elif not await self._run.seal(status, body, self._attempts):
            self.break_off(WITHHELD)
        self._said.finish(Answer(status, headers, body))

    async def start(self, status: int, headers: Headers, data: bytes = b"") -> None:
        self._said.begin(headers)
        self._add(data)
        await trio.lowlevel.checkpoint()

    def start_nowait(self, status: int, headers: Headers, data: bytes = b"") -> bool:
        """Only to say nothing: what begins the stream is kept, what says nothing is not."""
        self._said.begin(headers)
        self._add(self._encoder.start())
        self._said.quiet()
        return True

    async def write(self, data: bytes) -> None:
        self._add(data)
        await trio.lowlevel.checkpoint()

    def write_nowait(self, data: bytes) -> bool:
        """Only to say nothing."""
        self._said.quiet()
        return True

    async def finish(self, data: bytes = b"") -> None:
        if not self._is_ending:  # an error, in the dialect's own form
            await self._run.give_up(502, "the stream broke off", b"", final=False)
            self._said.finish(Broken(data))
            return
        try:
            self._said.add(self._numbered(data))
        except TooMuchSaid:
            self.break_off(WITHHELD)
            return
        if await self._run.seal(200, self._said.all, self._attempts):
            self._said.finish(Whole())
        else:
            self.break_off(WITHHELD)

    def break_off(self, failure: Failure) -> None:
        """End it with this, unless it has ended."""
        if self._said.begun:
            self._said.finish(Broken(self._encoder.error(failure)))
            return
        status, headers, body = error_body(self._path, failure)
        self._said.finish(Answer(status, [*headers, *self._headers], body))

    def _numbered(self, data: bytes) -> bytes:
        """With the ids by which a client can say how much of it it has, where there are such."""
        return data if self._numbering is None else self._numbering.add(data)

    def _add(self, data: bytes) -> None:
        try:
            self._said.add(self._numbered(data))
        except TooMuchSaid as error:
            raise failed(
                FailureKind.NO_ROOM,
                f"{error}: ask for less, or without an Idempotency-Key",
                503,
                retry_after_s=2.0,
            ) from error
