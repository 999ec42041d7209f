"""Blobs between two nodes: sent and fetched in parts over the control links (trio shell).

Over these and not over connections of their own: most blobs are a few parts, a link is there
already and says at once when the other side is gone.  The log's heartbeats go over the same link,
so what is on its way to and from one node is bounded by what a slow link carries between two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from meshd import limits
from meshd.errors import ProtocolError, Refused
from meshd.ids import NodeId, short
from meshd.wire.control import Message
from meshd.wire.control_record import BlobData, BlobHeld, BlobPart, BlobRequest

Ask = Callable[[NodeId, Message, float], Awaitable[Message]]
"""`ControlLinks.request`: (node, question, timeout_s); raises MeshdError."""

_STRIKES: Final = 3
"""A node that forgets what it was sent so often is given up."""


class Courier:
    """Carries blobs to and from other nodes."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._windows: dict[NodeId, _Window] = {}

    async def send(self, node: NodeId, digest: bytes, data: bytes) -> None:
        """Have it stored there; durable when this returns.

        Raises MeshdError: there is no link, no room, no answer in time, or nonsense for one.
        """
        offset, strikes = 0, 0
        # The last part's answer waits for all of it to be synced.
        answer_s = limits.BLOB_ANSWER_S + len(data) / limits.BLOB_HEAL_BYTES_PER_S
        while True:
            part = data[offset : offset + limits.BLOB_PART_BYTES]
            message = BlobPart(digest=digest, size_bytes=len(data), offset=offset, data=part)
            async with self._room(node, len(part)):
                answer = await self._ask(node, message, answer_s)
            if not isinstance(answer, BlobHeld):
                raise _nonsense(node, message, answer)
            if answer.whole:
                return
            if answer.upto >= len(data):
                raise ProtocolError(f"node {short(node)} has all of a blob and not the whole")
            strikes += answer.upto <= offset
            if strikes > _STRIKES:
                raise Refused(f"node {short(node)} forgets what it is sent of a blob")
            offset = answer.upto

    async def fetch(self, node: NodeId, digest: bytes) -> bytes | None:
        """What that node has under this digest, unchecked; None if it does not have it.

        Raises MeshdError as `send`.
        """
        found, size = bytearray(), 0
        while not size or len(found) < size:
            message = BlobRequest(digest=digest, offset=len(found))
            async with self._room(node, limits.BLOB_PART_BYTES):
                answer = await self._ask(node, message, limits.BLOB_ANSWER_S)
            if not isinstance(answer, BlobData):
                raise _nonsense(node, message, answer)
            if not answer.size_bytes:
                return None
            size = size or answer.size_bytes
            if not answer.data or answer.size_bytes != size:
                raise ProtocolError(f"node {short(node)} sends parts that do not fit to each other")
            if len(found) + len(answer.data) > size:
                raise ProtocolError(f"node {short(node)} sends more of a blob than there is of it")
            found += answer.data
        return bytes(found)

    @asynccontextmanager
    async def _room(self, node: NodeId, size_bytes: int) -> AsyncIterator[None]:
        window = self._windows.setdefault(node, _Window())
        await window.enter(size_bytes)
        try:
            yield
        finally:
            window.leave(size_bytes)
            if window.is_idle:
                self._windows.pop(node, None)


class _Window:
    """What may be on its way to one node at a time; who waits gets in in order."""

    def __init__(self) -> None:
        self._bytes = limits.BLOB_WINDOW_BYTES
        self._parts = limits.BLOB_WINDOW_PARTS
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    @property
    def is_idle(self) -> bool:
        return self._parts == limits.BLOB_WINDOW_PARTS and not self._waiting

    async def enter(self, size_bytes: int) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        place = (size_bytes, trio.Event())
        self._waiting.append(place)
        self._let_in()
        try:
            await place[1].wait()
        except trio.Cancelled:
            if place in self._waiting:
                self._waiting.remove(place)
                self._let_in()
            else:
                self.leave(size_bytes)
            raise

    def leave(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        self._parts += 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._parts and self._waiting[0][0] <= self._bytes:
            size_bytes, turn = self._waiting.popleft()
            self._bytes -= size_bytes
            self._parts -= 1
            turn.set()


def _nonsense(node: NodeId, question: Message, answer: Message) -> ProtocolError:
    what = f"{type(answer).__name__} is no answer to {type(question).__name__}"
    return ProtocolError(f"node {short(node)}: {what}")
