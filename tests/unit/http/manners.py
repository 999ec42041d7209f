"""Requests, limits and handlers for clients with bad manners."""

from __future__ import annotations

from meshd.http import RequestLimits, Responder, ServerOptions, ServerRequest

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
GET = HEAD + b"\r\n"
SMALL = ServerOptions(
    request=RequestLimits(head_bytes=200, headers=5, target_bytes=50, body_bytes=100)
)


async def never(request: ServerRequest, responder: Responder) -> None:
    raise AssertionError(f"served {request.method} {request.path} {request.headers}")


async def fine(request: ServerRequest, responder: Responder) -> None:
    await responder.send(200, [], b"fine")
