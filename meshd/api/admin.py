"""The control socket's HTTP side: orders of the command line (trio shell of `meshd.control`).

Who may speak is settled by the socket's mode (0600); what may be said is the table below.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from meshd import control
from meshd.errors import DialFailed, MeshdError, Refused
from meshd.http import Headers, Responder, ServerRequest

JSON = (b"content-type", b"application/json")
BYTES = (b"content-type", b"application/octet-stream")

Order = tuple[str, str]
"""Method and path."""
Route = Callable[[bytes], Awaitable[Any]]
"""Body to what is sent as JSON."""


class Administrator(Protocol):
    """What the daemon can be asked and told.  Raises Refused or DialFailed with a sentence."""

    def status(self) -> control.StatusReport: ...
    def node_rows(self) -> list[control.NodeRow]: ...
    def model_rows(self) -> list[control.ModelRow]: ...
    def record(self) -> control.RecordReport: ...
    async def confirm_clock(self) -> control.Done: ...
    async def backup(self) -> Iterator[bytes]: ...
    async def order_vote(self, order: control.VoteOrder) -> control.VotesDecided: ...
    async def findings(self) -> list[control.Finding]: ...
    async def create_token(self, order: control.TokenOrder) -> control.TokenMade: ...
    def tokens(self) -> list[control.TokenRow]: ...
    async def revoke_token(self, order: control.TokenQuery) -> control.Done: ...
    async def pending(self) -> list[control.PendingRow]: ...
    async def approve(self, order: control.ApproveOrder) -> control.Done: ...
    async def set_drained(self, order: control.NodeOrder, drained: bool) -> control.Done: ...
    async def set_labels(self, order: control.LabelsOrder) -> control.Done: ...
    async def remove(self, order: control.NodeOrder) -> control.Done: ...
    async def leave(self, order: control.LeaveOrder) -> control.Done: ...
    def stop(self) -> control.Done: ...


class AdminApi:
    """Carries out `GET` and `POST /control/...`."""

    def __init__(self, admin: Administrator, more: Mapping[Order, Route] | None = None) -> None:
        """`more` are orders that others carry out."""
        self._admin = admin
        self._routes: dict[Order, Route] = {
            ("GET", "/control/status"): self._now(admin.status),
            ("GET", "/control/nodes"): self._now(admin.node_rows),
            ("GET", "/control/models"): self._now(admin.model_rows),
            ("POST", "/control/record/clock"): lambda _: admin.confirm_clock(),
            ("GET", "/control/record"): self._now(admin.record),
            ("GET", "/control/record/backup"): lambda _: admin.backup(),
            ("POST", "/control/voters"): self._vote,
            ("GET", "/control/doctor"): lambda _: admin.findings(),
            ("GET", "/control/pending"): lambda _: admin.pending(),
            ("POST", "/control/token"): self._token,
            ("GET", "/control/tokens"): self._now(admin.tokens),
            ("POST", "/control/token/revoke"): self._revoke,
            ("POST", "/control/approve"): self._approve,
            ("POST", "/control/drain"): lambda body: self._drain(body, True),
            ("POST", "/control/undrain"): lambda body: self._drain(body, False),
            ("POST", "/control/labels"): self._labels,
            ("POST", "/control/remove"): self._remove,
            ("POST", "/control/leave"): self._leave,
            ("POST", "/control/stop"): self._now(admin.stop),
            **(more or {}),
        }

    async def handle(self, request: ServerRequest, responder: Responder) -> None:
        """The handler of the control socket's HTTP server."""
        route = self._routes.get((request.method, request.path))
        if route is None:
            await _problem(responder, 404, f"no order is called {request.method} {request.path}")
            return
        try:
            result = await route(request.body)
        except msgspec.MsgspecError as e:
            await _problem(responder, 400, f"the order cannot be read: {e}")
        except Refused as e:
            await _problem(responder, 409, str(e))
        except DialFailed as e:
            await _problem(responder, 503, str(e))
        except MeshdError as e:
            await _problem(responder, 500, str(e))
        else:
            if isinstance(result, Iterator):
                await _stream(responder, result)
            else:
                await responder.send(200, [JSON], msgspec.json.encode(result))

    @staticmethod
    def _now(ask: Callable[[], Any]) -> Route:
        async def route(_body: bytes) -> Any:
            return ask()

        return route

    async def _token(self, body: bytes) -> control.TokenMade:
        order = msgspec.json.decode(body or b"{}", type=control.TokenOrder)
        return await self._admin.create_token(order)

    async def _vote(self, body: bytes) -> control.VotesDecided:
        return await self._admin.order_vote(msgspec.json.decode(body, type=control.VoteOrder))

    async def _revoke(self, body: bytes) -> control.Done:
        return await self._admin.revoke_token(msgspec.json.decode(body, type=control.TokenQuery))

    async def _labels(self, body: bytes) -> control.Done:
        return await self._admin.set_labels(msgspec.json.decode(body, type=control.LabelsOrder))

    async def _remove(self, body: bytes) -> control.Done:
        return await self._admin.remove(msgspec.json.decode(body, type=control.NodeOrder))

    async def _leave(self, body: bytes) -> control.Done:
        order = msgspec.json.decode(body or b"{}", type=control.LeaveOrder)
        return await self._admin.leave(order)

    async def _approve(self, body: bytes) -> control.Done:
        return await self._admin.approve(msgspec.json.decode(body, type=control.ApproveOrder))

    async def _drain(self, body: bytes, drained: bool) -> control.Done:
        order = msgspec.json.decode(body or b"{}", type=control.NodeOrder)
        return await self._admin.set_drained(order, drained)


def problem_body(status: int, message: str, path: str) -> tuple[Headers, bytes]:
    """A `Problem` for what went wrong below the handler: `ServerOptions.error_body`."""
    del status, path
    return [JSON], msgspec.json.encode(control.Problem(message))


async def _stream(responder: Responder, pieces: Iterator[bytes]) -> None:
    """Bytes that say themselves whether they are whole."""
    await responder.start(200, [BYTES])
    for piece in pieces:
        await responder.write(piece)
    await responder.finish()


async def _problem(responder: Responder, status: int, sentence: str) -> None:
    await responder.send(status, [JSON], msgspec.json.encode(control.Problem(sentence)))
