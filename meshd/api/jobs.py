"""The queue over HTTP: `/mesh/v1/jobs` and `/mesh/v1/queues` (trio shell over `jobs.service`).

    POST   /mesh/v1/jobs                     put one in
    GET    /mesh/v1/jobs?state=&queue=&model=&node=&after=&limit=
    GET    /mesh/v1/jobs/{id}                with ?read=linear: not older than this request
    GET    /mesh/v1/jobs/{id}/stream         the answer, as it comes or as it was; ?from=PLACE
    GET    /mesh/v1/jobs/{id}/events         as it changes, till it is over (SSE), or `event: error`
    DELETE /mesh/v1/jobs/{id}                cancel it
    POST   /mesh/v1/jobs/{id}/retry          a dead one, once more
    POST   /mesh/v1/queues/{queue}/claim     for a worker: the next one, or wait for it
    POST   /mesh/v1/queues/{queue}/renew | complete | fail | release
    GET    /mesh/v1/requests?state=&model=&node=&after=&limit=      answered without a job
    GET    /mesh/v1/requests/{x-request-id}

Every answer says in `x-meshd-index` how much of the record it rests on, and in `x-meshd-age-ms` how
old that may be: what was acknowledged before then, anywhere, is in it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, unquote

import msgspec
import trio

from meshd import limits
from meshd.api.dialect import DialectError, HeaderPair
from meshd.api.job_stream import JobStreams, NotRunning
from meshd.api.places import OtherWords
from meshd.digits import whole_number
from meshd.errors import MeshdError, Refused, StreamBroken
from meshd.http import Responder, ServerRequest
from meshd.jobs.answers import AnswerGone, Ended
from meshd.jobs.contents import TooLarge
from meshd.jobs.keyed import key_of
from meshd.jobs.orders import ClaimOrder, Held, Order
from meshd.jobs.requests import NoSuchRequest, Requests
from meshd.jobs.service import JobService, NoSuchJob
from meshd.jobs.views import OVER, JobView
from meshd.jobs.workers import Workers
from meshd.record.commands import Malformed
from meshd.record.results import Code, RecordRefused

PREFIX: Final = "/mesh/v1/"
_JSON: Final = (b"content-type", b"application/json; charset=utf-8")
_EVENTS_S: Final = 15.0
"""Between two signs of life of a stream of events."""

_STATUS: Final = {
    Code.NO_SUCH_JOB: 404,
    Code.QUEUE_FULL: 429,
    Code.TOO_MANY_JOBS: 429,
    Code.TOO_MANY_QUEUES: 429,
    Code.TOO_MANY_KEYS: 429,
    Code.TOO_MANY: 429,
    Code.NOBODY_MEANT: 404,
    Code.NO_SUCH_NODE: 404,
    Code.KEY_REUSED: 422,
    Code.TOO_LATE: 422,
    Code.TOO_LARGE: 413,
    Code.MALFORMED: 400,
}
"""Of the record's refusals; all others are conflicts (409)."""

T = TypeVar("T")
Handler = Callable[[ServerRequest, Responder, list[HeaderPair]], Awaitable[None]]


class JobsApi:
    """Handles what clients ask about jobs."""

    def __init__(
        self, jobs: JobService, workers: Workers, requests: Requests, streams: JobStreams
    ) -> None:
        self._jobs = jobs
        self._streams = streams
        self._workers = workers
        self._requests = requests
        self._verbs: dict[str, Callable[[Held], Awaitable[None]]] = {
            "renew": workers.renew,
            "complete": workers.complete,
            "fail": workers.fail,
            "release": workers.release,
        }

    def check(self, method: str, path: str, content_type: bytes | None) -> None:
        """Raise DialectError for what cannot be served, from the head alone."""
        self._find(method, path)
        media = (content_type or b"").partition(b";")[0].strip().lower()
        if method == "POST" and media != b"application/json":
            # A page of another site can post forms and plain text without asking, but not this.
            raise _problem(415, "content-type must be application/json", "unsupported_media_type")

    async def handle(
        self,
        request: ServerRequest,
        responder: Responder,
        headers: list[HeaderPair],
        scope: str = "",
    ) -> None:
        """Answer one request; `headers` go with every answer.

        `scope` says whose idempotency keys the request's are: an API key's id; "": everybody's.
        """
        try:
            handler = self._find(request.method, request.path, scope)
            await handler(request, responder, headers)
        except StreamBroken:
            raise
        except MeshdError as error:
            problem = error if isinstance(error, DialectError) else _of(error)
            more = [*problem.headers, *self._basis(), *headers]
            await responder.send(problem.status, more, problem.body)

    # ---------------------------------------------------------------- what there is

    def _find(self, method: str, path: str, scope: str = "") -> Handler:
        match [unquote(part) for part in path.removeprefix(PREFIX).split("/")]:
            case ["jobs"]:
                submit: Handler = partial(self._submit, scope)
                return self._by(method, path, {"POST": submit, "GET": self._page})
            case ["jobs", _]:
                return self._by(method, path, {"GET": self._get, "DELETE": self._cancel})
            case ["jobs", _, "stream"]:
                return self._by(method, path, {"GET": self._stream})
            case ["jobs", _, "events"]:
                return self._by(method, path, {"GET": self._events})
            case ["jobs", _, "retry"]:
                return self._by(method, path, {"POST": self._retry})
            case ["queues", _, "claim"]:
                return self._by(method, path, {"POST": self._claim})
            case ["queues", _, verb] if verb in self._verbs:
                return self._by(method, path, {"POST": self._tell})
            case ["requests"]:
                return self._by(method, path, {"GET": self._requests_page})
            case ["requests", _]:
                return self._by(method, path, {"GET": self._request})
        raise _problem(404, f"there is no {path[:200]} here", "unknown_url")

    @staticmethod
    def _by(method: str, path: str, methods: dict[str, T]) -> T:
        found = methods.get(method)
        if found is None:
            allowed = ", ".join(methods)
            error = _problem(405, f"{path[:200]} takes {allowed}", "method_not_allowed")
            error.headers.append((b"allow", allowed.encode()))
            raise error
        return found

    async def _submit(
        self,
        scope: str,
        request: ServerRequest,
        responder: Responder,
        headers: list[HeaderPair],
    ) -> None:
        key, text = None, request.header(b"idempotency-key")
        if text is not None:
            named = key_of(scope or "local", text, request.method, request.path, request.body)
            key = named.fields()
        made = await self._jobs.submit(_read(request.body, Order), key)
        status = 201 if made["new"] else 200
        where = (b"location", f"{PREFIX}jobs/{made['id']}".encode())
        await self._send(responder, made, [*headers, where], status=status)

    async def _page(
        self, request: ServerRequest, responder: Responder, headers: list[HeaderPair]
    ) -> None:
        query = _query(request)
        await self._barrier_if_wanted(query)
        most = _whole(query.get("limit", "100"), "limit", limits.JOBS_PAGE)
        page = await self._jobs.page(
            state=query.get("state", ""),
            queue=query.get("queue", ""),
            model=query.get("model", ""),
            node=query.get("node", ""),
            after=query.get("after", ""),
            most=most,
        )
        await self._send(responder, page, headers)

    async def _get(
        self, request: ServerRequest, responder: Responder, headers: list[HeaderPair]
    ) -> None:
        await self._barrier_if_wanted(_query(request))
        await self._send(responder, await self._jobs.whole(_id(request)), headers)

    async def _cancel(
        self, request: ServerRequest, responder: Responder, headers: list[HeaderPair]
    ) -> None:
        await self._send(responder, await self._jobs.cancel(_id(request)), headers)

    async def _retry(
        self, request: ServerRequest, responder: Responder, headers: list[HeaderPair]
    ) -> None:
        await self._send(responder, await self._jobs.retry(_id(request)), headers)

    async def _claim(
        self, request: ServerRequest, responder: Responder, headers: list[HeaderPair]
    ) -> None:
        queue = unquote(request.path.split("/")[4])
        order = _read(request.body, ClaimOrder)
        jobs: list[JobView] = []
        with trio.CancelScope() as scope:
            # Should the worker go away in the moment of the claim, the lease ends it.
            responder.on_disconnect = scope.cancel
            jobs = await self._workers.claim(queue, order)
            responder.on_disconnect = None
        try:
            await self._send(responder, {"jobs": jobs}, headers)
        except StreamBroken:
            for job in jobs:
                await self._workers.release(Held(job=job.id, fence=job.fence))
            raise

    async def _tell(
        self, request: ServerRequest, responder: Responder, headers: list[HeaderPair]
    ) -> None:
        verb = request.path.rpartition("/")[2]
        await self._verbs[verb](_read(request.body, Held))
        await self._send(responder, {}, headers)

    async def _stream(
        self, request: ServerRequest, responder: Responder, headers: list[HeaderPair]
    ) -> None:
        await self._streams.stream(_id(request), request, responder, [*self._basis(), *headers])

    async def _events(
        self, request: ServerRequest, responder: Responder, headers: list[HeaderPair]
    ) -> None:
        """The job as it is, and again whenever it changes, until it is over."""
        name = _id(request)
        changed = self._jobs.change()
        view = await self._jobs.get(name)
        kind = (b"content-type", b"text/event-stream")
        no_cache = (b"cache-control", b"no-cache")
        await responder.start(200, [kind, no_cache, *self._basis(), *headers])
        last: JobView | None = None
        while True:
            if view != last:
                await responder.write(b"data: " + msgspec.json.encode(view) + b"\n\n")
                last = view
            if view.state in OVER:
                break
            with trio.move_on_after(_EVENTS_S) as scope:
                await changed.wait()
            if scope.cancelled_caught:
                await responder.write(b": still there\n\n")
            changed = self._jobs.change()  # before looking, so that nothing comes in between
            try:
                view = await self._jobs.get(name)
            except MeshdError as error:
                # Too late for a status.
                await responder.write(b"event: error\ndata: " + _of(error).body + b"\n\n")
                break
        await responder.finish()

    async def _requests_page(
        self, request: ServerRequest, responder: Responder, headers: list[HeaderPair]
    ) -> None:
        query = _query(request)
        page = await self._requests.page(
            state=query.get("state", ""),
            model=query.get("model", ""),
            node=query.get("node", ""),
            after=query.get("after", ""),
            most=_whole(query.get("limit", "100"), "limit", limits.JOBS_PAGE),
        )
        await self._send(responder, page, headers)

    async def _request(
        self, request: ServerRequest, responder: Responder, headers: list[HeaderPair]
    ) -> None:
        await self._send(responder, await self._requests.get(_id(request)), headers)

    # ---------------------------------------------------------------- small things

    async def _barrier_if_wanted(self, query: dict[str, str]) -> None:
        match query.get("read", ""):
            case "":
                return
            case "linear":
                await self._jobs.barrier()
            case other:
                raise _problem(400, f"read={other[:32]!r}: there is only linear", "bad_query")

    async def _send(
        self, responder: Responder, value: Any, headers: list[HeaderPair], *, status: int = 200
    ) -> None:
        await responder.send(status, [_JSON, *self._basis(), *headers], msgspec.json.encode(value))

    def _basis(self) -> list[HeaderPair]:
        """How much of the record an answer of now rests on, and how old that may be."""
        basis = [(b"x-meshd-index", b"%d" % self._jobs.index)]
        if (age_s := self._jobs.age_s) is not None:
            basis.append((b"x-meshd-age-ms", b"%d" % (age_s * 1000)))
        return basis


def _problem(status: int, message: str, code: str) -> DialectError:
    body = {"error": {"message": message, "code": code}}
    return DialectError(status, msgspec.json.encode(body), [_JSON], message)


def _of(error: MeshdError) -> DialectError:
    """What an error of the service is over HTTP."""
    text = str(error)
    match error:
        case NoSuchJob():
            return _problem(404, text, "no_such_job")
        case NoSuchRequest():
            return _problem(404, text, "no_such_request")
        case AnswerGone():
            return _problem(404, text, "expired")
        case OtherWords() | Ended() | NotRunning():
            return _problem(409, text, "no_such_answer")
        case RecordRefused(code=code):
            problem = _problem(_STATUS.get(code, 409), text, code.name.lower())
        case TooLarge():
            problem = _problem(413, text, "too_large")
        case Refused() | Malformed():
            return _problem(400, text, "bad_request")
        case _:
            problem = _problem(503, text, "record_not_available")
    if problem.status in (429, 503):
        problem.headers.append((b"retry-after", b"2"))
    return problem


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.MsgspecError as error:
        raise _problem(400, f"the body cannot be read: {error}", "bad_request") from None


def _query(request: ServerRequest) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(request.query).items()}


def _whole(text: str, name: str, most: int) -> int:
    number = whole_number(text)
    if number is None or not 0 < number <= most:
        raise _problem(400, f"{name} is a whole number from 1 to {most}", "bad_query")
    return number


def _id(request: ServerRequest) -> str:
    return unquote(request.path.split("/")[4])
