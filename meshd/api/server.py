"""The client port: OpenAI's and Ollama's API of the whole mesh (trio shell).

Every list is answered at once from memory; every request is answered by whoever holds the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import trio

from meshd import __version__
from meshd.api import lists, ollama, openai
from meshd.api.access import Access
from meshd.api.answered import Answered, Ending, attempts_of
from meshd.api.answering import Client, answer
from meshd.api.dialect import Call, DialectError, HeaderPair, away, not_found, unheard
from meshd.api.jobs import PREFIX as JOBS
from meshd.api.jobs import JobsApi
from meshd.api.keyed import HEADER as KEY_HEADER
from meshd.api.keyed import Asked, KeyedApi
from meshd.api.retries import HEADER as RETRY_HEADER
from meshd.api.retries import Retries, deadline_s, is_retry, tell_again
from meshd.api.routes import Dialect, Match, Route, error_body, find
from meshd.backends import BackendFailed
from meshd.errors import MeshdError
from meshd.http import Headers, Responder, Room, ServerRequest, Share
from meshd.ids import NodeId, RequestId
from meshd.inference import Failure, FailureKind
from meshd.jobs.keyed import Key
from meshd.jobs.trace_rows import Ended
from meshd.jobs.traces import Traces
from meshd.ports import Clock, Entropy
from meshd.relay.forwarder import Forwarder
from meshd.routing.catalogue import Catalogue, Target
from meshd.routing.placement import Placement
from meshd.wire.serve import FORWARDED_HEADER, KeyedClaim

JSON = (b"content-type", b"application/json; charset=utf-8")
TEXT = (b"content-type", b"text/plain; charset=utf-8")
REQUEST_ID_BYTES = 9

_IN_CIRCLES = Failure(
    FailureKind.BAD_REQUEST,
    "a meshd took this node for an engine, and requests would go in circles: let it use the "
    "engine's own address",
    508,
)

ShowModel = Callable[[Target], Awaitable[dict[str, Any]]]


class ClientApi:
    """Handles what clients ask of this node."""

    def __init__(
        self,
        *,
        name: str,
        forwarder: Forwarder,
        placement: Placement,
        node_name: Callable[[NodeId], str],
        unheard: Callable[[], Sequence[NodeId]],
        show: ShowModel,
        access: Callable[[], Access],
        clock: Clock,
        entropy: Entropy,
        room: Room,
        jobs: JobsApi,
        keyed: KeyedApi,
        traces: Traces | None,
    ) -> None:
        """`access` is asked anew for each request, since keys and addresses change.

        `unheard` are the members of whom this node, just started, does not know yet what they have.
        `room` is where answers that are not streamed are kept.
        `show` gives the body of Ollama's /api/show for a target, awaitable.
        `traces` are told of each request that is no job; None: nobody wants to know.
        """
        self._name = name.encode("ascii", "replace")
        self._forwarder = forwarder
        self._placement = placement
        self._catalogue: Catalogue = placement.catalogue
        self._node_name = node_name
        self._unheard = unheard
        self._show = show
        self._access = access
        self._clock = clock
        self._entropy = entropy
        self._room = room
        self._jobs = jobs
        self._keyed = keyed
        self._note = traces.add if traces is not None else _nothing
        self._retries = Retries(forwarder.sweeper, room)
        self.counters: Counter[str] = Counter()

    def admit(self, request: ServerRequest) -> tuple[int, Headers, bytes] | None:
        """Decide from the head alone, before the body is read: `ServerOptions.admit`."""
        try:
            request.caller = self._scope(request)
            if _is_of_jobs(request):
                self._jobs.check(request.method, request.path, request.header(b"content-type"))
            else:
                find(request.method, request.path)
            if request.header(FORWARDED_HEADER) is not None:
                raise _refused(request.path, _IN_CIRCLES)
        except DialectError as e:
            self.counters["refused"] += 1
            return e.status, [*e.headers, self._request_id()[1], *self._cors(request)], e.body
        return None

    def error_body(self, status: int, message: str, path: str) -> tuple[Headers, bytes]:
        """What is said of an error below the handler: `ServerOptions.error_body`."""
        kind = FailureKind.BAD_REQUEST if status < 500 else FailureKind.BACKEND
        if status == 503:
            kind = FailureKind.BUSY
        _, headers, body = error_body(path, Failure(kind, message, status))
        return [*headers, self._request_id()[1]], body

    async def handle(
        self,
        request: ServerRequest,
        responder: Responder,
        note: Callable[[Ended], None] | None = None,
    ) -> None:
        """The handler of the client port's HTTP server.

        `note` is told how the request went, in place of the traces: of a job's own.
        """
        request_id, id_header = self._request_id()
        cors = self._cors(request)
        if _is_of_jobs(request):
            self.counters["jobs"] += 1
            node = (b"x-meshd-node", self._name)
            await self._jobs.handle(
                request, responder, [id_header, node, *cors], self._scope(request)
            )
            return
        try:
            match = find(request.method, request.path)
            if match.route in (Route.OPENAI_CALL, Route.OLLAMA_CALL):
                note = note or self._note
                await self._call(match, request, responder, request_id, cors, note)
                return
            if match.route is Route.PREFLIGHT:
                status, headers, body = self._access().preflight(request.header(b"origin"))
            else:
                status, headers, body = await self._list(match, request)
            self.counters["lists"] += 1
        except DialectError as e:
            self.counters["refused"] += 1
            status, headers, body = e.status, e.headers, e.body
        await responder.send(
            status, [*headers, id_header, (b"x-meshd-node", self._name), *cors], body
        )

    # ---------------------------------------------------------------- inference

    async def _call(
        self,
        match: Match,
        request: ServerRequest,
        responder: Responder,
        request_id: RequestId,
        cors: list[HeaderPair],
        note: Callable[[Ended], None],
    ) -> None:
        model = ""
        try:
            call, key = self._decoded(match, request, request_id)
            model = call.request.model
            self._check_model(request.path, call, key)
        except DialectError as e:
            note(_refused_at_once(request_id, request, model, e.status))
            raise
        headers = [(b"x-request-id", request_id.encode()), *cors]
        if is_retry(request) and await self._told_again(request, responder, call, headers):
            return
        share = Share(self._room)

        def failed(failure: Failure) -> tuple[int, list[HeaderPair], bytes]:
            return error_body(request.path, failure)

        def answering(
            client: Client, ending: Ending, claim: KeyedClaim | None = None
        ) -> Awaitable[Answered]:
            return answer(
                call,
                request_id,
                client,
                self._forwarder,
                failed,
                self._node_name,
                share,
                cors,
                ending,
                claim=claim,
            )

        try:
            if key is None:
                answered = await self._unkeyed(request, responder, call, answering)
                note(_ended(request_id, request, call, answered))
            else:
                self.counters["keyed"] += 1
                await self._keyed.answer(Asked(request, key, call, responder, headers, answering))
        finally:
            share.release()

    async def _unkeyed(
        self,
        request: ServerRequest,
        responder: Responder,
        call: Call,
        answering: Callable[[Client, Ending], Awaitable[Answered]],
    ) -> Answered:
        if request.header(RETRY_HEADER) is None:
            return await answering(responder, _nothing)
        client = self._retries.client(request, responder, call.encoder)
        try:
            return await answering(client, client.ending)
        finally:
            client.close()

    def _decoded(
        self, match: Match, request: ServerRequest, request_id: RequestId
    ) -> tuple[Call, Key | None]:
        """What is asked for, and with which key.  Raises DialectError."""
        decode = openai.decode if match.dialect is Dialect.OPENAI else ollama.decode
        call: Call = decode(
            request.path,
            request.body,
            request.header,
            request_id=request_id,
            now_unix_s=self._clock.wall(),
        )
        key = None
        if request.header(KEY_HEADER) is not None:
            key = self._keyed.key_of(request, self._scope(request))
            call = _patient(call, None)  # a run does not end with its client
        elif request.header(RETRY_HEADER) is not None:
            call = _patient(call, deadline_s(call.deadline_s))
        return call, key

    def _check_model(self, path: str, call: Call, key: Key | None) -> None:
        """Raise DialectError if no node has it, or none of them can be asked now."""
        model = call.request.model
        if self._placement.holders(model):
            return
        # What a key stands for is told also when nobody has the model any more; whoever is away
        # may have told it already, and then the record knows.
        if key is not None and (self._keyed.knows(key) or self._catalogue.holders(model)):
            return
        failure = self._missing(model)
        self.counters["unknown_model" if failure.status == 404 else "model_away"] += 1
        raise _refused(path, failure)

    async def _told_again(
        self,
        request: ServerRequest,
        responder: Responder,
        call: Call,
        headers: list[HeaderPair],
    ) -> bool:
        """If a library's retry finds the run of its first try: tell it that one's answer."""
        client = self._retries.take(request)
        if client is None:
            return False
        self.counters["retries_joined"] += 1
        with self._keyed.in_flight:
            await tell_again(client, responder, call.encoder, headers)
        return True

    def _scope(self, request: ServerRequest) -> str:
        """Whose idempotency keys a request's are: the API key's that it shows, or everybody's."""
        access = self._access()
        return access.check(request.method, request.path, request.header, request.remote)

    def _missing(self, model: str) -> Failure:
        """Why nobody can answer with it now: a 503 while it may come back, or else a 404."""
        if nodes := self._placement.away(model, trio.current_time()):
            return away(model, sorted(map(self._node_name, nodes)))
        if unknown := self._unheard():
            return unheard(model, sorted(map(self._node_name, unknown)))
        return not_found(model, self._catalogue.near(model))

    # ---------------------------------------------------------------- lists

    async def _list(
        self, match: Match, request: ServerRequest
    ) -> tuple[int, list[HeaderPair], bytes]:
        match match.route:
            case Route.ROOT:
                return 200, [TEXT], lists.ROOT_BODY
            case Route.VERSION:
                return 200, [JSON], lists.version(__version__)
            case Route.OPENAI_MODELS:
                return 200, [JSON], lists.openai_models(self._listing())
            case Route.OLLAMA_TAGS:
                return 200, [JSON], lists.ollama_tags(self._listing())
            case Route.OLLAMA_PS:
                return 200, [JSON], lists.ollama_ps(self._listing())
            case Route.OPENAI_MODEL:
                body = lists.openai_model(self._listing(), match.model)
                if body is None:
                    raise _refused(request.path, self._missing(match.model))
                return 200, [JSON], body
            case _:
                return await self._show_model(request)

    def _listing(self) -> lists.Listing:
        offers = [
            lists.Offer(self._node_name(t.node), t.engine, t.model)
            for t in self._catalogue.targets()
            if self._placement.is_present(t.node)
        ]
        return lists.Listing(offers, self._catalogue.aliases())

    async def _show_model(self, request: ServerRequest) -> tuple[int, list[HeaderPair], bytes]:
        name = ollama.decode_show(request.body)
        holders = self._placement.holders(name)
        if not holders:
            raise _refused(request.path, self._missing(name))
        shown = await self._shown(request.path, holders)
        return 200, [JSON], msgspec.json.encode(shown)

    async def _shown(self, path: str, holders: list[Target]) -> dict[str, Any]:
        """What the first of at most three holders that answers says of its copy."""
        last = "no node that has it answers"
        for target in holders[:3]:
            try:
                return await self._show(target)
            except BackendFailed as e:
                last = e.failure.message
            except MeshdError as e:
                last = str(e)
        raise _refused(path, Failure(FailureKind.UNREACHABLE, last, 503, retry_after_s=2.0))

    def _cors(self, request: ServerRequest) -> list[HeaderPair]:
        """What lets an allowed web page read the answer, refusals included."""
        origin, access = request.header(b"origin"), self._access()
        if origin is None or not access.origin_allowed(origin, request.header(b"host")):
            return []
        return access.cors_headers(origin)

    def _request_id(self) -> tuple[RequestId, HeaderPair]:
        request_id = RequestId(f"req_{self._entropy.token(REQUEST_ID_BYTES).hex()}")
        return request_id, (b"x-request-id", request_id.encode())


def _patient(call: Call, deadline_s: float | None) -> Call:
    """The same with another deadline, if the client's patience is that of the whole answer."""
    return call if call.stream else msgspec.structs.replace(call, deadline_s=deadline_s)


def _is_of_jobs(request: ServerRequest) -> bool:
    return request.path.startswith(JOBS) and request.method != "OPTIONS"


def _nothing(told: object) -> None:
    """Nobody wants to know."""


def _ended(request_id: RequestId, request: ServerRequest, call: Call, answered: Answered) -> Ended:
    """For the traces: how it went, and nothing of what was said."""
    return Ended(
        request_id,
        request.path,
        call.request.model,
        request.caller,
        call.stream,
        answered.began_at,
        trio.current_time(),
        answered.status,
        answered.failure,
        answered.first_at,
        answered.node or "",
        attempts_of(answered.runs),
        answered.prompt_tokens,
        answered.completion_tokens,
    )


def _refused_at_once(
    request_id: RequestId, request: ServerRequest, model: str, status: int
) -> Ended:
    """For the traces, of a request that nobody was asked to answer."""
    now = trio.current_time()
    kinds = {404: FailureKind.NOT_FOUND, 503: FailureKind.UNREACHABLE}
    kind = kinds.get(status, FailureKind.BAD_REQUEST)
    return Ended(request_id, request.path, model, request.caller, False, now, now, status, kind)


def _refused(path: str, failure: Failure) -> DialectError:
    status, headers, body = error_body(path, failure)
    return DialectError(status, body, headers)
