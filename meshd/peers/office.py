"""What is decided for the whole mesh: tokens, newcomers, drains, leaving, renewals (trio shell).

The founder decides (it alone has the CA's key); every other node carries the order to it over the
control link, so that any node may be asked.  When the record takes over, this file is what changes:
its callers and the readers of the registry do not.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import msgspec
import trio

from meshd import control, limits, logs
from meshd.errors import DialFailed, MeshdError, ProtocolError, Refused
from meshd.identity.keys import PublicKey
from meshd.identity.pairing import WrongDigits, read_digits
from meshd.ids import Address, NodeId, short
from meshd.peers.join_admit import FounderAdmitter
from meshd.peers.join_server import JoinServer, Waiting
from meshd.peers.links import ControlLinks
from meshd.peers.switchboard import Switchboard
from meshd.record import MemberRegistry
from meshd.wire.control import Done, Message
from meshd.wire.control_mesh import (
    AdmitReply,
    AdmitRequest,
    Approve,
    Drain,
    Leave,
    PendingReply,
    PendingRequest,
    Renewed,
    RenewRequest,
    TokenCreate,
    TokenCreated,
)
from meshd.wire.join import Admitted, JoinRefusal, JoinRequest, Reason

M = TypeVar("M", bound=Message)

log = logs.get("office")

ADMIT_S = 20.0
ASK_S = 5.0


class MeshOffice:
    """Orders for the mesh, from this node's command line and from other members."""

    def __init__(
        self,
        node: NodeId,
        registry: MemberRegistry,
        links: ControlLinks,
        switchboard: Switchboard,
        founder: FounderAdmitter | None,
        join_addresses: Callable[[], Sequence[Address]],
    ) -> None:
        """`founder` is there where this node holds the CA's key."""
        self._node = node
        self._registry = registry
        self._links = links
        self._founder = founder
        self._join_addresses = join_addresses
        self._join_server: JoinServer | None = None
        switchboard.answer(AdmitRequest, self._admit_asked)
        switchboard.answer(TokenCreate, self._token_asked)
        switchboard.answer(PendingRequest, self._pending_asked)
        switchboard.answer(Approve, self._approve_asked)
        switchboard.answer(Drain, self._drain_asked)
        switchboard.answer(Leave, self._leave_asked)
        switchboard.answer(RenewRequest, self._renew_asked)

    def use_door(self, join_server: JoinServer) -> None:
        """Where newcomers knock at this node."""
        self._join_server = join_server

    # ---------------------------------------------------------------- orders from this node

    async def create_token(self, order: control.TokenOrder) -> control.TokenMade:
        """A token that lets newcomers in."""
        ttl_s = order.ttl_s if order.ttl_s is not None else limits.TOKEN_TTL_S
        if ttl_s <= 0 or order.uses < 1:
            raise Refused("a token needs a lifetime and a number of uses above zero")
        if self._founder is not None:
            token = self._founder.create_token(ttl_s=ttl_s, uses=order.uses)
            made = TokenCreated(
                token=token.text, expires_unix_s=token.expires_unix_s, uses=token.uses
            )
        else:
            made = await self._ask_founder(TokenCreate(ttl_s=ttl_s, uses=order.uses), TokenCreated)
        addresses = [str(address) for address in self._join_addresses()]
        return control.TokenMade(made.token, made.expires_unix_s, made.uses, addresses)

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

    async def set_drained(self, node: NodeId, drained: bool) -> control.Done:
        """Give that node no new work, or again."""
        if self._founder is None:
            done = await self._ask_founder(Drain(node=node, on=drained), Done)
            return control.Done(done.message)
        return control.Done(self._drain(node, drained))

    async def leave(self) -> control.Done:
        """This node leaves the mesh for good."""
        if self._founder is not None:
            if len(self._registry.members()) > 1:
                raise Refused(
                    "this node founded the mesh and alone can admit others: it cannot leave while "
                    "they are in. Let the others leave first."
                )
            return control.Done("left: the mesh of one is dissolved")
        done = await self._ask_founder(Leave(node=self._node), Done)
        return control.Done(done.message)

    async def renew(self, key: PublicKey) -> bytes:
        """A new certificate (DER) for this node's key."""
        if self._founder is not None:
            return self._founder.renew(key.der)
        renewed = await self._ask_founder(RenewRequest(public_key=key.der), Renewed)
        return renewed.certificate

    # ---------------------------------------------------------------- `Admitter`

    async def admit(self, request: JoinRequest) -> Admitted | JoinRefusal:
        """Decide on a newcomer who knocked at this node: here or at the founder."""
        if self._founder is not None:
            return await self._founder.admit(request)
        try:
            reply = await self._links.request(
                self._registry.founder, AdmitRequest(request=request.to_fields()), ADMIT_S
            )
            if isinstance(reply, AdmitReply) and reply.admitted is not None:
                return Admitted.from_fields(reply.admitted)
            if isinstance(reply, AdmitReply) and reply.refusal is not None:
                return JoinRefusal.from_fields(reply.refusal)
            raise ProtocolError(f"the founder answered with {type(reply).__name__}")
        except DialFailed:
            return JoinRefusal(
                reason=Reason.FOUNDER_UNREACHABLE,
                message=f"{self._founder_name()}, which founded this mesh and alone can admit "
                "others, is not reachable now: start it and try again.",
            )
        except MeshdError as e:
            return JoinRefusal(reason=Reason.FAILED, message=str(e))

    # ---------------------------------------------------------------- orders from others

    async def _admit_asked(self, node: NodeId, message: AdmitRequest) -> Message:
        request = JoinRequest.from_fields(message.request)
        outcome = await self._need_founder().admit(request, via=node)
        if isinstance(outcome, Admitted):
            return AdmitReply(admitted=outcome.to_fields())
        return AdmitReply(refusal=msgspec.to_builtins(outcome, builtin_types=(bytes,)))

    async def _token_asked(self, node: NodeId, message: TokenCreate) -> Message:
        token = self._need_founder().create_token(ttl_s=message.ttl_s, uses=message.uses)
        return TokenCreated(token=token.text, expires_unix_s=token.expires_unix_s, uses=token.uses)

    async def _pending_asked(self, node: NodeId, message: PendingRequest) -> Message:
        here = self._desk_here()
        rows = [msgspec.to_builtins(row) for row in here.rows]
        return PendingReply(rows=rows[: limits.PAIRINGS_PENDING], begun=here.begun)

    async def _approve_asked(self, node: NodeId, message: Approve) -> Message:
        if message.refuse:
            self._refuse_all_here()
            return Done(message="all that waited were sent away")
        return Done(message=self._approve_here(message.digits))

    async def _drain_asked(self, node: NodeId, message: Drain) -> Message:
        return Done(message=self._drain(NodeId(message.node), message.on))

    async def _leave_asked(self, node: NodeId, message: Leave) -> Message:
        if message.node != node:
            raise Refused("a node can only take itself off the list")
        founder = self._need_founder()
        with self._links.letting_leave(node):
            founder.remove(node)
        return Done(message="left: this node is no member any more")

    async def _renew_asked(self, node: NodeId, message: RenewRequest) -> Message:
        key = self._registry.key_of(node)
        if key is None or key.der != message.public_key:
            raise Refused("a node can only renew its own certificate")
        return Renewed(certificate=self._need_founder().renew(message.public_key))

    # ---------------------------------------------------------------- inside

    def _drain(self, node: NodeId, drained: bool) -> str:
        member = self._need_founder().set_drained(node, drained)
        if drained:
            return f"{member.name} is drained: it finishes what it has and gets no new requests"
        return f"{member.name} takes requests again"

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

    def _need_founder(self) -> FounderAdmitter:
        if self._founder is None:
            raise Refused(f"{self._founder_name()} founded this mesh and decides on that")
        return self._founder

    async def _ask_founder(self, message: Message, kind: type[M]) -> M:
        try:
            answer = await self._links.request(self._registry.founder, message, ASK_S)
        except DialFailed as e:
            raise DialFailed(
                f"{self._founder_name()}, which founded this mesh and decides on that, is not "
                f"reachable now ({e}); start it and try again"
            ) from e
        if not isinstance(answer, kind):
            raise ProtocolError(f"the founder answered with {type(answer).__name__}")
        return answer

    def _founder_name(self) -> str:
        return self._name_of(self._registry.founder)

    def _name_of(self, node: NodeId) -> str:
        member = self._registry.get(node)
        return member.name if member else short(node)


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
