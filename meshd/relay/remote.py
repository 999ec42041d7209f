"""Forwarded requests, entry's side: one attempt at another node (trio shell)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from meshd import limits, logs
from meshd.backends import BackendFailed, RunControl
from meshd.backends.control import failed
from meshd.errors import DialFailed, NotAdmitted, ProtocolError, StreamBroken
from meshd.http import ClientResponse, HttpClient, Sweeper
from meshd.ids import Address, NodeId, RequestId, short
from meshd.inference import Failure, FailureKind, Load
from meshd.ports import Alpn, ByteStream, Network
from meshd.relay.directives import Attempt
from meshd.relay.holder import Order
from meshd.relay.incoming import RemoteSink, read_answer
from meshd.wire.answer import AnswerReader
from meshd.wire.fields import one_line
from meshd.wire.serve import (
    FORWARDED_HEADER,
    RESUME_PATH,
    SERVE_PATH,
    SHOW_PATH,
    KeyedClaim,
    ResumeRequest,
    ServeRequest,
    ShowRequest,
    encode_resume,
    encode_serve,
    encode_show,
)

log = logs.get("relay")

HEADERS = ((b"content-type", b"application/msgpack"), (FORWARDED_HEADER, b"1"))


_RUNS_ALREADY = 409
_ROUND_TRIPS = 4
"""Of a question on a new link: TCP, TLS, the answer; and one to spare."""

SHOW_S = 5.0
"""A description comes from memory, or from an engine on the holder's own loopback."""


@dataclass(slots=True)
class _Asked:
    """One run at a holder, over however many links."""

    node: NodeId
    run: RequestId
    body: bytes
    sink: RemoteSink
    control: RunControl
    alone: bool
    """Nobody else could be asked."""
    reader: AnswerReader = field(default_factory=AnswerReader)


class RemoteHolders:
    """Connections to the other holders: a pool of mTLS links to each."""

    def __init__(
        self,
        network: Network,
        sweeper: Sweeper,
        addresses: Callable[[NodeId], Sequence[Address]],
        on_load: Callable[[NodeId, Load], None],
        on_abandoned: Callable[[NodeId, RequestId], None],
        name_of: Callable[[NodeId], str] = short,
        rtt_s: Callable[[NodeId], float] = lambda node: 0.0,
    ) -> None:
        """`on_load` is told how busy a holder says that it is, `on_abandoned` what it need not go
        on with; `rtt_s` is what is known of the way to it."""
        self._network = network
        self._sweeper = sweeper
        self._addresses = addresses
        self._on_load = on_load
        self._on_abandoned = on_abandoned
        self._name_of = name_of
        self._rtt_s = rtt_s
        self._pools: dict[NodeId, HttpClient] = {}
        self.counters: Counter[str] = Counter()

    async def serve(
        self,
        node: NodeId,
        request_id: RequestId,
        attempt: Attempt,
        order: Order,
        sink: RemoteSink,
        control: RunControl,
        claim: KeyedClaim | None = None,
    ) -> None:
        """Have the request served there; raises BackendFailed like `Holder.serve`.

        `claim`: it is a keyed one's, and this attempt makes the whole answer.
        """
        # Each question is a run of its own at the holder.
        run = RequestId(f"{request_id}.{attempt.ask}")
        body = encode_serve(
            ServeRequest(
                request_id=run,
                attempt=attempt.number,
                deadline_s=order.deadline_s,
                wait_s=order.wait_s,
                backend=order.backend,
                model=order.model,
                request=order.request,
                keyed=claim,
            )
        )
        asked = _Asked(node, run, body, sink, control, alone=not attempt.others)
        try:
            await self._read_over_links(asked, await self._ask(asked))
            control.detach()
        except BackendFailed:
            control.detach()
            raise
        except (DialFailed, NotAdmitted) as e:
            raise self._failed(node, FailureKind.UNREACHABLE, "cannot be reached now", e) from e
        except StreamBroken as e:
            self._on_abandoned(node, run)  # it may live, and its link to here too
            raise self._failed(node, FailureKind.HOLDER_LOST, "went away as it answered", e) from e
        except ProtocolError as e:
            raise self._failed(node, FailureKind.BACKEND, "gave no answer that is one", e) from e

    async def show(self, node: NodeId, backend: str, model: str) -> dict[str, Any]:
        """Ollama's /api/show body of a model there.  Raises BackendFailed, soon or not at all."""
        body, control = encode_show(ShowRequest(backend, model)), RunControl()
        watch = self._sweeper.watch(
            lambda: control.abort(f"no answer within {SHOW_S:.0f} s"), trio.current_time() + SHOW_S
        )
        try:
            response = await self.pool(node).request(
                "POST", SHOW_PATH, HEADERS, body, on_stream=control.attach
            )
            data = await response.read(limits.CONTROL_FRAME_BYTES)
        except (DialFailed, NotAdmitted, StreamBroken, ProtocolError) as e:
            raise self._failed(node, FailureKind.UNREACHABLE, "cannot be reached now", e) from e
        finally:
            control.detach()
            self._sweeper.unwatch(watch)
        if response.status != 200:
            text = one_line(data.decode(errors="replace"))
            raise self._failed(node, FailureKind.BACKEND, f"says: {text}")
        try:
            return msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
            raise self._failed(node, FailureKind.BACKEND, "gave no description", e) from e

    def drop_idle(self, node: NodeId) -> None:
        """The node may be gone: ask on connections of which that is known only anew.

        Attempts go on: whether their holder lives is heard on their own connections.
        """
        if pool := self._pools.get(node):
            pool.close_idle()

    def drop_all_idle(self) -> None:
        """This machine slept."""
        for pool in self._pools.values():
            pool.close_idle()

    def cut(self, node: NodeId, reason: str) -> None:
        """A node was removed: close every connection to it, and end what runs there."""
        if pool := self._pools.pop(node, None):
            pool.close_all(reason)

    async def _ask(self, asked: _Asked) -> ClientResponse:
        """The head of the answer.  The holder may have a question whose link broke before that."""
        try:
            response = await self.pool(asked.node).request(
                "POST",
                SERVE_PATH,
                HEADERS,
                asked.body,
                on_stream=asked.control.attach,
                on_sent=lambda: asked.sink.sent(len(asked.body)),
            )
        except StreamBroken as broken:
            if asked.control.aborted is not None:
                raise
            return await self._resume(asked, broken)
        if response.status == _RUNS_ALREADY:  # it came over a pooled link that broke under it
            await response.aclose()
            return await self._resume(asked, StreamBroken("it has the request, and no answer"))
        return response

    async def _read_over_links(self, asked: _Asked, response: ClientResponse) -> None:
        """Read the answer to its end; should its link break, the rest is asked for on another."""
        left = limits.RESUMES
        while True:
            try:
                return await self._read(asked.node, response, asked.sink, asked.reader)
            except StreamBroken as broken:
                if asked.control.aborted is not None or not left:
                    raise
                left -= 1
                response = await self._resume(asked, broken)
            except BaseException:  # also a cancel: the holder is told; raised again
                if not asked.reader.complete:  # it is this side that wants no more of it
                    self._on_abandoned(asked.node, asked.run)
                raise

    async def _resume(self, asked: _Asked, broken: StreamBroken) -> ClientResponse:
        """The same answer on another link.  Raises `broken` where there is none to be had soon."""
        body = encode_resume(ResumeRequest(asked.run, asked.reader.seq))
        response = None
        # A holder that died may leave the question unanswered (a firewall that drops what comes to
        # closed ports): where another could be asked, the client does not wait for that.
        within_s = limits.RESUME_HEAD_S + _ROUND_TRIPS * self._rtt_s(asked.node)
        if asked.alone:
            within_s += limits.DIAL_S
        with suppress(DialFailed, NotAdmitted, StreamBroken, ProtocolError):
            with trio.move_on_after(within_s):
                response = await self.pool(asked.node).request(
                    "POST", RESUME_PATH, HEADERS, body, on_stream=asked.control.attach
                )
        if response is None:
            raise broken
        if response.status != 200:
            await response.aclose()
            raise broken
        asked.reader.on_another_link()
        self.counters["went_on_by_resume"] += 1
        name, after = self._name_of(asked.node), asked.reader.seq
        log.info("an answer goes on over another link", node=name, after=after)
        return response

    async def _read(
        self, node: NodeId, response: ClientResponse, sink: RemoteSink, reader: AnswerReader
    ) -> None:
        if response.status != 200:
            text = (await response.read(limits.KIB * 4)).decode(errors="replace")
            if response.status == 503:  # its memory for requests is spent
                raise failed(FailureKind.BUSY, one_line(text), 503, 1.0)
            raise ProtocolError(f"it answered {response.status}: {text}")
        sink.heard()
        await read_answer(response, sink, reader, lambda load: self._on_load(node, load))

    def pool(self, node: NodeId) -> HttpClient:
        """The HTTP connections to that member."""
        pool = self._pools.get(node)
        if pool is None:

            async def dial() -> ByteStream:
                return await self._network.dial_peer(
                    node, self._addresses(node), Alpn.HTTP, limits.DIAL_S
                )

            pool = self._pools[node] = HttpClient(
                dial, host=node, sweeper=self._sweeper, pool_idle_s=limits.PEER_POOL_IDLE_S
            )
        return pool

    def _failed(
        self,
        node: NodeId,
        kind: FailureKind,
        what: str,
        error: Exception | None = None,
    ) -> BackendFailed:
        """For clients a sentence with the node's name; the particulars are for the log."""
        name = self._name_of(node)
        log.info("an attempt failed", node=name, kind=kind.value, why=str(error or what))
        return BackendFailed(Failure(kind, f"{name} {what}", 502))
