"""Upstreams with an answer that is given, and its body."""

from __future__ import annotations

from trio.testing import wait_all_tasks_blocked

from meshd.http import ClientResponse
from meshd.ports import ByteStream
from tests.unit.http.rig import Script, read_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def answers(*pieces: bytes, close: bool = True, requests: int = 1) -> Script:
    """Read a request, send these pieces, one at a time; as often as told."""

    async def script(stream: ByteStream) -> None:
        for _ in range(requests):
            await read_until(stream, b"\r\n\r\n")
            for piece in pieces:
                await stream.send_all(piece)
                await wait_all_tasks_blocked()
        if close:
            await stream.aclose()

    return script


async def body_of(response: ClientResponse) -> bytes:
    data = b""
    while piece := await response.read_some():
        data += piece
    return data
