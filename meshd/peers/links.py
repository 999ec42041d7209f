"""Control links: typed messages between members over ALPN `meshd/1` (trio shell).

Each node keeps one link *to* every other member, which it dials, and serves the links that others
dial to it.  Requests go out on the own link and are answered on it, so there is no tie to break
and no role to negotiate: two TCP connections a pair, one for each direction of asking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog
import trio

from meshd import limits
from meshd.errors import (
    DialFailed,
    LimitExceeded,
    MeshdError,
    NotAdmitted,
    ProtocolError,
    Refused,
    StreamBroken,
)
from meshd.ids import Address, NodeId, short
from meshd.ports import Alpn, ByteStream, Entropy, Network
from meshd.wire.control import (
    Hello,
    Message,
    Ping,
    Pong,
    Refusal,
    Unknown,
    decode,
    encode,
)
from meshd.wire.framing import FrameReader, frame

log = structlog.get_logger()

REDIAL_FIRST_S = 0.25
REDIAL_MAX_S = 15.0
PING_S = 2.0
"""A link is pinged this often, which also measures the round trip."""
LINK_SILENT_S = 6.0
"""Without any frame for this long a link is closed and dialled anew."""
REQUEST_S = 10.0
LEAVE_S = 1.0


class LinkHandler(Protocol):
    """What the node does with messages; supplied by `node.py`."""

    def hello(self) -> Hello:
        """Who we are, right now."""
        ...

    async def handle(self, node: NodeId, message: Message) -> Message | None:
        """Answer a request (None: nothing to answer), or take a notification.

        MeshdError is sent back as a Refusal with its text.
        """
        ...

    def greeted(self, node: NodeId, hello: Hello) -> None:
        """The other side of a link said who it is.  Raises Refused to drop the link."""
        ...

    def linked(self, node: NodeId) -> None:
        """Our link to that node is up."""
        ...

    def unlinked(self, node: NodeId, reason: str) -> None:
        """Our link to that node is down."""
        ...

    def measured(self, node: NodeId, rtt_s: float) -> None:
        """A round trip on our link."""
        ...


@dataclass(slots=True)
class _Pending:
    """A request that waits for its answer."""

    done: trio.Event = field(default_factory=trio.Event)
    answer: Message | None = None
    failure: MeshdError | None = None

    def settle(self, answer: Message | None, failure: MeshdError | None = None) -> None:
        self.answer, self.failure = answer, failure
        self.done.set()


class _Link:
    """One live connection, from the side that asks."""

    def __init__(self, node: NodeId, stream: ByteStream) -> None:
        self.node = node
        self.stream = stream
        self.pending: dict[int, _Pending] = {}
        self.last_heard = trio.current_time()
        self._next_id = 1
        self._outbox_in, self._outbox_out = trio.open_memory_channel[bytes](
            limits.CONTROL_LINK_OUTBOX_FRAMES
        )

    def new_request(self) -> tuple[int, _Pending]:
        if len(self.pending) >= limits.CONTROL_LINK_REQUESTS:
            raise Refused(f"too many questions are open to node {short(self.node)}; try again")
        request_id, pending = self._next_id, _Pending()
        self._next_id += 1
        self.pending[request_id] = pending
        return request_id, pending

    def send(self, message: Message, request_id: int) -> None:
        """Queue a frame.  A peer that reads so slowly that the queue fills loses its link.

        What is too large for a frame is logged and not sent (an inventory of thousands of models).
        """
        try:
            data = frame(encode(message, request_id))
        except LimitExceeded as e:
            log.warning("not sent", node=short(self.node), why=str(e))
            return
        try:
            self._outbox_in.send_nowait(data)
        except trio.WouldBlock:
            self.stream.abort("the other side does not read its control link")
        except trio.BrokenResourceError:
            pass  # the link is on its way down; whoever waits is told by `close`

    async def write_loop(self) -> None:
        async for data in self._outbox_out:
            await self.stream.send_all(data)

    def close(self, reason: str) -> None:
        self.stream.abort(reason)
        self._outbox_out.close()
        failure = DialFailed(f"the link to node {short(self.node)} broke: {reason}")
        for pending in self.pending.values():
            pending.settle(None, failure)
        self.pending.clear()


class ControlLinks:
    """All control links of a node."""

    def __init__(
        self,
        network: Network,
        entropy: Entropy,
        handler: LinkHandler,
        addresses: Callable[[NodeId], Sequence[Address]],
    ) -> None:
        self._network = network
        self._entropy = entropy
        self._handler = handler
        self._addresses = addresses
        self._links: dict[NodeId, _Link] = {}
        self._keepers: dict[NodeId, trio.CancelScope] = {}
        self._kicks: dict[NodeId, trio.Event] = {}
        self._inbound: dict[NodeId, set[ByteStream]] = {}
        self._nursery: trio.Nursery | None = None
        self._wanted: set[NodeId] = set()
        self._leaving: set[NodeId] = set()

    # ---------------------------------------------------------------- what others use

    async def run(self) -> None:
        """Keep the wanted links up until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for node in sorted(self._wanted):
                self._begin_keeping(node)
            nursery.start_soon(self._ping_all)
            await trio.sleep_forever()

    def want(self, nodes: set[NodeId]) -> None:
        """These members should be linked; links to and from others are closed at once."""
        gone = self._wanted - nodes
        new = nodes - self._wanted
        self._wanted = set(nodes)
        for node in gone:
            if scope := self._keepers.pop(node, None):
                scope.cancel()
            if node in self._leaving and self._nursery is not None:
                self._nursery.start_soon(self._cut_soon, node)
            else:
                self.cut(node, "it is no member any more")
        if self._nursery is not None:
            for node in sorted(new):
                self._begin_keeping(node)

    def let_leave(self, node: NodeId) -> None:
        """That node goes of its own will: its links last until it has read the answer."""
        self._leaving.add(node)

    async def _cut_soon(self, node: NodeId) -> None:
        await trio.sleep(LEAVE_S)
        self._leaving.discard(node)
        self.cut(node, "it has left")

    def cut(self, node: NodeId, reason: str) -> None:
        """Close the open links of a node, both ways."""
        if link := self._links.get(node):
            link.stream.abort(reason)
        for stream in list(self._inbound.get(node, ())):
            stream.abort(reason)

    def kick(self, node: NodeId) -> None:
        """Dial that node now instead of waiting for the next turn (it was heard of)."""
        event = self._kicks.get(node)
        if event is not None:
            event.set()

    def is_up(self, node: NodeId) -> bool:
        """Whether our link to that node is up."""
        return node in self._links

    def up(self) -> list[NodeId]:
        """All nodes our links to which are up."""
        return list(self._links)

    async def request(
        self, node: NodeId, message: Message, timeout_s: float = REQUEST_S
    ) -> Message:
        """Ask a member something.

        Raises DialFailed if there is no link or no answer in time, Refused with the other side's
        own words.
        """
        link = self._links.get(node)
        if link is None:
            raise DialFailed(f"node {short(node)} cannot be reached now")
        request_id, pending = link.new_request()
        link.send(message, request_id)
        with trio.move_on_after(timeout_s):
            await pending.done.wait()
        link.pending.pop(request_id, None)
        if pending.failure is not None:
            raise pending.failure
        if pending.answer is None:
            raise DialFailed(f"node {short(node)} did not answer within {timeout_s:.0f} s")
        if isinstance(pending.answer, Refusal):
            raise Refused(pending.answer.message)
        return pending.answer

    def notify(self, node: NodeId, message: Message) -> None:
        """Tell a member something; nothing happens if there is no link."""
        if link := self._links.get(node):
            link.send(message, 0)

    def notify_all(self, message: Message) -> None:
        """Tell every linked member."""
        for link in list(self._links.values()):
            link.send(message, 0)

    # ---------------------------------------------------------------- our own links

    def _begin_keeping(self, node: NodeId) -> None:
        assert self._nursery is not None
        scope = self._keepers[node] = trio.CancelScope()
        self._nursery.start_soon(self._keep, node, scope)

    async def _keep(self, node: NodeId, scope: trio.CancelScope) -> None:
        pause_s = REDIAL_FIRST_S
        with scope:
            while True:
                kick = self._kicks[node] = trio.Event()
                try:
                    stream = await self._network.dial_peer(
                        node, self._addresses(node), Alpn.CONTROL, limits.PEER_HANDSHAKE_S
                    )
                except (DialFailed, NotAdmitted, StreamBroken) as e:
                    log.debug("no link", node=short(node), why=str(e))
                else:
                    if await self._run_link(node, stream):
                        pause_s = REDIAL_FIRST_S
                jitter = 0.5 + self._entropy.random()
                with trio.move_on_after(pause_s * jitter):
                    await kick.wait()
                pause_s = min(REDIAL_MAX_S, pause_s * 2)

    async def _run_link(self, node: NodeId, stream: ByteStream) -> bool:
        """Greet and pump until the link breaks; True if it was up."""
        link = _Link(node, stream)
        was_up, reason = False, "closed"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.write_loop)
                link.send(self._handler.hello(), 0)
                reader = FrameReader(limits.CONTROL_FRAME_BYTES)
                while data := await stream.receive_some():
                    link.last_heard = trio.current_time()
                    for payload in reader.feed(data):
                        message, request_id = decode(payload)
                        if not was_up:
                            self._greet(node, message)
                            was_up = True
                            self._links[node] = link
                            self._handler.linked(node)
                        else:
                            self._settle(link, message, request_id)
                nursery.cancel_scope.cancel()
        except* (StreamBroken, ProtocolError, Refused) as group:
            reason = "; ".join(str(e) for e in group.exceptions)
        finally:
            if self._links.get(node) is link:
                del self._links[node]
            link.close(reason)
            if was_up:
                self._handler.unlinked(node, reason)
        if not was_up:
            log.info("link refused", node=short(node), why=reason)
        return was_up

    def _greet(self, node: NodeId, message: Message) -> None:
        if isinstance(message, Refusal):
            raise Refused(message.message)
        if not isinstance(message, Hello):
            raise ProtocolError(f"the first frame must be hello, not {type(message).__name__}")
        self._handler.greeted(node, message)

    @staticmethod
    def _settle(link: _Link, message: Message, request_id: int) -> None:
        pending = link.pending.pop(request_id, None)
        if pending is not None:
            pending.settle(message)

    async def _ping_all(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(PING_S)
                now = trio.current_time()
                for node, link in list(self._links.items()):
                    if now - link.last_heard > LINK_SILENT_S:
                        link.stream.abort(f"nothing heard for {LINK_SILENT_S:.0f} s")
                    else:
                        nursery.start_soon(self._ping, node)

    async def _ping(self, node: NodeId) -> None:
        began = trio.current_time()
        try:
            await self.request(node, Ping(), timeout_s=LINK_SILENT_S)
        except (DialFailed, Refused):
            return  # the link's own reader reports what is wrong with it
        self._handler.measured(node, trio.current_time() - began)

    # ---------------------------------------------------------------- links of others to us

    async def serve(self, stream: ByteStream) -> None:
        """Serve one link that a member dialled to us, until it ends."""
        node = stream.remote.node
        assert node is not None, "control links are always verified"
        streams = self._inbound.setdefault(node, set())
        streams.add(stream)
        try:
            async with trio.open_nursery() as nursery:
                session = _Inbound(node, stream, self._handler, nursery)
                await session.run()
                nursery.cancel_scope.cancel()
        except* StreamBroken as group:
            log.debug("control link ended", node=short(node), why=str(group.exceptions[0]))
        except* (ProtocolError, Refused) as group:
            log.warning("control link refused", node=short(node), why=str(group.exceptions[0]))
        finally:
            streams.discard(stream)
            if not streams and self._inbound.get(node) is streams:
                del self._inbound[node]
            stream.abort("the control link is over")


class _Inbound:
    """The answering side of one link."""

    def __init__(
        self, node: NodeId, stream: ByteStream, handler: LinkHandler, nursery: trio.Nursery
    ) -> None:
        self._node, self._stream, self._handler = node, stream, handler
        self._nursery = nursery
        self._slots = trio.Semaphore(limits.CONTROL_LINK_REQUESTS)
        self._write_lock = trio.Lock()

    async def run(self) -> None:
        reader = FrameReader(limits.CONTROL_FRAME_BYTES)
        greeted = False
        while data := await self._stream.receive_some():
            for payload in reader.feed(data):
                message, request_id = decode(payload)
                if not greeted:
                    greeted = True
                    await self._greet(message)
                elif isinstance(message, Ping):
                    await self._send(Pong(), request_id)
                else:
                    await self._slots.acquire()  # backpressure: no more is read meanwhile
                    self._nursery.start_soon(self._answer, message, request_id)

    async def _greet(self, message: Message) -> None:
        if not isinstance(message, Hello):
            raise ProtocolError(f"the first frame must be hello, not {type(message).__name__}")
        try:
            self._handler.greeted(self._node, message)
        except Refused as e:
            await self._send(Refusal(code="refused", message=str(e)), 0)
            raise
        await self._send(self._handler.hello(), 0)

    async def _answer(self, message: Message, request_id: int) -> None:
        """One message's own task: what goes wrong in here ends neither the link nor the node."""
        try:
            answer = await self._handle(message)
            if request_id and answer is not None:
                await self._send(answer, request_id)
        except StreamBroken:
            pass  # the reader of the link sees it too
        finally:
            self._slots.release()

    async def _handle(self, message: Message) -> Message | None:
        try:
            answer = await self._handler.handle(self._node, message)
        except MeshdError as e:
            return Refusal(code=type(e).__name__, message=str(e))
        except Exception:
            log.exception("a message could not be handled", message=type(message).__name__)
            return Refusal(code="internal", message="the other node failed; its log says more")
        if isinstance(message, Unknown) and answer is None:
            return Refusal(code="unknown", message="this node does not know that message")
        return answer

    async def _send(self, message: Message, request_id: int) -> None:
        async with self._write_lock:
            await self._stream.send_all(frame(encode(message, request_id)))
