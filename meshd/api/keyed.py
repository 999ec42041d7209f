"""Requests with an `Idempotency-Key` over HTTP: who gets which bytes, and when (trio shell).

A run says what it says into `jobs.said`, and goes on when its client goes away; its client, and
whoever sends the same request again, at this node or another one, listens there.  What they hear of
a stream is the stream, except that its last words wait until the whole is the key's answer for
good.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

from meshd import limits, logs
from meshd.api.answering import Client
from meshd.api.dialect import Call, DialectError, HeaderPair
from meshd.api.listening import REPLAYED, Delivery, GivenUp
from meshd.api.routes import error_body
from meshd.backends.control import failed
from meshd.errors import MeshdError, Refused, StreamBroken
from meshd.http import Headers, Responder, ServerRequest
from meshd.inference import Failure, FailureKind
from meshd.jobs.keyed import AnswerGone, Ended, Key, KeyedRequests, Running, Stored, key_of
from meshd.jobs.keyed_run import KeyedRun
from meshd.jobs.said import Answer, Broken, Listener, NotHeard, TooMuchSaid, Whole
from meshd.modelnames import normalise
from meshd.record.job_rows import job_name
from meshd.record.results import Code, RecordRefused
from meshd.relay.in_flight import InFlight

log = logs.get("jobs")

HEADER: Final = b"idempotency-key"
_FINAL: Final = frozenset({400, 401, 403, 404, 405, 409, 413, 415, 422})
"""Statuses that another try of the same request would have again."""

_WITHHELD: Final = Failure(
    FailureKind.BACKEND,
    "the answer could not be made the one of this Idempotency-Key: repeat the request with the "
    "same key, here or at any other node",
    503,
    retry_after_s=2.0,
)
_CANCELLED: Final = Failure(
    FailureKind.BAD_REQUEST, "The request with this key is cancelled; use another key.", 409
)
_STOPPED: Final = Failure(
    FailureKind.DRAINING,
    "this node was stopped: repeat the request with the same key at another node",
    503,
    retry_after_s=2.0,
)

Answering = Callable[[Client, Callable[[], None]], Awaitable[object]]
"""Answers the request to that client; the second is to be called when a stream begins to end."""


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


class KeyedApi:
    """Answers requests that have a key."""

    def __init__(self, requests: KeyedRequests) -> None:
        self._requests = requests
        self._attached: dict[Delivery, None] = {}
        self._stopped = False
        self.in_flight = InFlight()
        """Clients who are told what is kept for them; the forwarder's has the runs."""

    def key_of(self, request: ServerRequest, scope: str) -> Key:
        """Its key; `scope` is the API key's id.  Raises DialectError for what can be none."""
        text = request.header(HEADER) or b""
        try:
            return key_of(scope or "local", text, request.method, request.path, request.body)
        except Refused as error:
            raise _refused(request.path, error) from error

    def knows(self, key: Key) -> bool:
        """Whether the key was used before, as far as this node has heard."""
        return self._requests.knows(key)

    def stop(self) -> None:
        """This node ends: those who wait are told so, in their dialect."""
        self._stopped = True
        for delivery in self._attached:
            delivery.give_up()

    async def answer(self, asked: Asked) -> None:
        """Run it, or tell what another run says, or the stored answer.

        Raises DialectError for what is refused, StreamBroken.
        """
        request = asked.request
        model, size_bytes = normalise(asked.call.request.model), len(request.body)
        while True:
            try:
                accepted = await self._requests.accept(asked.key, request.path, model, size_bytes)
            except MeshdError as error:
                raise _refused(request.path, error) from error
            match accepted:
                case Stored():
                    return await _replay(accepted, asked)
                case KeyedRun():
                    with self.in_flight:
                        return await _run(accepted, asked)
                case Running() if await self._attach(accepted, asked):
                    return None

    # ---------------------------------------------------------------- another one's run

    async def _attach(self, running: Running, asked: Asked) -> bool:
        """Tell what that run says.  False: it is over, and nothing was told of it.

        One that does not stream says nothing before its end, and then the record has it.
        """
        responder, encoder = asked.responder, asked.call.encoder
        kind = (b"content-type", encoder.content_type_stream)
        delivery = Delivery(responder, encoder, lambda: [kind, REPLAYED, *asked.headers])
        responder.on_disconnect = delivery.give_up
        self._attached[delivery] = None
        if self._stopped:
            delivery.give_up()
        try:
            with self.in_flight:
                return await self._follow(running, asked.key, delivery)
        except GivenUp:
            if responder.disconnected:
                return True
            await _fail(_STOPPED, asked.request.path, delivery)
            return True
        finally:
            responder.on_disconnect = None
            del self._attached[delivery]

    async def _follow(self, running: Running, key: Key, delivery: Delivery) -> bool:
        requests, tries = self._requests, 0
        while requests.is_live(running):
            had_bytes = delivery.size_bytes
            try:
                async with requests.listen(running, had_bytes) as listener:
                    end = await delivery.hear(listener)
            except NotHeard as error:
                log.info("a run is not heard", job=job_name(running.job), why=str(error))
                tries = 1 if delivery.size_bytes > had_bytes else tries + 1
                pause_s = limits.SAID_PAUSE_S[min(tries, len(limits.SAID_PAUSE_S)) - 1]
                with delivery.waiting():
                    await requests.until_over(running, pause_s)
                continue
            if delivery.begun or isinstance(end, Whole):
                await delivery.tell(end)
                return True
            return False
        if not delivery.begun:
            return False
        # Another run says something else, unless it was this one, and its entry is only away.
        stored = await requests.answer_of(key)
        if stored is None or not await delivery.go_on_with(stored.body):
            await delivery.fail(_WITHHELD)
        return True


async def _fail(failure: Failure, path: str, delivery: Delivery) -> None:
    """Tell it in the stream; if that has not begun, raise DialectError."""
    if delivery.begun:
        await delivery.fail(failure)
        return
    status, headers, body = error_body(path, failure)
    raise DialectError(status, body, headers)


async def _replay(stored: Stored, asked: Asked) -> None:
    """The stored answer, byte for byte."""
    call, responder = asked.call, asked.responder
    as_stream = call.stream and stored.status == 200
    encoder = call.encoder
    kind = encoder.content_type_stream if as_stream else encoder.content_type_whole
    headers = [(b"content-type", kind), REPLAYED, *asked.headers]
    if as_stream:
        await responder.start(stored.status, headers, stored.body)
        await responder.finish()
    else:
        await responder.send(stored.status, headers, stored.body)


# -------------------------------------------------------------------- a run of this node


async def _run(run: KeyedRun, asked: Asked) -> None:
    """Run it, and tell the client what it says."""
    said = run.said
    delivery = Delivery(asked.responder, asked.call.encoder, lambda: said.headers)
    with said.listen() as listener:
        if not asked.call.stream:
            await _work(run, asked)
            await _tell(listener, delivery)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell, listener, delivery)
            await _work(run, asked)


async def _work(run: KeyedRun, asked: Asked) -> None:
    """The run itself, with its lease kept."""
    speaker = _Speaker(run, asked)
    try:
        with run.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.hold)
                await asked.answering(speaker, speaker.ending)
                nursery.cancel_scope.cancel()
    finally:
        await run.end()
        # Nothing more is told if the run came to an end of its own.
        speaker.break_off(_CANCELLED if run.cancelled else _WITHHELD)
        run.said.close()


async def _tell(listener: Listener, delivery: Delivery) -> None:
    """What it says, to the client that asked for it, if that is still there."""
    with suppress(StreamBroken):
        await delivery.tell(await delivery.hear(listener))


class _Speaker:
    """Stands where a client would: keeps what the run says, and withholds the last of it."""

    def __init__(self, run: KeyedRun, asked: Asked) -> None:
        self._run = run
        self._said = run.said
        self._encoder = asked.call.encoder
        self._path = asked.request.path
        self._headers = asked.headers
        self._is_ending = False
        self.on_disconnect: Callable[[], None] | None = None
        """Never called: the run goes on."""

    @property
    def started(self) -> bool:
        return self._said.begun

    @property
    def finished(self) -> bool:
        return self._said.end is not None

    @property
    def disconnected(self) -> bool:
        return False

    def ending(self) -> None:
        """What comes now says that the answer is whole."""
        self._is_ending = True
        self._said.hold_back()

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        if status != 200:
            await self._run.give_up(status, f"status {status}", body, final=status in _FINAL)
        elif not await self._run.seal(status, body):
            self.break_off(_WITHHELD)
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
            self._said.add(data)
        except TooMuchSaid:
            self.break_off(_WITHHELD)
            return
        if await self._run.seal(200, self._said.all):
            self._said.finish(Whole())
        else:
            self.break_off(_WITHHELD)

    def break_off(self, failure: Failure) -> None:
        """End it with this, unless it has ended."""
        if self._said.begun:
            self._said.finish(Broken(self._encoder.error(failure)))
            return
        status, headers, body = error_body(self._path, failure)
        self._said.finish(Answer(status, [*headers, *self._headers], body))

    def _add(self, data: bytes) -> None:
        try:
            self._said.add(data)
        except TooMuchSaid as error:
            raise failed(
                FailureKind.NO_ROOM,
                f"{error}: ask for less, or without an Idempotency-Key",
                503,
                retry_after_s=2.0,
            ) from error


def _refused(path: str, error: MeshdError) -> DialectError:
    match error:
        case RecordRefused(code=Code.KEY_REUSED):
            failure = Failure(FailureKind.BAD_REQUEST, str(error), 422)
        case RecordRefused(code=Code.TOO_MANY_KEYS | Code.TOO_MANY_JOBS):
            failure = Failure(FailureKind.BUSY, str(error), 429, retry_after_s=60.0)
        case Ended() | AnswerGone():
            failure = Failure(FailureKind.BAD_REQUEST, str(error), 409)
        case Refused():
            failure = Failure(FailureKind.BAD_REQUEST, str(error), 400)
        case _:
            text = f"{error} Nothing ran; repeat the request with the same key."
            failure = Failure(FailureKind.UNREACHABLE, text, 503, retry_after_s=2.0)
    status, headers, body = error_body(path, failure)
    return DialectError(status, body, headers)
