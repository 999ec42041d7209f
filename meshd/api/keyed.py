"""Requests with an `Idempotency-Key` over HTTP: who gets which bytes, and when (trio shell).

The run goes on when its client goes away: whoever repeats the request gets its answer.  What the
client sees of a stream is the stream, except that its last words wait until the whole of it is the
key's answer for good.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio

from meshd.api.answering import Client
from meshd.api.dialect import Call, DialectError, HeaderPair
from meshd.api.routes import error_body
from meshd.errors import MeshdError, Refused, StreamBroken
from meshd.http import Headers, Responder, ServerRequest
from meshd.inference import Failure, FailureKind
from meshd.jobs.keyed import AnswerGone, Ended, KeyedRequests, KeyedRun, Stored, key_of
from meshd.modelnames import normalise
from meshd.record.results import Code, RecordRefused

HEADER: Final = b"idempotency-key"
_REPLAYED: Final = (b"x-meshd-replayed", b"true")
_FINAL: Final = frozenset({400, 401, 403, 404, 405, 409, 413, 415, 422})
"""Statuses that another try of the same request would have again."""

_WITHHELD: Final = Failure(
    FailureKind.BACKEND,
    "the answer could not be made the one of this Idempotency-Key: repeat the request with the "
    "same key, here or at any other node",
    503,
    retry_after_s=2.0,
)

Answering = Callable[[Client, Callable[[], None]], Awaitable[None]]
"""Answers the request to that client; the second is to be called when a stream begins to end."""


async def answer_keyed(
    requests: KeyedRequests,
    request: ServerRequest,
    scope: str,
    call: Call,
    responder: Responder,
    headers: list[HeaderPair],
    answering: Answering,
) -> None:
    """Answer a request that has a key; `headers` go with what is not an answer of an engine.

    Raises DialectError for what is refused.
    """
    try:
        text = request.header(HEADER) or b""
        key = key_of(scope or "local", text, request.method, request.path, request.body)
        accepted = await requests.accept(
            key, request.path, normalise(call.request.model), len(request.body)
        )
    except MeshdError as error:
        raise _refused(request.path, error) from error
    if isinstance(accepted, Stored):
        await _replay(accepted, call, responder, headers)
        return
    client = _KeyedClient(responder, accepted, call, request.path)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accepted.hold, nursery.cancel_scope.cancel)
            await answering(client, client.ending)
            nursery.cancel_scope.cancel()
    finally:
        await accepted.release()
    if accepted.lost:
        await _end_lost(call, request.path, responder)


async def _end_lost(call: Call, path: str, responder: Responder) -> None:
    """The run is not this entry's any more: say so in the dialect's own form, never by a cut."""
    if responder.finished or responder.disconnected:
        return
    if not responder.started:
        status, headers, body = error_body(path, _WITHHELD)
        raise DialectError(status, body, headers)
    with suppress(StreamBroken):
        await responder.finish(call.encoder.error(_WITHHELD))


async def _replay(
    stored: Stored, call: Call, responder: Responder, headers: list[HeaderPair]
) -> None:
    """The stored answer, byte for byte."""
    as_stream = call.stream and stored.status == 200
    encoder = call.encoder
    kind = encoder.content_type_stream if as_stream else encoder.content_type_whole
    all_headers = [(b"content-type", kind), _REPLAYED, *headers]
    if as_stream:
        await responder.start(stored.status, all_headers, stored.body)
        await responder.finish()
    else:
        await responder.send(stored.status, all_headers, stored.body)


class _KeyedClient:
    """Stands before the client's connection: keeps what is said, and withholds the last of it."""

    def __init__(self, client: Responder, run: KeyedRun, call: Call, path: str) -> None:
        self._client = client
        self._run = run
        self._call = call
        self._path = path
        self._said = bytearray()
        self._withheld = bytearray()
        self._is_ending = False
        self.on_disconnect: Callable[[], None] | None = None
        """Never called: the run goes on."""

    @property
    def started(self) -> bool:
        return self._client.started

    @property
    def finished(self) -> bool:
        return self._client.finished

    @property
    def disconnected(self) -> bool:
        return False

    def ending(self) -> None:
        """What comes now says that the answer is whole."""
        self._is_ending = True

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        if status == 200:
            if await self._run.seal(status, body):
                await self._pass(self._client.send(status, headers, body))
            else:
                await self._pass(self._client.send(*error_body(self._path, _WITHHELD)))
            return
        await self._run.give_up(status, f"status {status}", body, final=status in _FINAL)
        await self._pass(self._client.send(status, headers, body))

    async def start(self, status: int, headers: Headers, data: bytes = b"") -> None:
        self._said += data
        await self._pass(self._client.start(status, headers, self._let_out(data)))

    def start_nowait(self, status: int, headers: Headers, data: bytes = b"") -> bool:
        """Only to say nothing: what begins the stream is kept, what says nothing is not."""
        try:
            began = self._client.start_nowait(status, headers, data)
        except StreamBroken:
            return False
        if began:
            self._said += self._call.encoder.start()
        return began

    async def write(self, data: bytes) -> None:
        self._said += data
        if out := self._let_out(data):
            await self._pass(self._client.write(out))

    def write_nowait(self, data: bytes) -> bool:
        """Only to say nothing."""
        try:
            return self._client.write_nowait(data)
        except StreamBroken:
            return True

    async def finish(self, data: bytes = b"") -> None:
        self._said += data
        if not self._is_ending:  # an error, in the dialect's own form
            await self._run.give_up(502, "the stream broke off", b"", final=False)
            await self._pass(self._client.finish(data))
        elif await self._run.seal(200, bytes(self._said)):
            await self._pass(self._client.finish(bytes(self._withheld) + data))
        else:
            await self._pass(self._client.finish(self._call.encoder.error(_WITHHELD)))

    def _let_out(self, data: bytes) -> bytes:
        if not self._is_ending:
            return data
        self._withheld += data
        return b""

    @staticmethod
    async def _pass(sending: Awaitable[None]) -> None:
        """To the client, if it is still there."""
        try:
            await sending
        except StreamBroken:
            await trio.lowlevel.checkpoint()


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
