"""Consent to newcomers without a token, at whichever member they wait (trio shell)."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import trio

from meshd import control, limits, logs
from meshd.errors import MeshdError, ProtocolError, Refused
from meshd.identity.pairing import WrongDigits, read_digits
from meshd.ids import NodeId, short
from meshd.peers.join_server import JoinServer, Waiting
from meshd.peers.links import ControlLinks
from meshd.peers.switchboard import Switchboard
from meshd.wire.control import Done, Message
from meshd.wire.control_mesh import Approve, PendingReply, PendingRequest

log = logs.get("office")

ASK_S = 5.0


class Consents:
    """Who waits, and the digits that a person has typed at this node."""

    def __init__(
        self,
        node: NodeId,
        links: ControlLinks,
        switchboard: Switchboard,
        name_of: Callable[[NodeId], str],
    ) -> None:
        self._node = node
        self._links = links
        self._name_of = name_of
        self._join_server: JoinServer | None = None
        switchboard.answer(PendingRequest, self._pending_asked)
        switchboard.answer(Approve, self._approve_asked)

    def use_door(self, join_server: JoinServer) -> None:
        """Where newcomers knock at this node."""
        self._join_server = join_server

    async def pending(self) -> list[control.PendingRow]:
        """Who waits for consent, at whichever member."""
        return [row for desk in await self._desks() for row in desk.rows]

    async def approve(self, digits: str) -> control.Done:
        """Consent to the newcomer who shows these digits, at whichever member it waits.

        Every pairing begun anywhere is one more guess at the digits, for somebody in the middle.
        So in all that this looks at, no more may have been begun than one member allows; if there
        were more, only this node's own are looked at.  And digits that fit nobody, or several, send
        away all that were looked at.  Raises Refused.
        """
        digits = read_digits(digits)
        desks = await self._desks()
        crowded = sum(desk.begun for desk in desks) > limits.PAIRING_TRIES
        looked_at = [desk for desk in desks if desk.node == self._node or not crowded]
        fitting = [desk for desk in looked_at for row in desk.rows if _same(row.digits, digits)]
        if len(fitting) == 1:
            return await self._approve_at(fitting[0].node, digits)
        for desk in looked_at:
            if desk.rows:
                await self._refuse_all_at(desk.node, digits)
        if crowded and (elsewhere := [d.node for d in desks if d.rows and d.node != self._node]):
            raise Refused(
                "so many machines asked to join lately, at several nodes, that digits could be "
                "guessed: type this on the node that the new machine was told to join "
                f"({', '.join(sorted(map(self._name_of, elsewhere)))})"
            )
        if not any(desk.rows for desk in looked_at):
            raise Refused("No machine is waiting for consent at any node that can be reached.")
        raise WrongDigits(digits)

    # ---------------------------------------------------------------- orders from others

    async def _pending_asked(self, node: NodeId, message: PendingRequest) -> Message:
        here = self._desk_here()
        rows = [msgspec.to_builtins(row) for row in here.rows]
        return PendingReply(rows=rows[: limits.PAIRINGS_PENDING], begun=here.begun)

    async def _approve_asked(self, node: NodeId, message: Approve) -> Message:
        if message.refuse:
            self._refuse_all_here()
            return Done(message="all that waited were sent away")
        return Done(message=self._approve_here(message.digits))

    # ---------------------------------------------------------------- inside

    async def _desks(self) -> list[_Desk]:
        """Who waits where, this node first; those that do not answer are left out."""
        desks = [self._desk_here()]

        async def ask(node: NodeId) -> None:
            try:
                reply = await self._links.request(node, PendingRequest(), ASK_S)
                if isinstance(reply, PendingReply):
                    desks.append(_Desk(node, _rows(reply), reply.begun or 0))
            except MeshdError:
                return  # the others are listed all the same

        async with trio.open_nursery() as nursery:
            for node in self._links.up():
                nursery.start_soon(ask, node)
        return desks

    def _desk_here(self) -> _Desk:
        if self._join_server is None:
            return _Desk(self._node, [], 0)
        rows = [_row(waiting) for waiting in self._join_server.pending()]
        return _Desk(self._node, rows, self._join_server.begun())

    async def _approve_at(self, node: NodeId, digits: str) -> control.Done:
        if node == self._node:
            return control.Done(self._approve_here(digits))
        done = await self._links.request(node, Approve(digits=digits), ASK_S)
        return control.Done(done.message if isinstance(done, Done) else "approved")

    async def _refuse_all_at(self, node: NodeId, digits: str) -> None:
        if node == self._node:
            return self._refuse_all_here()
        try:
            await self._links.request(node, Approve(digits=digits, refuse=True), ASK_S)
        except MeshdError as e:
            log.warning("who waits there was not sent away", node=short(node), why=str(e))

    def _refuse_all_here(self) -> None:
        if self._join_server is not None:
            self._join_server.refuse_all()

    def _approve_here(self, digits: str) -> str:
        if self._join_server is None:
            raise Refused("nobody is waiting to be let in")
        waiting = self._join_server.approve(digits)
        if waiting.newcomer_agreed:
            return f"{waiting.name} is being admitted"
        return f"{waiting.name} is admitted as soon as its own screen is confirmed too"


class _Desk(NamedTuple):
    """Who waits for consent at one member."""

    node: NodeId
    rows: list[control.PendingRow]
    begun: int


def _row(waiting: Waiting) -> control.PendingRow:
    return control.PendingRow(
        digits=waiting.digits,
        name=waiting.name,
        address=waiting.address,
        waiting_s=round(waiting.waiting_s, 1),
    )


def _rows(reply: PendingReply) -> list[control.PendingRow]:
    try:
        return msgspec.convert(reply.rows, list[control.PendingRow])
    except msgspec.ValidationError as e:
        raise ProtocolError(f"a list of newcomers is malformed: {e}") from e


def _same(digits: str, typed: str) -> bool:
    return hmac.compare_digest(digits.encode(), typed.encode())
