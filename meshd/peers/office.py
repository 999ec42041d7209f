"""What is decided for the whole mesh: tokens, newcomers, drains, removals, renewals (trio shell).

Decisions are commands to the record, so they may be given at any node; what takes the CA's key is
asked of a member that holds it, where this one does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from meshd import control, limits, logs
from meshd.errors import DialFailed, MeshdError, ProtocolError, Refused
from meshd.identity.keys import PublicKey
from meshd.identity.tokens import TOKEN_ID_BYTES, TOKEN_SECRET_BYTES, new_token
from meshd.ids import Address, NodeId, short
from meshd.peers.admission import DECIDE_S, AdmissionDesk
from meshd.peers.consents import Consents
from meshd.peers.keys import MeshKeys
from meshd.peers.links import ControlLinks
from meshd.peers.mesh_record import MeshRecord
from meshd.peers.switchboard import Switchboard
from meshd.ports import Entropy
from meshd.record import Code, MemberRegistry, RecordRefused
from meshd.record.commands_registry import (
    ChangeNode,
    Command,
    CreateToken,
    Remove,
    RevokeToken,
)
from meshd.wire.control import Done, Message
from meshd.wire.control_mesh import (
    AdmitReply,
    AdmitRequest,
    Leave,
    Renewed,
    RenewRequest,
)
from meshd.wire.join import Admitted, JoinRefusal, JoinRequest, Reason

M = TypeVar("M", bound=Message)

log = logs.get("office")

ASKED_MAX: Final = 3
"""So many members are asked, one after the other, before a newcomer is told no."""
ASK_S: Final = DECIDE_S + 4.0
"""For another member to decide; three of them answer before a newcomer's time is over."""


class Undecided(DialFailed):
    """The record could not be written: the text says why, who is missing and what helps."""


class MeshOffice:
    """Orders for the mesh, from this node's command line and from other members."""

    def __init__(
        self,
        node: NodeId,
        registry: MemberRegistry,
        links: ControlLinks,
        switchboard: Switchboard,
        keys: MeshKeys,
        entropy: Entropy,
        join_addresses: Callable[[], Sequence[Address]],
    ) -> None:
        self._node = node
        self._registry = registry
        self._links = links
        self._keys = keys
        self._entropy = entropy
        self._join_addresses = join_addresses
        self._own_record: MeshRecord | None = None
        self._own_desk: AdmissionDesk | None = None
        self.consents = Consents(node, links, switchboard, self._name_of)
        self.leaving = False
        """This node has asked to be taken off the member list."""
        switchboard.answer(AdmitRequest, self._admit_asked)
        switchboard.answer(Leave, self._leave_asked)
        switchboard.answer(RenewRequest, self._renew_asked)

    def use_record(self, record: MeshRecord, desk: AdmissionDesk) -> None:
        """Where decisions are written, and who decides on newcomers if this node can."""
        self._own_record, self._own_desk = record, desk

    # ---------------------------------------------------------------- orders from this node

    async def create_token(self, order: control.TokenOrder) -> control.TokenMade:
        """A token that lets newcomers in."""
        ttl_s = order.ttl_s if order.ttl_s is not None else limits.TOKEN_TTL_S
        if not 0 < ttl_s <= limits.TOKEN_TTL_MAX_S:
            days = limits.TOKEN_TTL_MAX_S / 86_400
            raise Refused(f"a token's lifetime is above zero and at most {days:.0f} days")
        if not 1 <= order.uses <= limits.MEMBERS:
            raise Refused(f"a token's number of uses is above zero and at most {limits.MEMBERS}")
        random = self._entropy.token
        token = new_token(self._registry.ca.id, random(TOKEN_ID_BYTES), random(TOKEN_SECRET_BYTES))
        command = CreateToken(
            id=token.id, key=token.key, ttl_ms=max(1, round(ttl_s * 1000)), uses=order.uses
        )
        try:
            await self._record.now_unix_ms()  # a lifetime counts from now, not from the last entry
            said = await self._carry_out(command)
        except RecordRefused as refusal:
            if refusal.code is not Code.TOO_MANY:
                raise
            raise Refused(
                f"There are {limits.TOKENS} good tokens already: revoke one with `meshd token "
                "revoke`, or wait until one has expired."
            ) from refusal
        addresses = [str(address) for address in self._join_addresses()]
        expires_unix_s = said["expires_unix_ms"] / 1000
        return control.TokenMade(token.text(), expires_unix_s, order.uses, addresses)

    def tokens(self) -> list[control.TokenRow]:
        """The tokens on record, as of now here; oldest first."""
        state = self._record.state
        rows = sorted(state.tokens.rows(), key=lambda row: (row.created_unix_ms, row.id))
        now_unix_ms = state.clock.now_unix_ms
        return [
            control.TokenRow(
                id=row.id,
                uses=row.uses,
                used_by=[self._name_of(NodeId(node)) for node in row.used_by],
                expires_unix_s=row.expires_unix_ms / 1000,
                good=now_unix_ms < row.expires_unix_ms and len(row.used_by) < row.uses,
            )
            for row in rows
        ]

    async def revoke_token(self, token: str) -> control.Done:
        """Let nobody in by that token any more; `token` is its id, or the whole of it."""
        token_id = token.strip().partition(".")[0].rpartition("-")[2]
        if self._record.state.tokens.get(token_id) is None:
            raise Refused(f"There is no token with the id {token_id[:16]!r}: see meshd token list")
        await self._carry_out(RevokeToken(id=token_id))
        return control.Done(f"token {token_id} lets nobody in any more")

    async def set_drained(self, node: NodeId, drained: bool) -> control.Done:
        """Give that node no new work, or again."""
        said = await self._carry_out(ChangeNode(node=node, drained=drained))
        if drained:
            return control.Done(
                f"{said['name']} is drained: it finishes what it has and gets no new requests"
            )
        return control.Done(f"{said['name']} takes requests again")

    async def set_labels(self, node: NodeId, labels: Sequence[str]) -> control.Done:
        """Give that node these labels, and no others."""
        kept = tuple(sorted(set(labels)))
        if len(kept) > limits.LABELS_PER_NODE or not all(
            0 < len(label) <= limits.LABEL_CHARS and label.isprintable() for label in kept
        ):
            raise Refused(
                f"A node has at most {limits.LABELS_PER_NODE} labels "
                f"of 1 to {limits.LABEL_CHARS} characters."
            )
        said = await self._carry_out(ChangeNode(node=node, labels=kept))
        return control.Done(
            f"{said['name']} has {'the labels ' + ', '.join(kept) if kept else 'no label'} now"
        )

    async def remove(self, node: NodeId) -> control.Done:
        """Take another node out of the mesh for good; the keys of datagrams change with it."""
        if node == self._node:
            raise Refused("that is this node: `meshd leave` takes it out of the mesh")
        name = self._name_of(node)
        away = [
            self._name_of(member.id)
            for member in self._registry.members()
            if member.id not in (node, self._node) and not self._links.is_up(member.id)
        ]
        await self._take_out(node)
        later = f" ({', '.join(away)}: on return)" if away else ""
        return control.Done(
            f"{name} is no member any more: its links are closed everywhere{later}, the gossip key "
            "is a new one, and join tokens made before are revoked. To let that machine in again, "
            "start it with a fresh data directory."
        )

    async def leave(self) -> control.Done:
        """Have this node taken off the member list: it holds nothing that only it can hold."""
        self.leaving = True
        try:
            # Another one makes the new gossip key, which this node must not have.
            done = await self._ask(self._links.up(), Leave(node=self._node), Done)
        except MeshdError:
            if not self._registry.is_removed(self._node):
                self.leaving = False
                raise
            return control.Done("left: this node is no member any more")
        return control.Done(done.message)

    async def renew(self, key: PublicKey) -> bytes:
        """A new certificate (DER) for this node's key."""
        if self._decides_here():
            return await self._desk.renew(key.der)
        renewed = await self._ask(self._holders(), RenewRequest(public_key=key.der), Renewed)
        return renewed.certificate

    # ---------------------------------------------------------------- `Admitter`

    async def admit(self, request: JoinRequest) -> Admitted | JoinRefusal:
        """Decide on a newcomer who knocked at this node: here, or at a member that can."""
        if self._decides_here():
            return await self._desk.admit(request, self._node)
        message = AdmitRequest(request=request.to_fields())
        undecided = ""
        for node in self._holders()[:ASKED_MAX]:
            try:
                reply = await self._links.request(node, message, ASK_S)
                outcome = _outcome(reply)
            except MeshdError as e:
                log.info("a newcomer is taken elsewhere", node=short(node), why=str(e))
                undecided = undecided or f"{self._name_of(node)} does not decide: {e}"
                continue
            if isinstance(outcome, Admitted) or outcome.known_reason is not Reason.UNDECIDED:
                return outcome
            undecided = outcome.message
        why = undecided or self._who_could()
        return JoinRefusal(reason=Reason.UNDECIDED, message=why[: limits.TEXT_CHARS])

    # ---------------------------------------------------------------- orders from others

    async def _admit_asked(self, node: NodeId, message: AdmitRequest) -> Message:
        request = JoinRequest.from_fields(message.request)
        outcome = await self._desk.admit(request, node)
        if isinstance(outcome, Admitted):
            return AdmitReply(admitted=outcome.to_fields())
        return AdmitReply(refusal=msgspec.to_builtins(outcome, builtin_types=(bytes,)))

    async def _leave_asked(self, node: NodeId, message: Leave) -> Message:
        if message.node != node:
            raise Refused("a node can only take itself off the list")
        with self._links.letting_leave(node):
            await self._take_out(node)
        return Done(message="left: this node is no member any more")

    async def _renew_asked(self, node: NodeId, message: RenewRequest) -> Message:
        key = self._registry.key_of(node)
        if key is None or key.der != message.public_key:
            raise Refused("a node can only renew its own certificate")
        return Renewed(certificate=await self._desk.renew(message.public_key))

    # ---------------------------------------------------------------- inside

    @property
    def _record(self) -> MeshRecord:
        assert self._own_record is not None, "a node's record is made with its office"
        return self._own_record

    @property
    def _desk(self) -> AdmissionDesk:
        assert self._own_desk is not None, "a node's desk is made with its office"
        return self._own_desk

    def _decides_here(self) -> bool:
        """Whether this node can let others in, if enough voters are there."""
        return self._desk.is_open and self._record.runs()

    async def _take_out(self, node: NodeId) -> None:
        await self._carry_out(Remove(node=node, gossip_key=self._keys.make()))

    async def _carry_out(self, command: Command) -> dict[str, Any]:
        """Raises Refused with the record's own no, Undecided if it cannot say either."""
        try:
            return await self._record.execute(command)
        except RecordRefused:
            raise
        except MeshdError as error:
            raise Undecided(str(error)) from error

    def _holders(self) -> list[NodeId]:
        """Linked members that hold the CA's key; where the record does not say, all that may."""
        up = self._links.up()
        held = {row.id for row in self._record.state.nodes.rows() if row.holds_ca}
        return [node for node in up if node in held] or up

    def _who_could(self) -> str:
        rows = self._record.state.nodes.rows()
        names = ", ".join(row.name for row in rows if row.holds_ca)
        return (
            f"{names or 'No member'} could let machines in, and cannot be reached from "
            f"{self._name_of(self._node)} now: start it, then try again."
        )

    async def _ask(self, nodes: Sequence[NodeId], message: Message, kind: type[M]) -> M:
        """The answer of the first of these that has one.  Raises what the last said."""
        failure: MeshdError = DialFailed(self._who_could())
        for node in nodes[:ASKED_MAX]:
            try:
                answer = await self._links.request(node, message, ASK_S)
            except MeshdError as error:
                failure = error
                continue
            if isinstance(answer, kind):
                return answer
            failure = ProtocolError(f"{self._name_of(node)} answered with {type(answer).__name__}")
        raise failure

    def _name_of(self, node: NodeId) -> str:
        member = self._registry.get(node)
        return member.name if member else short(node)


def _outcome(reply: Message) -> Admitted | JoinRefusal:
    if isinstance(reply, AdmitReply) and reply.admitted is not None:
        return Admitted.from_fields(reply.admitted)
    if isinstance(reply, AdmitReply) and reply.refusal is not None:
        return JoinRefusal.from_fields(reply.refusal)
    raise ProtocolError(f"the answer is a {type(reply).__name__}")
