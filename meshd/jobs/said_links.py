"""What a run says, between the node that runs it and one where somebody listens (trio shell).

`POST /mesh/v1/said` on the peer link; proto/peer.md has the rules.  A broken link costs nothing:
the asker goes on from the byte that it has (`from_byte`), as long as the fence is the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from meshd import limits
from meshd.errors import DialFailed, NotAdmitted, ProtocolError, Refused, StreamBroken
from meshd.http import ClientResponse, HttpClient, Responder, ServerRequest
from meshd.ids import NodeId
from meshd.jobs.said import Answer, Broken, End, Listener, NotHeard, Said, Whole
from meshd.wire.said import (
    SAID_PATH,
    SaidFrame,
    SaidKind,
    SaidReader,
    SaidRequest,
    decode_said_request,
    encode_said_request,
    said_frame,
)
from meshd.wire.serve import FORWARDED_HEADER

_FRAMES: Final = (b"content-type", b"application/x-meshd-said")
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_HEADERS: Final = ((b"content-type", b"application/msgpack"), (FORWARDED_HEADER, b"1"))
_BEAT: Final = said_frame(SaidKind.BEAT)


async def serve_said(
    said_of: Callable[[int, int], Awaitable[Said]], request: ServerRequest, responder: Responder
) -> None:
    """Tell another node what a run of this one says, until its end.

    `said_of` finds it by job and fence, or raises NotHeard.  Raises ProtocolError, StreamBroken.
    """
    asked = decode_said_request(request.body)
    try:
        said = await said_of(asked.job, asked.fence)
        with said.listen(asked.from_byte) as listener:
            await responder.start(200, [_FRAMES])
            with trio.CancelScope() as scope:
                responder.on_disconnect = scope.cancel
                await _tell(listener, responder)
    except NotHeard as error:
        await responder.send(404, [_TEXT], str(error).encode())
    except Refused as error:
        await responder.send(416, [_TEXT], str(error).encode())


async def _tell(listener: Listener, responder: Responder) -> None:
    while True:
        said: bytes | End | None = None
        with trio.move_on_after(limits.BEAT_S):
            said = await listener.next()
        match said:
            case None:
                await responder.write(_BEAT)
            case b"":
                await responder.write(said_frame(SaidKind.QUIET))
            case bytes():
                await responder.write(said_frame(SaidKind.DATA, said))
            case Whole():
                return await responder.finish(said_frame(SaidKind.WHOLE))
            case Broken(last=last):
                return await responder.finish(said_frame(SaidKind.BROKEN, last))
            case Answer():  # it never was a stream, so nothing of one was heard
                return await responder.finish(said_frame(SaidKind.BROKEN))


class SaidLinks:
    """Listens to runs at other nodes."""

    def __init__(self, pool_of: Callable[[NodeId], HttpClient]) -> None:
        """`pool_of` gives the HTTP connections to a member."""
        self._pool_of = pool_of

    @asynccontextmanager
    async def listen(
        self, node: NodeId, job: int, fence: int, from_byte: int
    ) -> AsyncIterator[Listener]:
        """Hear that run from there on.  Raises NotHeard, also out of the listener."""
        response = await self._ask(node, SaidRequest(job, fence, from_byte))
        try:
            yield _RemoteListener(response)
        finally:
            response.abort("nobody listens any more")

    async def _ask(self, node: NodeId, asked: SaidRequest) -> ClientResponse:
        body = encode_said_request(asked)
        response: ClientResponse | None = None
        text = b"it gives no answer"
        try:
            with trio.move_on_after(limits.DIAL_S + limits.HOLDER_SILENT_S):
                response = await self._pool_of(node).request("POST", SAID_PATH, _HEADERS, body)
                if response.status == 200:
                    return response
                text = await response.read(limits.KIB * 4)
        except (DialFailed, NotAdmitted, StreamBroken, ProtocolError) as error:
            raise NotHeard(f"the node that runs it cannot be asked: {error}") from error
        finally:
            if response is not None and response.status != 200:
                response.abort("it was no answer")
        raise NotHeard(f"the node that runs it says: {text.decode(errors='replace')}")


class _RemoteListener:
    """Reads the answer to `POST /mesh/v1/said`."""

    def __init__(self, response: ClientResponse) -> None:
        self._response = response
        self._reader = SaidReader()
        self._frames: deque[SaidFrame] = deque()

    async def next(self) -> bytes | End:
        while True:
            frame = self._frames.popleft() if self._frames else None
            match frame:
                case None:
                    self._frames += await self._read()
                case SaidFrame(kind=SaidKind.DATA, data=data) if data:
                    return data
                case SaidFrame(kind=SaidKind.QUIET):
                    return b""
                case SaidFrame(kind=SaidKind.WHOLE):
                    return await self._over(Whole())
                case SaidFrame(kind=SaidKind.BROKEN, data=data):
                    return await self._over(Broken(data))

    async def _over(self, end: End) -> End:
        with suppress(StreamBroken, ProtocolError):  # it has said all; the connection is reused
            await self._response.read_some()
        return end

    async def _read(self) -> list[SaidFrame]:
        data = b""
        try:
            with trio.move_on_after(limits.HOLDER_SILENT_S) as scope:
                data = await self._response.read_some()
            frames = self._reader.feed(data)
        except (StreamBroken, ProtocolError) as error:
            raise NotHeard(f"the node that runs it went away: {error}") from error
        if scope.cancelled_caught:
            raise NotHeard("the node that runs it has fallen silent")
        if not data:
            raise NotHeard("the node that runs it stopped in the middle")
        return frames
