"""The newcomer's side of a join (trio shell).

Nothing that the other side says is believed before it is proven: by the token's pin of the mesh's
key, or by people who see the same digits on both screens.  What comes back is checked whole; a join
either gives everything that a member needs or changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import trio

from meshd import limits, logs
from meshd.errors import (
    DialFailed,
    HandshakeFailed,
    LimitExceeded,
    MeshdError,
    NotAdmitted,
    ProtocolError,
    StreamBroken,
)
from meshd.identity.certificates import read_ca_certificate, read_certificate
from meshd.identity.keyring import Keyring
from meshd.identity.keys import PrivateKey, PublicKey
from meshd.identity.mesh_identity import MeshIdentity
from meshd.identity.pairing import NewcomerPairing
from meshd.identity.tokens import NONCE_BYTES, Token, make_proof
from meshd.ids import Address, MeshId, NodeId, short
from meshd.peers.join_talk import JoinRefused, RefusedThere, Talk, expected, in_our_words, sentence
from meshd.ports import ByteStream, Entropy, Network
from meshd.record import SignedMembers, clean_name, is_address, is_name, verify
from meshd.wire.join import (
    JOIN_PROTOCOL_MAX,
    JOIN_PROTOCOL_MIN,
    Admitted,
    Agree,
    Commit,
    JoinHello,
    JoinMessage,
    JoinRefusal,
    MemberNonce,
    Part,
    Prove,
    Reason,
    Reveal,
    Welcome,
    to_pairs,
)

log = logs.get("join")

_PAIRING_IN_ALL_S: Final = limits.PAIRING_S + 2 * limits.JOIN_S
"""More than the member allows, so that its word about the end arrives."""


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Who wants in."""

    key: PrivateKey
    name: str
    """What it would like to be called; the mesh may append "-2"."""
    addresses: Sequence[Address]
    """Where it will listen for other members."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What a join gives; to be kept on disk (`IdentityStore.save_mesh`) before anything else."""

    identity: MeshIdentity
    members: SignedMembers
    member: NodeId
    """Who let this node in."""


@dataclass(frozen=True, slots=True)
class PairingOffer:
    """What to ask the person at this machine."""

    digits: str
    """Six digits, without a blank (`identity.show_digits`)."""
    host: Address
    mesh: MeshId
    mesh_name: str
    member: NodeId


Confirm = Callable[[PairingOffer], Awaitable[bool]]
"""Ask "Does a screen of your mesh show 123 456?".  Cancelled if the other side ends it first."""
Waits = Callable[[PairingOffer], None]
"""Say that consent is still missing at the member; not called if it was given there before."""

ADMITTED_S: Final = 1.0
"""Who was approved already is admitted within this, by a mesh on the same network."""


async def join_with_token(
    network: Network, entropy: Entropy, address: Address, token: Token, newcomer: Newcomer
) -> Joined:
    """Join the token's mesh through the member at that address.

    A member that is busy with other joins is asked again for `limits.JOIN_S`.  Raises JoinRefused
    (with the reason, and a sentence for the screen), NotAdmitted if who answers there cannot prove
    to be of the token's mesh (nothing about the token was sent then), DialFailed, ProtocolError.
    """
    busy: JoinRefused | None = None
    with trio.move_on_after(limits.JOIN_S):
        while True:
            try:
                async with _conversation(network, address) as (stream, talk):
                    return await _by_token(stream, talk, entropy, address, token, newcomer)
            except JoinRefused as refused:
                if refused.reason is not Reason.BUSY:
                    raise
                busy = refused
            await trio.sleep((0.1 + busy.retry_after_s) * (1 + entropy.random()))
    raise busy or _timed_out(address)


async def join_by_pairing(
    network: Network,
    entropy: Entropy,
    address: Address,
    newcomer: Newcomer,
    confirm: Confirm,
    waiting: Waits = lambda offer: None,
) -> Joined:
    """Join the mesh of the member at that address, with consent at both ends.

    Tries once: each try is one guess for somebody in the middle, so only a person may start
    another.  Raises as `join_with_token`, and what `confirm` raises if that is a MeshdError.
    """
    with trio.move_on_after(_PAIRING_IN_ALL_S):
        async with _conversation(network, address) as (stream, talk):
            return await _by_pairing(stream, talk, entropy, address, newcomer, confirm, waiting)
    raise _timed_out(address)


# --- the two ways


async def _by_token(
    stream: ByteStream,
    talk: Talk,
    entropy: Entropy,
    address: Address,
    token: Token,
    newcomer: Newcomer,
) -> Joined:
    met = await _meet(stream, talk, address, pin=token.ca)
    talk.proven = True
    nonce = entropy.token(NONCE_BYTES)
    proof = make_proof(
        token.key,
        server_certificate_hash=met.certificate_hash,
        public_key_der=newcomer.key.public.der,
        newcomer_nonce=nonce,
        member_nonce=met.nonce,
        token_id=token.id,
    )
    await talk.send(
        Prove(
            token=token.id,
            public_key=newcomer.key.public.der,
            nonce=nonce,
            proof=proof,
            name=clean_name(newcomer.name),
            addresses=_pairs(newcomer),
        )
    )
    return _check(await _answer(await talk.receive(), talk), met, newcomer)


async def _by_pairing(
    stream: ByteStream,
    talk: Talk,
    entropy: Entropy,
    address: Address,
    newcomer: Newcomer,
    confirm: Confirm,
    waiting: Waits,
) -> Joined:
    met = await _meet(stream, talk, address, pin=None)
    pairing = NewcomerPairing(
        public_key=newcomer.key.public,
        nonce=entropy.token(NONCE_BYTES),
        server_certificate_hash=met.certificate_hash,
        ca_public_key=met.ca,
    )
    await talk.send(Commit(commitment=pairing.commitment, name=clean_name(newcomer.name)))
    digits = pairing.digits((await talk.expect(MemberNonce)).nonce)
    await talk.send(
        Reveal(public_key=newcomer.key.public.der, nonce=pairing.nonce, addresses=_pairs(newcomer))
    )
    offer = PairingOffer(
        digits=digits, host=address, mesh=met.ca.mesh, mesh_name=met.mesh_name, member=met.node
    )
    first = await _consent(talk, confirm, waiting, offer)
    return _check(await _answer(first, talk), met, newcomer)


async def _consent(
    talk: Talk, confirm: Confirm, waiting: Waits, offer: PairingOffer
) -> JoinMessage | None:
    """Ask the person here, while listening; the member's next message once both have agreed."""
    got: list[JoinMessage | None] = []
    failures: list[MeshdError] = []
    answer: bool | None = None
    asking = trio.CancelScope()
    over = trio.Event()

    async def listen() -> None:
        try:
            got.append(await talk.receive())
        except MeshdError as error:
            failures.append(error)
        over.set()
        asking.cancel()  # no use in asking on: it is over, unless consent was given already

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        try:
            with asking:
                answer = await confirm(offer)
            if answer is True:
                talk.proven = True
                await talk.send(Agree())
                with trio.move_on_after(ADMITTED_S):  # it may have been approved there before
                    await over.wait()
                if not over.is_set():
                    waiting(offer)
            elif answer is False:
                await talk.send(JoinRefusal(reason=Reason.PAIRING_REFUSED))
        except MeshdError as error:
            failures.append(error)
        if answer is False or failures:
            nursery.cancel_scope.cancel()
    if answer is False:
        raise JoinRefused(
            Reason.PAIRING_REFUSED, "You did not consent: nothing of this machine was shared."
        )
    if failures:
        raise failures[0]
    if answer is None and isinstance(got[0], Part):
        raise ProtocolError("The member sent its answer before anybody consented to it.")
    return got[0]


# --- the steps they share


@dataclass(frozen=True, slots=True)
class _Met:
    """A member that has proven to hold a certificate of the mesh whose CA it showed."""

    ca: PublicKey
    certificate_hash: bytes
    node: NodeId
    mesh_name: str
    nonce: bytes


async def _meet(stream: ByteStream, talk: Talk, address: Address, *, pin: str | None) -> _Met:
    """Hear who answers, and hold it against the TLS certificate and, with a token, the pin.

    The certificate's dates do not count: this machine's clock may be wrong, the proof is good for
    that one certificate only, and whether its node is still a member is checked by whoever admits.
    """
    await talk.send(JoinHello(protocol_min=JOIN_PROTOCOL_MIN, protocol_max=JOIN_PROTOCOL_MAX))
    welcome = await talk.expect(Welcome)
    if not JOIN_PROTOCOL_MIN <= welcome.protocol <= JOIN_PROTOCOL_MAX:
        raise JoinRefused(Reason.VERSION, sentence(Reason.VERSION, str(address)))
    ca = read_ca_certificate(welcome.ca_certificate)
    if pin is not None and ca.id != pin:
        raise JoinRefused(Reason.OTHER_MESH, _not_pinned(pin, ca, address))
    shown = stream.remote.certificate_der
    certificate = read_certificate(shown)
    if not (welcome.mesh == certificate.mesh == ca.mesh and certificate.is_signed_by(ca)):
        raise NotAdmitted(
            f"{address} says that it is in mesh {short(ca.mesh)}, but its certificate is not "
            "signed by that mesh: it is not what it says. Nothing secret was sent."
        )
    return _Met(
        ca=ca,
        certificate_hash=hashlib.sha256(shown).digest(),
        node=certificate.node,
        mesh_name=welcome.mesh_name if is_name(welcome.mesh_name) else "",
        nonce=welcome.nonce,
    )


def _not_pinned(pin: str, ca: PublicKey, address: Address) -> str:
    """Nothing that is said here is proven; who answers could have said anything."""
    anew = "make a new one with `meshd token create` on a member"
    if pin == ca.mesh:
        return (
            f"The token is of before mesh {short(ca.mesh)} got another key, since a machine that "
            f"had the former one was removed: {anew}."
        )
    said = f"The token is for mesh {short(pin)}, but {address} is in mesh {short(ca.mesh)}"
    if ca.id == ca.mesh:
        return f"{said}."
    return f"{said}; or the token is of before that mesh got another key: {anew}."


async def _answer(first: JoinMessage | None, talk: Talk) -> Admitted:
    """Put the answer's parts together."""
    part = expected(first, Part)
    data = bytearray(part.data)
    while not part.last:
        part = await talk.expect(Part)
        data += part.data
        if len(data) > limits.JOIN_ANSWER_BYTES:
            raise LimitExceeded(f"The answer is over the limit of {limits.JOIN_ANSWER_BYTES}.")
    return Admitted.from_bytes(bytes(data))


def _check(admitted: Admitted, met: _Met, newcomer: Newcomer) -> Joined:
    """Take the answer only if all of it fits together.  Raises ProtocolError, NotAdmitted."""
    signed = SignedMembers.from_bytes(admitted.members)
    members = verify(signed, met.ca)
    me = members.by_id.get(newcomer.key.public.node)
    if me is None:
        raise ProtocolError("The member list that came with the answer does not have this node.")
    identity = MeshIdentity(
        name=me.name,
        mesh_name=members.mesh_name,
        certificate_der=admitted.certificate,
        ca_certificate_der=admitted.ca_certificate,
        keyring=Keyring.of(admitted.keyring_version, admitted.keyring),
        authority=None,
    )
    certificate = identity.certificate
    if identity.ca != met.ca:
        raise ProtocolError("The answer's CA is another one than the one that was shown before.")
    if certificate.public_key != newcomer.key.public:
        raise ProtocolError("The certificate that came back is for another key.")
    if certificate.mesh != met.ca.mesh or not certificate.is_signed_by(met.ca):
        raise ProtocolError("The certificate that came back is not signed by the mesh.")
    return Joined(identity=identity, members=signed, member=met.node)


@asynccontextmanager
async def _conversation(
    network: Network, address: Address
) -> AsyncIterator[tuple[ByteStream, Talk]]:
    """Dial, and close in order whatever happens; errors are put into this program's own words."""
    try:
        stream = await network.dial_join(address, limits.PEER_HANDSHAKE_S)
    except (HandshakeFailed, NotAdmitted) as error:
        log.debug("no join handshake", address=str(address), why=str(error))
        raise DialFailed(
            f"What answers at {address} is not meshd's mesh port "
            f"({limits.PEER_PORT} unless --port says otherwise)."
        ) from None
    talk = Talk(stream)
    try:
        yield stream, talk
    except RefusedThere as refused:
        raise in_our_words(refused, str(address), proven=talk.proven) from None
    except ProtocolError as error:
        raise ProtocolError(f"The join with {address} failed: {error}") from error
    except StreamBroken as error:
        raise DialFailed(f"The connection to {address} broke during the join: {error}") from error
    finally:
        # The last message may still be on its way; an abort could overtake it.
        until_s = trio.current_time() + limits.JOIN_GOODBYE_S
        with suppress(StreamBroken), trio.CancelScope(deadline=until_s, shield=True):
            await stream.aclose()
        stream.abort("the join is over")


def _pairs(newcomer: Newcomer) -> list[tuple[str, int]]:
    usable = [address for address in newcomer.addresses if is_address(address)]
    return to_pairs(usable[: limits.ADDRESSES_PER_NODE])


def _timed_out(address: Address) -> JoinRefused:
    return JoinRefused(Reason.TIMED_OUT, sentence(Reason.TIMED_OUT, str(address)))
