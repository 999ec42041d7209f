"""A queued request run as if a client had sent it: the same decoding, placement and answer."""

from __future__ import annotations

from meshd.api.server import ClientApi
from meshd.http import Responder, ServerRequest
from meshd.http.responder import Drain
from meshd.jobs.finished import Attempt
from meshd.jobs.trace_rows import Ended

_HEADERS = [(b"content-type", b"application/json")]


class _KeptWire:
    """Stands where a client's connection would be, and keeps what it would be sent."""

    def __init__(self) -> None:
        self.drain = Drain()
        self.sent = bytearray()

    def push(self, data: bytes) -> bytes | None:
        self.sent += data
        return None

    async def flush(self, data: bytes) -> None:
        self.sent += data

    def send_nowait(self, data: bytes) -> bool:
        self.sent += data
        return True

    def abort(self, reason: str) -> None:
        """There is no connection to break."""


async def run_job(api: ClientApi, path: str, body: bytes) -> tuple[int, bytes, tuple[Attempt, ...]]:
    """Status and body of the answer to a request that asks for no stream; and what it took."""
    wire, ended = _KeptWire(), list[Ended]()
    request = ServerRequest("POST", path, "", list(_HEADERS), body)
    await api.handle(request, Responder(wire, request), ended.append)
    head, _, answer = bytes(wire.sent).partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), answer, ended[-1].attempts if ended else ()
