"""One streamed exchange with an engine: request out, events in, ended by whoever must (trio shell).

Nothing here waits under a cancel scope: deadlines belong to the relay, which ends a run through
its `RunControl`.  The one exception is the tail: once the answer is complete, what may still come
(token counts, `[DONE]`, the end of the body, after which the connection serves again) is waited
for only briefly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import trio

from meshd import limits
from meshd.backends.control import BackendFailed, Emit, RunControl, failed
from meshd.backends.failures import failure_of
from meshd.errors import LimitExceeded, MeshdError, StreamBroken
from meshd.http import ClientResponse, HttpClient, Sweeper
from meshd.inference import Delta, Failure, FailureKind, Usage
from meshd.wire.serve import FORWARDED_HEADER

Headers = Sequence[tuple[bytes, bytes]]


class AnswerStream(Protocol):
    """A decoder of one dialect (`OpenAIStream`, `OllamaStream`)."""

    @property
    def complete(self) -> bool: ...

    @property
    def over(self) -> bool: ...

    @property
    def failure(self) -> Failure | None: ...

    def feed(self, data: bytes) -> list[Delta | Usage]: ...

    def end(self) -> list[Delta | Usage]: ...

    def whole(self, data: bytes) -> list[Delta | Usage]:
        """Of an engine that answers with one body, whatever it was asked for."""
        ...


class _Whole:
    """Keeps a body that is no stream until its end, then hands it to the decoder as one."""

    def __init__(self, decoder: AnswerStream) -> None:
        self._decoder = decoder
        self._body = bytearray()

    @property
    def complete(self) -> bool:
        return self._decoder.complete

    @property
    def over(self) -> bool:
        return self._decoder.over

    @property
    def failure(self) -> Failure | None:
        return self._decoder.failure

    def feed(self, data: bytes) -> list[Delta | Usage]:
        self._body += data
        if len(self._body) > limits.ENGINE_BODY_BYTES:
            raise LimitExceeded(f"the engine's answer is over {limits.ENGINE_BODY_BYTES} bytes")
        return []

    def end(self) -> list[Delta | Usage]:
        return self._decoder.whole(bytes(self._body))

    def whole(self, data: bytes) -> list[Delta | Usage]:
        return self._decoder.whole(data)


class EngineHttp:
    """The HTTP side of one engine: its pool, its headers, the sweeper."""

    def __init__(
        self, client: HttpClient, sweeper: Sweeper, headers: Headers = (), *, prefix: str = ""
    ) -> None:
        """`prefix` comes before every path: where an engine sits below one."""
        self.client = client
        self._sweeper = sweeper
        self._prefix = prefix
        self._headers = tuple(headers)
        # Should this be a meshd behind something that hides it, it refuses what is forwarded.
        self._posting = (
            *self._headers,
            (b"content-type", b"application/json"),
            (FORWARDED_HEADER, b"1"),
        )
        self._streaming = (*self._posting, (b"accept", b"text/event-stream, application/x-ndjson"))

    async def stream(
        self, path: str, body: bytes, decoder: AnswerStream, emit: Emit, control: RunControl
    ) -> None:
        """POST, and pass on what comes until the answer is complete.  Raises as `Backend.run`."""
        clock = _Clock(trio.current_time())
        response: ClientResponse | None = None
        try:
            response = await self.client.request(
                "POST", self._prefix + path, self._streaming, body, on_stream=control.attach
            )
            if response.status != 200:
                raise BackendFailed(await _read_failure(response))
            if _is_json(response):
                decoder = _Whole(decoder)
            await self._pump(response, decoder, emit, clock)
        finally:
            control.detach()
            if response is not None:
                await response.aclose()

    async def _pump(
        self, response: ClientResponse, decoder: AnswerStream, emit: Emit, clock: _Clock
    ) -> None:
        tail = None
        try:
            while True:
                data = await response.read_some()
                events = decoder.feed(data) if data else decoder.end()
                if tail is not None:
                    tail.at = math.inf  # a client that reads slowly is not the engine's fault
                if events:
                    await emit(clock.timed(events))
                if decoder.failure is not None:
                    raise BackendFailed(decoder.failure)
                if not data:
                    break
                if decoder.over and not decoder.complete:
                    break
                if decoder.complete:
                    if tail is None:
                        tail = self._sweeper.watch(lambda: response.abort("nothing more came"))
                    wait_s = limits.ENGINE_CLOSE_S if decoder.over else limits.ENGINE_TAIL_S
                    tail.at = trio.current_time() + wait_s
        except StreamBroken:
            if not decoder.complete:
                raise
        finally:
            if tail is not None:
                self._sweeper.unwatch(tail)
        if not decoder.complete:
            raise failed(
                FailureKind.BROKEN, "the engine ended its answer before it was finished", 502
            )

    async def post(self, path: str, body: bytes, control: RunControl) -> bytes:
        """POST and read the whole answer.  Raises as `Backend.run`."""
        response: ClientResponse | None = None
        try:
            response = await self.client.request(
                "POST", self._prefix + path, self._posting, body, on_stream=control.attach
            )
            if response.status != 200:
                raise BackendFailed(await _read_failure(response))
            return await response.read(limits.ENGINE_BODY_BYTES)
        finally:
            control.detach()
            if response is not None:
                await response.aclose()

    async def ask(
        self, method: str, path: str, body: bytes = b"", control: RunControl | None = None
    ) -> Answer:
        """A small request about the engine itself.

        It has `limits.PROBE_TIMEOUT_S`; or, with the `control` of a run that needs to know, as long
        as that run has: the engine may have to load the model first.

        Raises StreamBroken (also when it takes too long), DialFailed, ProtocolError.
        """
        own, watch = control or RunControl(), None
        if control is None:
            watch = self._sweeper.watch(
                lambda: own.abort(f"no answer within {limits.PROBE_TIMEOUT_S:.0f} s"),
                trio.current_time() + limits.PROBE_TIMEOUT_S,
            )
        response: ClientResponse | None = None
        try:
            headers = self._posting if method == "POST" else self._headers
            response = await self.client.request(
                method, self._prefix + path, headers, body, on_stream=own.attach
            )
            return Answer(
                response.status,
                await response.read(limits.ENGINE_BODY_BYTES),
                response.header(b"x-meshd-node"),
            )
        finally:
            own.detach()
            if watch is not None:
                self._sweeper.unwatch(watch)
            if response is not None:
                await response.aclose()

    async def answers(self, path: str) -> bool:
        """Whether anything at all answers a GET, within the deadline of `ask`."""
        try:
            await self.ask("GET", path)
        except MeshdError:
            return False
        return True


class Answer:
    """The whole answer to a small request."""

    __slots__ = ("body", "meshd_node", "status")

    def __init__(self, status: int, body: bytes, meshd_node: bytes | None) -> None:
        self.status = status
        self.body = body
        self.meshd_node = meshd_node
        """The header by which a meshd shows itself."""

    @property
    def ok(self) -> bool:
        return self.status == 200


class _Clock:
    """Fills in the times that an engine does not tell, from what was seen here."""

    __slots__ = ("_first_at", "_started_at")

    def __init__(self, started_at: float) -> None:
        self._started_at = started_at
        self._first_at = 0.0

    def timed(self, events: list[Delta | Usage]) -> list[Delta | Usage]:
        if not self._first_at:
            self._first_at = trio.current_time()
        last = events[-1]
        if isinstance(last, Usage) and not last.total_ns:
            now = trio.current_time()
            events[-1] = Usage(
                last.prompt_tokens,
                last.completion_tokens,
                total_ns=_ns(now - self._started_at),
                load_ns=last.load_ns,
                prompt_ns=last.prompt_ns or _ns(self._first_at - self._started_at),
                completion_ns=last.completion_ns or _ns(now - self._first_at),
            )
        return events


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _is_json(response: ClientResponse) -> bool:
    """Whether the body is one object and no stream of events or lines."""
    return (response.header(b"content-type") or b"").startswith(b"application/json")


async def _read_failure(response: ClientResponse) -> Failure:
    try:
        body = await response.read(limits.ENGINE_ERROR_BYTES)
    except (LimitExceeded, StreamBroken):
        body = b""  # the status alone says that it failed
    return failure_of(response.status, body, retry_after=response.header(b"retry-after"))
