"""The member's side of a join: the one part of the mesh port that talks to strangers (trio shell).

A stranger gets a bounded number of small frames and a bounded time, and learns nothing but the
mesh's id, its name and the CA's certificate until it has proven a token or people at both ends have
consented.  Who is admitted is for the `Admitter` to say.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from meshd import limits
from meshd.errors import MeshdError, NotAdmitted, ProtocolError, StreamBroken
from meshd.identity.keys import public_key
from meshd.identity.mesh_identity import MeshIdentity
from meshd.identity.pairing import (
    MemberPairing,
    PairingEnd,
    Pairings,
    PairingsFull,
    PairingState,
)
from meshd.identity.tokens import NONCE_BYTES
from meshd.peers.admission import Admitter
from meshd.peers.join_limits import SourceLimiter, source_of
from meshd.peers.join_talk import JoinRefused, Talk, expected
from meshd.ports import ByteStream, Entropy
from meshd.record import clean_name
from meshd.wire.join import (
    JOIN_PROTOCOL_MAX,
    JOIN_PROTOCOL_MIN,
    Admitted,
    Agree,
    Commit,
    JoinHello,
    JoinMessage,
    JoinRefusal,
    JoinRequest,
    MemberNonce,
    Prove,
    Reason,
    Reveal,
    Welcome,
)

RENEWING_S: Final = 5.0
"""When a newcomer is to ask again while this node waits for a certificate of the CA of now."""

_ENDS: Final = {
    PairingEnd.REFUSED_THERE: (Reason.PAIRING_REFUSED, "the newcomer's side said no"),
    PairingEnd.REFUSED_HERE: (Reason.PAIRING_REFUSED, "a member said no"),
    PairingEnd.WRONG_DIGITS: (Reason.WRONG_DIGITS, "other digits were typed at the member"),
    PairingEnd.TIMED_OUT: (Reason.TIMED_OUT, "nobody consented in time"),
    PairingEnd.GONE: (Reason.FAILED, "the newcomer went away"),
}


@dataclass(frozen=True, slots=True)
class Waiting:
    """A newcomer whose digits stand on both screens, for `meshd approve` to list."""

    digits: str
    """Six digits, without a blank."""
    name: str
    """What it calls itself; proves nothing."""
    address: str
    waiting_s: float
    newcomer_agreed: bool


class JoinServer:
    """Serves `meshd-join/1` at one member."""

    def __init__(
        self,
        *,
        identity: Callable[[], MeshIdentity],
        admitter: Callable[[], Admitter],
        entropy: Entropy,
        on_waiting: Callable[[Waiting], None] = lambda waiting: None,
    ) -> None:
        """`identity` and `admitter` are asked anew for each join, since both may change.

        `on_waiting` is told when a newcomer's digits show, to put them on this node's screen.
        """
        self._identity = identity
        self._admitter = admitter
        self._entropy = entropy
        self._on_waiting = on_waiting
        self._limiter = SourceLimiter()
        self._open: Counter[str] = Counter()
        """Joins that are open, by where they come from."""
        self._pairings = Pairings()
        self.counters: Counter[str] = Counter()
        """`join_admitted`, `join_refused: REASON`, `join_broken`."""

    # --- consent at this member

    def pending(self) -> list[Waiting]:
        """Who waits for somebody at this member, oldest first."""
        now_s = trio.current_time()
        return [_waiting(one, now_s) for one in self._pairings.pending(now_s)]

    def approve(self, digits: str) -> Waiting:
        """Consent to the newcomer whose screen shows these digits.

        It is admitted once its own side has consented too (`newcomer_agreed`).  Raises Refused,
        and sends away everybody who waits, if nobody here shows them.
        """
        now_s = trio.current_time()
        return _waiting(self._pairings.approve(digits, now_s), now_s)

    def refuse_all(self) -> None:
        """Send away everybody who waits: digits were typed somewhere that fit nobody."""
        self._pairings.refuse_all(trio.current_time())

    def begun(self) -> int:
        """How many pairings were begun here lately, however they ended (`Pairings.begun`)."""
        return self._pairings.begun(trio.current_time())

    # --- one connection

    async def serve(self, stream: ByteStream) -> None:
        """Talk to one newcomer until it is in, or refused, or gone.

        Returns if it was admitted.  Otherwise raises a MeshdError that says why, for whoever counts
        and logs by source: ProtocolError for bytes that are no join, JoinRefused for a refusal,
        StreamBroken for one that went away.
        """
        talk = Talk(stream)
        source = source_of(stream.remote.address)
        if (
            self._open[source] >= limits.JOIN_OPEN_PER_ADDRESS
            or self._open.total() >= limits.JOIN_OPEN
        ):
            busy = JoinRefused(Reason.BUSY, "too many joins are open", retry_after_s=1.0)
            await self._refuse(stream, talk, busy)
        self._open[source] += 1
        try:
            await self._serve(stream, talk)
        except JoinRefused as refused:
            await self._refuse(stream, talk, refused)
        except (ProtocolError, NotAdmitted) as error:
            self.counters["join_broken"] += 1
            await self._goodbye(stream, talk, JoinRefusal(reason=Reason.MALFORMED))
            raise ProtocolError(f"Not a join: {error}") from error
        except StreamBroken:
            self.counters["join_broken"] += 1
            raise
        finally:
            self._open[source] -= 1
            self._open += Counter()  # keeps what is above zero: strangers must not make it grow
        self.counters["join_admitted"] += 1

    async def _serve(self, stream: ByteStream, talk: Talk) -> None:
        source = source_of(stream.remote.address)
        wait_s = self._limiter.wait_s(source, trio.current_time())
        if wait_s > 0:
            raise JoinRefused(Reason.BUSY, f"{source} asks too often", retry_after_s=wait_s)
        ends_s = trio.current_time() + limits.JOIN_S
        identity = self._identity()
        if not identity.is_current:
            # The newcomer goes by what the CA of now has signed, and this node has yet to renew.
            why = "the mesh has another key, under which this node has no certificate yet"
            raise JoinRefused(Reason.BUSY, why, retry_after_s=RENEWING_S)
        with trio.move_on_at(ends_s) as deadline:
            member_nonce = await self._welcome(talk, identity)
            message = await talk.receive()
            if isinstance(message, Commit):
                deadline.deadline = ends_s + limits.PAIRING_S  # the pairing ends itself sooner
                request = await self._pair(stream, talk, message, identity, ends_s)
                deadline.deadline = trio.current_time() + limits.JOIN_S
            else:
                request = _token_request(
                    expected(message, Prove), identity.certificate_der, member_nonce
                )
            answer = await self._admitter().admit(request)
            if isinstance(answer, JoinRefusal):
                raise JoinRefused(answer.known_reason, answer.message)
            await self._answer(stream, talk, answer)
        if deadline.cancelled_caught:
            raise JoinRefused(Reason.TIMED_OUT, "the join took too long")

    async def _welcome(self, talk: Talk, identity: MeshIdentity) -> bytes:
        """Exchange the first messages; the nonce for a token's proof."""
        hello = await talk.expect(JoinHello)
        protocol = min(hello.protocol_max, JOIN_PROTOCOL_MAX)
        if protocol < max(hello.protocol_min, JOIN_PROTOCOL_MIN):
            raise JoinRefused(
                Reason.VERSION,
                f"this node speaks join protocol {JOIN_PROTOCOL_MIN} to {JOIN_PROTOCOL_MAX}, "
                f"the newcomer {hello.protocol_min} to {hello.protocol_max}",
            )
        nonce = self._entropy.token(NONCE_BYTES)
        await talk.send(
            Welcome(
                protocol=protocol,
                mesh=identity.mesh,
                mesh_name=identity.mesh_name,
                ca_certificate=identity.ca_certificate_der,
                nonce=nonce,
            )
        )
        return nonce

    async def _answer(self, stream: ByteStream, talk: Talk, admitted: Admitted) -> None:
        for part in admitted.to_parts():
            await talk.send(part)
        await self._until_gone(stream)

    # --- pairing

    async def _pair(
        self,
        stream: ByteStream,
        talk: Talk,
        commit: Commit,
        identity: MeshIdentity,
        reveal_by_s: float,
    ) -> JoinRequest:
        """From the commitment to consent on both sides; what to ask the admitter then."""
        bell = _Bell()
        address = stream.remote.address
        try:
            pairing = self._pairings.open(
                commit.commitment,
                server_certificate_hash=hashlib.sha256(identity.certificate_der).digest(),
                ca=identity.ca,
                name=clean_name(commit.name),
                address=str(address) if address else "this machine",
                nonce=self._entropy.token(NONCE_BYTES),
                now_s=trio.current_time(),
                on_change=bell.ring,
            )
        except PairingsFull as full:
            raise JoinRefused(Reason.TOO_MANY_PENDING, str(full)) from full
        try:
            with trio.move_on_at(reveal_by_s) as deadline:
                await talk.send(MemberNonce(nonce=pairing.nonce))
                reveal = await talk.expect(Reveal)
            if deadline.cancelled_caught:
                raise JoinRefused(Reason.TIMED_OUT, "the newcomer did not go on")
            self._pairings.reveal(pairing, public_key(reveal.public_key), reveal.nonce)
            self._on_waiting(_waiting(pairing, trio.current_time()))
            await self._until_settled(talk, pairing, bell)
        finally:
            self._pairings.end(pairing, PairingEnd.GONE)
        return JoinRequest(
            way="pairing",
            public_key=reveal.public_key,
            name=commit.name,
            addresses=reveal.addresses,
            server_certificate=identity.certificate_der,
        )

    async def _until_settled(self, talk: Talk, pairing: MemberPairing, bell: _Bell) -> None:
        """Wait for both consents, for an end, or for the newcomer to break off."""
        failures: list[MeshdError] = []

        async def listen() -> None:
            try:
                while (message := await talk.receive()) is not None:
                    if isinstance(message, JoinRefusal):
                        self._pairings.end(pairing, PairingEnd.REFUSED_THERE)
                        return
                    expected(message, Agree)
                    self._pairings.newcomer_agrees(pairing)
            except StreamBroken:
                pass
            except ProtocolError as error:
                failures.append(error)
            self._pairings.end(pairing, PairingEnd.GONE)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            with trio.move_on_at(pairing.expires_s):
                while pairing.state is PairingState.SHOWN:
                    await bell.rung()
            nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]
        self._pairings.expire(trio.current_time())
        if pairing.state is not PairingState.AGREED:
            assert pairing.ended is not None
            reason, text = _ENDS[pairing.ended]
            raise JoinRefused(reason, f"{pairing.name} was not admitted: {text}")

    # --- endings

    async def _refuse(self, stream: ByteStream, talk: Talk, refused: JoinRefused) -> None:
        """Tell the newcomer, and then whoever called `serve`."""
        self.counters[f"join_refused: {refused.reason}"] += 1
        message = JoinRefusal(
            reason=refused.reason,
            message=str(refused),
            retry_after_ms=min(3_600_000, round(refused.retry_after_s * 1000)),
        )
        await self._goodbye(stream, talk, message)
        raise refused

    async def _goodbye(self, stream: ByteStream, talk: Talk, message: JoinMessage) -> None:
        """Send a last message, and close either way."""
        try:
            with trio.move_on_after(limits.JOIN_GOODBYE_S):
                await talk.send(message)
            await self._until_gone(stream)
        except StreamBroken:
            pass  # it has gone already
        stream.abort("the join is over")

    @staticmethod
    async def _until_gone(stream: ByteStream) -> None:
        """Let the newcomer close first, for a moment.

        Closing a socket while bytes in it are unread resets the connection, and a reset may
        overtake what was sent: the newcomer would never see why it was refused.
        """
        size_bytes = 0
        with trio.move_on_after(limits.JOIN_GOODBYE_S):
            while size_bytes < 16 * limits.JOIN_FRAME_BYTES:
                data = await stream.receive_some()
                if not data:
                    break
                size_bytes += len(data)


def _token_request(prove: Prove, certificate_der: bytes, member_nonce: bytes) -> JoinRequest:
    return JoinRequest(
        way="token",
        public_key=prove.public_key,
        name=prove.name,
        addresses=prove.addresses,
        server_certificate=certificate_der,
        token=prove.token,
        newcomer_nonce=prove.nonce,
        member_nonce=member_nonce,
        proof=prove.proof,
    )


def _waiting(pairing: MemberPairing, now_s: float) -> Waiting:
    return Waiting(
        digits=pairing.digits,
        name=pairing.name,
        address=pairing.address,
        waiting_s=max(0.0, now_s - pairing.opened_s),
        newcomer_agreed=pairing.newcomer_agreed,
    )


class _Bell:
    """Wakes the one task that waits for a pairing to change; a ring before the wait counts."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        self._event.set()

    async def rung(self) -> None:
        await self._event.wait()
        self._event = trio.Event()
