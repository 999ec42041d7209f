"""One control link, from either end: greeting, frames, questions and answers (trio shell).

The side that dialled asks (`AskingLink`), the other answers (`AnsweringLink`).  Both end by raising
what ended them; nothing in here knows of other links.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from meshd import limits, logs
from meshd.errors import DialFailed, MeshdError, ProtocolError, Refused, StreamBroken
from meshd.ids import NodeId, short
from meshd.ports import ByteStream
from meshd.wire.control import Hello, Message, Ping, Pong, Refusal, Unknown, decode, encode
from meshd.wire.framing import FrameReader, frame

log = logs.get("links")

LINK_SILENT_S = 6.0
"""Without any frame for this long a link is closed (proto/peer.md); the dialler pings every 2 s."""
REQUEST_S = 10.0
"""How long an answer may take, unless the asker says otherwise."""

_FRAMES_AT_ONCE = 256
"""Frames that are put together before they are sent, or wait."""
_WRITE_BYTES = 64 * 1024
"""What is given to the stream at a time, unless a single frame is larger."""
_DOES_NOT_READ = "the other side does not read its control link"


class LinkHandler(Protocol):
    """What the node does with messages: `Switchboard` in a node."""

    def hello(self) -> Hello:
        """Who we are, right now."""
        ...

    async def handle(self, node: NodeId, message: Message) -> Message | None:
        """Answer a request (None: nothing to answer), or take a notification.

        MeshdError is sent back as a Refusal with its text.
        """
        ...

    def take(self, node: NodeId, message: Message) -> bool:
        """Take a notification at once, in the order of the link; False: it is for `handle`."""
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

    def sent_away(self, node: NodeId) -> None:
        """That node says that this one was removed from the mesh."""
        ...

    def measured(self, node: NodeId, rtt_s: float) -> None:
        """A round trip on our link."""
        ...


class _Link:
    """What both ends have in common: a stream, and when something last came out of it."""

    def __init__(self, node: NodeId, stream: ByteStream) -> None:
        self.node = node
        self.stream = stream
        self.greeted = False
        self.heard_at = trio.current_time()

    def end_if_silent(self, now: float) -> None:
        """Close it if the other side has said nothing for too long."""
        allowed_s = LINK_SILENT_S if self.greeted else limits.PEER_HANDSHAKE_S
        if now - self.heard_at > allowed_s:
            self.stream.abort(f"nothing heard for {allowed_s:.0f} s")


@dataclass(slots=True)
class _Question:
    """A request that waits for its answer."""

    done: trio.Event = field(default_factory=trio.Event)
    answer: Message | None = None
    failure: MeshdError | None = None

    def settle(self, answer: Message | None, failure: MeshdError | None = None) -> None:
        self.answer, self.failure = answer, failure
        self.done.set()


class AskingLink(_Link):
    """The dialling side: asks, tells, pings."""

    def __init__(self, node: NodeId, stream: ByteStream) -> None:
        super().__init__(node, stream)
        self._questions: dict[int, _Question] = {}
        self._next_id = 1
        self._outbox: deque[bytes] = deque()
        """Frames that could not be sent at once."""
        self._outbox_bytes = 0
        self._to_write = trio.Event()
        """Set while the writer has something to do, in the outbox or in the stream."""
        self._writing = False
        self._closed = False

    async def run(self, hello: Hello, on_hello: Callable[[Hello], None]) -> None:
        """Greet and pump until the other side ends it in order.

        `on_hello` is given the other side's greeting; what it raises ends the link.  Raises (in a
        group) StreamBroken, ProtocolError, Refused, or what `on_hello` raised.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            self.tell(hello)
            reader = FrameReader(limits.CONTROL_FRAME_BYTES)
            while data := await self.stream.receive_some():
                self.heard_at = trio.current_time()
                for payload in reader.feed(data):
                    message, request_id = decode(payload)
                    if self.greeted:
                        if question := self._questions.get(request_id):
                            question.settle(message)
                    else:
                        on_hello(_greeting(message))
                        self.greeted = True
            nursery.cancel_scope.cancel()

    async def request(self, message: Message, timeout_s: float) -> Message:
        """See `ControlLinks.request`."""
        if len(self._questions) >= limits.CONTROL_LINK_REQUESTS:
            raise Refused(f"too many questions are open to node {short(self.node)}; try again")
        request_id, self._next_id = self._next_id, self._next_id + 1
        try:
            data = frame(encode(message, request_id))
        except (ProtocolError, ValueError) as e:
            raise Refused(f"that cannot be asked of node {short(self.node)}: {e}") from e
        question = self._questions[request_id] = _Question()
        try:
            self._queue(data)
            with trio.move_on_after(timeout_s):
                await question.done.wait()
        finally:
            self._questions.pop(request_id, None)
        if question.failure is not None:
            raise question.failure
        if question.answer is None:
            raise DialFailed(f"node {short(self.node)} did not answer within {timeout_s:.0f} s")
        if isinstance(question.answer, Refusal):
            raise Refused(question.answer.message)
        return question.answer

    def ping(self) -> None:
        """Have the other side say something; `heard_at` shows it."""
        request_id, self._next_id = self._next_id, self._next_id + 1
        self._queue(frame(encode(Ping(), request_id)))

    def tell(self, message: Message) -> None:
        """Queue a notification; it leaves when the loop comes to it, unless the link is cut first.

        What no frame can carry is logged and not sent (an inventory of thousands of models).
        """
        if data := self._frames((message,)):
            self._queue(data)

    def tell_at_once(self, messages: Sequence[Message]) -> None:
        """The same for several, which leave now if nothing is before them, and together.

        For who is about to keep the loop busy, or has much to say: together they cost little more
        than one alone.
        """
        for first in range(0, len(messages), _FRAMES_AT_ONCE):
            data = self._frames(messages[first : first + _FRAMES_AT_ONCE])
            if data and not self._sent_at_once(data):
                self._queue(data)

    def _frames(self, messages: Sequence[Message]) -> bytes:
        frames = []
        for message in messages:
            try:
                frames.append(frame(encode(message)))
            except (ProtocolError, ValueError) as e:
                log.warning("not sent", node=short(self.node), why=str(e))
        return b"".join(frames)

    def close(self, reason: str) -> None:
        """Close it, and tell whoever waits for an answer."""
        self.stream.abort(reason)
        self._closed = True
        self._outbox.clear()
        failure = DialFailed(f"the link to node {short(self.node)} broke: {reason}")
        for question in self._questions.values():
            question.settle(None, failure)
        self._questions.clear()

    def _sent_at_once(self, data: bytes) -> bool:
        """Whether these frames are the stream's now, or can be nobody's any more."""
        if self._closed or self._outbox or self._writing:
            return self._closed
        try:
            taken = self.stream.send_nowait(data)
        except StreamBroken:
            return True  # the reader of the link sees it too
        if self.stream.unsent_bytes:
            self._to_write.set()
        return taken

    def _queue(self, data: bytes) -> None:
        """A peer that reads so slowly that the queue fills loses its link."""
        if self._closed:
            return  # whoever waits is told by `close`
        size = self._outbox_bytes + self.stream.unsent_bytes + len(data)
        if (
            len(self._outbox) >= limits.CONTROL_LINK_OUTBOX_FRAMES
            or size > limits.CONTROL_LINK_OUTBOX_BYTES
        ):
            self.stream.abort(_DOES_NOT_READ)
            return
        self._outbox.append(data)
        self._outbox_bytes += len(data)
        self._to_write.set()

    async def _write(self) -> None:
        """Send what could not be sent at once, as much together as there is."""
        while True:
            await self._to_write.wait()
            self._to_write = trio.Event()
            self._writing = True
            while self._outbox or self.stream.unsent_bytes:
                await self.stream.send_all(self._next_bytes())
            self._writing = False

    def _next_bytes(self) -> bytes:
        """From the outbox, in order."""
        parts, size = [], 0
        while self._outbox and size < _WRITE_BYTES:
            part = self._outbox.popleft()
            parts.append(part)
            size += len(part)
        self._outbox_bytes -= size
        return b"".join(parts)


class AnsweringLink(_Link):
    """The side that was dialled: answers."""

    def __init__(self, node: NodeId, stream: ByteStream, handler: LinkHandler) -> None:
        super().__init__(node, stream)
        self._handler = handler
        self._retired = False
        self._slots = trio.Semaphore(limits.CONTROL_LINK_REQUESTS)
        self._write_lock = trio.Lock()
        self._unsent_bytes = 0
        """Of answers that wait for the other side to read."""

    def retire(self) -> None:
        """Take no further message; what is being answered still is."""
        self._retired = True

    async def run(self) -> None:
        """Answer until the other side ends it in order.

        Raises (in a group) StreamBroken, ProtocolError or Refused.
        """
        async with trio.open_nursery() as nursery:
            reader = FrameReader(limits.CONTROL_FRAME_BYTES)
            while data := await self.stream.receive_some():
                self.heard_at = trio.current_time()
                for payload in reader.feed(data):
                    message, request_id = decode(payload)
                    if self._retired:
                        continue
                    if not self.greeted:
                        await self._greet(_greeting(message))
                        self.greeted = True
                    elif isinstance(message, Ping):
                        await self._send(Pong(), request_id)
                    elif not self._handler.take(self.node, message):
                        await self._slots.acquire()  # backpressure: no more is read meanwhile
                        nursery.start_soon(self._answer, message, request_id)
            nursery.cancel_scope.cancel()

    async def _greet(self, hello: Hello) -> None:
        try:
            self._handler.greeted(self.node, hello)
        except Refused as e:
            await self._send(Refusal(code="refused", message=str(e)), 0)
            await self._until_gone()
            raise
        await self._send(self._handler.hello(), 0)

    async def _until_gone(self) -> None:
        """Let the other side close first, for a moment: a reset could overtake the refusal."""
        size_bytes = 0
        with trio.move_on_after(limits.JOIN_GOODBYE_S):
            while size_bytes < limits.CONTROL_FRAME_BYTES:
                data = await self.stream.receive_some()
                if not data:
                    return
                size_bytes += len(data)

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
            answer = await self._handler.handle(self.node, message)
        except MeshdError as e:
            return Refusal(code=type(e).__name__, message=str(e))
        except Exception:  # one message's task: the link and the node go on
            log.exception("a message could not be handled", message=type(message).__name__)
            return Refusal(code="internal", message="the other node failed; its log says more")
        if isinstance(message, Unknown) and answer is None:
            return Refusal(code="unknown", message="this node does not know that message")
        return answer

    async def _send(self, message: Message, request_id: int) -> None:
        try:
            data = frame(encode(message, request_id))
        except (ProtocolError, ValueError) as e:
            log.error("an answer could not be sent", node=short(self.node), why=str(e))
            refusal = Refusal(code="internal", message="the other node failed; its log says more")
            data = frame(encode(refusal, request_id))
        self._unsent_bytes += len(data)
        if self._unsent_bytes > limits.CONTROL_LINK_OUTBOX_BYTES:
            self.stream.abort(_DOES_NOT_READ)
        try:
            async with self._write_lock:
                await self.stream.send_all(data)
        finally:
            self._unsent_bytes -= len(data)


def _greeting(message: Message) -> Hello:
    """The first message of a link.  Raises Refused with the other side's words, ProtocolError."""
    if isinstance(message, Refusal):
        raise Refused(message.message)
    if not isinstance(message, Hello):
        raise ProtocolError(f"the first frame must be hello, not {type(message).__name__}")
    return message
