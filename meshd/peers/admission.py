"""Who lets newcomers in.

The member at the door talks to the newcomer; whether it is admitted is decided by an `Admitter`: at
a member that holds the CA's key `AdmissionDesk` below, elsewhere one that asks such a member over a
control link (office.py).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final, Protocol

import trio

from meshd import limits, logs
from meshd.errors import MeshdError, NotAdmitted, ProtocolError, Refused
from meshd.identity.authority import SERIAL_BYTES, Authority
from meshd.identity.certificates import read_certificate
from meshd.identity.keyring import Keyring
from meshd.identity.keys import PublicKey, public_key
from meshd.identity.tokens import make_proof
from meshd.ids import NodeId, short
from meshd.peers.mesh_record import MeshRecord
from meshd.ports import Clock, Entropy
from meshd.record import (
    Code,
    ListTooLarge,
    MemberList,
    MemberRegistry,
    RecordRefused,
    SignedMembers,
    clean_name,
    member_list,
    usable,
)
from meshd.record.commands_registry import Admit, Certify, NodeFields
from meshd.record.members import MEMBER_BYTES, body_of
from meshd.wire.join import Admitted, JoinRefusal, JoinRequest, Reason, from_pairs

log = logs.get("join")

DECIDE_S: Final = 10.0
"""For one admission, a change of the record's leader in the middle of it included."""
BARRIER_PAUSE_S: Final = 0.25
"""Between two tries to learn what the record has, while a leader is chosen, say."""

_REASONS: Final = {
    Code.TOKEN_WRONG: Reason.WRONG_TOKEN,
    Code.TOKEN_EXPIRED: Reason.EXPIRED_TOKEN,
    Code.TOKEN_USED: Reason.USED_TOKEN,
    Code.REMOVED: Reason.REMOVED,
    Code.MESH_FULL: Reason.MESH_FULL,
    Code.BAD_KEY: Reason.MALFORMED,
}


class Admitter(Protocol):
    """Decides on newcomers, here or at another member."""

    async def admit(self, request: JoinRequest) -> Admitted | JoinRefusal:
        """Check the request's proof (a token's, or this member's word for a pairing) and admit.

        Never raises for a refusal; UNDECIDED is one.  When this returns `Admitted`, the newcomer is
        on record.
        """
        ...


class TokenRefused(Refused):
    """A token that does not admit its bearer; `code` says why."""

    def __init__(self, code: Code, sentence: str) -> None:
        super().__init__(sentence)
        self.code: Final = code


class NotHere(Refused):
    """This node does not hold the CA's key: somebody else decides."""


class AdmissionDesk:
    """Decides by the record, at a node that holds the CA's key.

    Of two desks that decide on the same newcomer, or on the last use of one token, at the same
    time, the record says which was first; the newcomer hears of the other what the record said.
    """

    def __init__(
        self,
        *,
        authority: Callable[[], Authority | None],
        registry: MemberRegistry,
        sign: Callable[[MemberList], SignedMembers],
        record: MeshRecord,
        keyring: Callable[[], Keyring],
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        """`authority` gives the CA's key if this node holds it now.

        `sign` applies and signs the list that the record came to (`Roster.signed`).
        """
        self._authority = authority
        self._registry = registry
        self._sign = sign
        self._record = record
        self._keyring = keyring
        self._clock = clock
        self._entropy = entropy

    @property
    def is_open(self) -> bool:
        """Whether this node can admit, if the record can be written."""
        return self._authority() is not None

    async def admit(self, request: JoinRequest, via: NodeId) -> Admitted | JoinRefusal:
        """See `Admitter`.  `via` is the member at whose door the newcomer is.

        Raises NotHere if this node does not hold the CA's key.
        """
        try:
            return await self._admit(request, via)
        except NotHere:
            raise
        except (TokenRefused, RecordRefused) as error:
            return JoinRefusal(reason=_REASONS.get(error.code, Reason.FAILED), message=str(error))
        except ListTooLarge as error:
            return JoinRefusal(reason=Reason.MESH_FULL, message=str(error))
        except (ProtocolError, NotAdmitted) as error:
            return JoinRefusal(reason=Reason.MALFORMED, message=str(error))
        except OSError as error:
            log.error("a newcomer could not be admitted", why=str(error))
            return JoinRefusal(
                reason=Reason.FAILED, message="The member that decides could not write to its disk."
            )
        except MeshdError as error:
            why = self._record.trouble() or str(error)
            return JoinRefusal(reason=Reason.UNDECIDED, message=why[: limits.TEXT_CHARS])

    async def renew(self, key_der: bytes) -> bytes:
        """A new certificate (DER) for a member's key.

        Raises Refused if it is no member's, NotHere, ProtocolError if it is no key, and as
        `MeshRecord.execute`.
        """
        key = public_key(key_der)
        if self._registry.key_hash_of(key.node) != key.hash:
            raise Refused(f"Node {short(key.node)} is no member, so it gets no certificate.")
        return await self._certified(key)

    async def _admit(self, request: JoinRequest, via: NodeId) -> Admitted:
        self._need_authority()
        # The proof is bound to the certificate that the newcomer saw: it must be that of the
        # member who passed the request on, or somebody hands on what was meant for another.
        if read_certificate(request.server_certificate).node != via:
            raise ProtocolError(
                f"Node {short(via)} passed on a join that was made with another node."
            )
        key = public_key(request.public_key)
        give_up_at = trio.current_time() + DECIDE_S
        await self._catch_up(give_up_at)
        if self._record.state.nodes.get(via) is None:  # removed a moment ago, perhaps
            raise ProtocolError(f"Node {short(via)} is no member, so it can bring in nobody.")
        if request.way == "token":
            self._check_token(request, key)
        self._check_room()
        addresses = usable(from_pairs(request.addresses))
        said = await self._record.execute(
            Admit(
                node=NodeFields(
                    key=key.der,
                    name=clean_name(request.name),
                    addresses=tuple((a.host, a.port) for a in addresses),
                ),
                token=request.token if request.way == "token" else "",
            ),
            _left_s(give_up_at),
        )
        certificate = await self._certified(key, _left_s(give_up_at))
        log.info("admitted", node=key.node, name=said["name"], way=request.way)
        return self._answer(certificate)

    def _answer(self, certificate: bytes) -> Admitted:
        """From the record as it is here: what was executed is applied."""
        authority = self._need_authority()
        signed = self._sign(member_list(self._record.state))
        keyring = self._keyring()
        return Admitted(
            certificate=certificate,
            ca_certificate=authority.certificate_der,
            members=signed.to_bytes(),
            keyring_version=keyring.version,
            keyring=keyring.secrets,
        )

    async def _certified(self, key: PublicKey, timeout_s: float = DECIDE_S) -> bytes:
        """A certificate for a member, on record before anybody has it."""
        serial = self._entropy.token(SERIAL_BYTES)
        der = self._need_authority().issue(key, serial=serial, now_unix_s=self._clock.wall())
        issued = read_certificate(der)
        await self._record.execute(
            Certify(
                node=key.node,
                serial=issued.serial,
                not_after_unix_ms=issued.not_after_unix_s * 1000,
            ),
            timeout_s,
        )
        return der

    async def _catch_up(self, give_up_at: float) -> None:
        """Have all that is on record: a token that was made a moment ago, at another node.

        Raises MeshdError if nobody can say what that is.
        """
        while True:
            try:
                await self._record.read_barrier()
                return
            except MeshdError:
                if trio.current_time() + BARRIER_PAUSE_S >= give_up_at:
                    raise
            await trio.sleep(BARRIER_PAUSE_S)

    def _check_token(self, request: JoinRequest, key: PublicKey) -> None:
        """Raise TokenRefused unless this proof admits that node now.  Changes nothing.

        Whether it has expired or is used up is told only to who has proven the secret.  A node that
        has joined by it may come again: the answer may not have reached it.
        """
        state = self._record.state
        row = state.tokens.get(request.token)
        right = make_proof(
            row.key if row else bytes(32),
            server_certificate_hash=hashlib.sha256(request.server_certificate).digest(),
            public_key_der=key.der,
            newcomer_nonce=request.newcomer_nonce,
            member_nonce=request.member_nonce,
            token_id=request.token,
        )
        if not hmac.compare_digest(right, request.proof) or row is None:
            raise TokenRefused(
                Code.TOKEN_WRONG, "The token is wrong: this mesh has given out no such token."
            )
        if state.clock.now_unix_ms >= row.expires_unix_ms:
            raise TokenRefused(Code.TOKEN_EXPIRED, "The token has expired.")
        if key.node not in row.used_by and len(row.used_by) >= row.uses:
            times = "once" if row.uses == 1 else f"{row.uses} times"
            raise TokenRefused(Code.TOKEN_USED, f"The token is used up: it was good {times}.")

    def _check_room(self) -> None:
        """Raise ListTooLarge if a list with one member more could not travel."""
        size = len(body_of(member_list(self._record.state)))
        if size + MEMBER_BYTES > limits.MEMBER_LIST_BYTES:
            raise ListTooLarge("The mesh is full: its member list would be too large to travel.")

    def _need_authority(self) -> Authority:
        authority = self._authority()
        if authority is None:
            raise NotHere("This node does not hold the mesh's key, so it lets nobody in.")
        return authority


def _left_s(give_up_at: float) -> float:
    """For the next step: some, so that what was begun comes to an end if it can."""
    return max(BARRIER_PAUSE_S, give_up_at - trio.current_time())
