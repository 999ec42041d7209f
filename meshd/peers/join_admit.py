"""Who lets newcomers in.

The member at the door talks to the newcomer; whether it is admitted is decided by an `Admitter`: at
the founder `FounderAdmitter` below, elsewhere one that asks the founder over a control link.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from meshd import limits, logs
from meshd.errors import NotAdmitted, ProtocolError, Refused
from meshd.identity.authority import SERIAL_BYTES, Authority
from meshd.identity.certificates import read_certificate
from meshd.identity.keyring import Keyring
from meshd.identity.keys import PublicKey, public_key
from meshd.identity.tokens import (
    TOKEN_ID_BYTES,
    TOKEN_SECRET_BYTES,
    TokenFault,
    TokenRefused,
    TokenStore,
)
from meshd.ids import NodeId, short
from meshd.ports import Clock, Entropy
from meshd.record import (
    Member,
    MemberList,
    MemberRegistry,
    MeshFull,
    RemovedNode,
    admit,
    remove,
    set_drained,
    sign,
)
from meshd.wire.join import Admitted, JoinRefusal, JoinRequest, Reason, from_pairs

log = logs.get("join")

_TOKEN_REASONS: Final = {
    TokenFault.WRONG: Reason.WRONG_TOKEN,
    TokenFault.EXPIRED: Reason.EXPIRED_TOKEN,
    TokenFault.USED: Reason.USED_TOKEN,
    TokenFault.OTHER_MESH: Reason.OTHER_MESH,
}


class Admitter(Protocol):
    """Decides on newcomers, here or at the founder."""

    async def admit(self, request: JoinRequest) -> Admitted | JoinRefusal:
        """Check the request's proof (a token's, or this member's word for a pairing) and admit.

        Never raises for a refusal; FOUNDER_UNREACHABLE is one.  When this returns `Admitted`, the
        newcomer is on the member list.
        """
        ...


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made; `text` is a secret."""

    text: str
    expires_unix_s: float
    uses: int


class FounderAdmitter:
    """The founder's office: it holds the CA key, gives out tokens, and writes the member list.

    Each method is one step without a wait inside, so that two orders never mix.  What it decides is
    on disk (`persist_tokens`, and the registry's own `persist`) before anybody is told.
    """

    def __init__(
        self,
        *,
        node: NodeId,
        authority: Authority,
        registry: MemberRegistry,
        tokens: TokenStore,
        keyring: Callable[[], Keyring],
        clock: Clock,
        entropy: Entropy,
        persist_tokens: Callable[[TokenStore], None],
    ) -> None:
        self._node = node
        self._authority = authority
        self._registry = registry
        self._tokens = tokens
        self._keyring = keyring
        self._clock = clock
        self._entropy = entropy
        self._persist_tokens = persist_tokens

    # --- newcomers

    async def admit(
        self, request: JoinRequest, via: NodeId | None = None
    ) -> Admitted | JoinRefusal:
        """See `Admitter`.  `via` is the member whose control link brought it; None: this node."""
        try:
            return self._admit(request, via or self._node)
        except TokenRefused as error:
            return JoinRefusal(reason=_TOKEN_REASONS[error.fault], message=str(error))
        except RemovedNode as error:
            return JoinRefusal(reason=Reason.REMOVED, message=str(error))
        except MeshFull as error:
            return JoinRefusal(reason=Reason.MESH_FULL, message=str(error))
        except (ProtocolError, NotAdmitted) as error:
            return JoinRefusal(reason=Reason.MALFORMED, message=str(error))
        except OSError as error:
            log.error("a newcomer could not be admitted", why=str(error))
            return JoinRefusal(
                reason=Reason.FAILED, message="The founder could not write to its disk."
            )

    def _admit(self, request: JoinRequest, via: NodeId) -> Admitted:
        # The proof is bound to the certificate that the newcomer saw: it must be that of the
        # member who passed the request on, or somebody hands on what was meant for another.
        if read_certificate(request.server_certificate).node != via:
            raise ProtocolError(
                f"Node {short(via)} passed on a join that was made with another node."
            )
        if self._registry.get(via) is None:
            raise ProtocolError(f"Node {short(via)} is no member, so it can bring in nobody.")
        key = public_key(request.public_key)
        now_unix_s = self._clock.wall()
        if request.way == "token":
            self._tokens.verify(
                request.token,
                request.proof,
                server_certificate_hash=hashlib.sha256(request.server_certificate).digest(),
                public_key_der=key.der,
                newcomer_nonce=request.newcomer_nonce,
                member_nonce=request.member_nonce,
                node=key.node,
                now_unix_s=now_unix_s,
            )
        newer = admit(
            self._registry.current,
            key,
            name=request.name,
            addresses=from_pairs(request.addresses),
            now_unix_s=now_unix_s,
        )
        signed = sign(
            newer, self._authority.key
        )  # may say that the mesh is full: before any change
        certificate = self._issue(key)
        if request.way == "token":
            self._tokens.use(request.token, key.node)
            self._persist_tokens(self._tokens)
        if newer is not self._registry.current:
            self._registry.accept(signed)
            log.info("admitted", node=key.node, name=newer.by_id[key.node].name, way=request.way)
        keyring = self._keyring()
        return Admitted(
            certificate=certificate,
            ca_certificate=self._authority.certificate_der,
            members=self._registry.signed.to_bytes(),
            keyring_version=keyring.version,
            keyring=keyring.secrets,
        )

    # --- orders

    def create_token(self, *, ttl_s: float = limits.TOKEN_TTL_S, uses: int = 1) -> NewToken:
        """Give out a token.  Raises Refused for bounds that make no sense, OSError."""
        now_unix_s = self._clock.wall()
        token = self._tokens.create(
            ttl_s=ttl_s,
            uses=uses,
            now_unix_s=now_unix_s,
            random_id=self._entropy.token(TOKEN_ID_BYTES),
            random_secret=self._entropy.token(TOKEN_SECRET_BYTES),
        )
        self._persist_tokens(self._tokens)
        return NewToken(token.text(), now_unix_s + ttl_s, uses)

    def renew(self, key_der: bytes) -> bytes:
        """A new certificate (DER) for a member's key.

        Raises Refused if it is no member's, ProtocolError if it is no key.
        """
        key = public_key(key_der)
        if self._registry.key_hash_of(key.node) != key.hash:
            raise Refused(f"Node {short(key.node)} is no member, so it gets no certificate.")
        return self._issue(key)

    def set_drained(self, node: NodeId, drained: bool) -> Member:
        """Drain or undrain a member.  Raises NoSuchNode, OSError."""
        return self._write(set_drained(self._registry.current, node, drained)).by_id[node]

    def remove(self, node: NodeId) -> None:
        """Take a member off the list, for good; it left, or somebody removed it.

        Nothing happens if it is none.  Raises Refused for the founder itself, OSError.
        """
        self._write(remove(self._registry.current, node, self._clock.wall()))

    def _write(self, newer: MemberList) -> MemberList:
        if newer is not self._registry.current:
            self._registry.accept(sign(newer, self._authority.key))
        return newer

    def _issue(self, key: PublicKey) -> bytes:
        return self._authority.issue(
            key, serial=self._entropy.token(SERIAL_BYTES), now_unix_s=self._clock.wall()
        )
