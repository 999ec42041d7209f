"""Newcomers at the doors of members, and the desks where a person decides about them."""

from __future__ import annotations

import hashlib

from msgspec.structs import replace

from meshd.errors import Refused
from meshd.identity import PrivateKey, Token, make_proof
from meshd.peers.join_server import Waiting
from meshd.record.commands_registry import HoldCa
from meshd.wire.join import JoinRequest
from tests.joins import make_key
from tests.unit.peers.mesh import Member


class Desk:
    """A `JoinServer` with somebody waiting at it."""

    def __init__(self, *digits: str) -> None:
        self.waiting = [Waiting(d, f"laptop {d}", "10.0.0.9:1", 1.0, False) for d in digits]
        self.approved: list[str] = []
        self.tries = len(digits)

    def pending(self) -> list[Waiting]:
        return self.waiting

    def approve(self, digits: str) -> Waiting:
        for waiting in self.waiting:
            if waiting.digits == digits.replace(" ", ""):
                self.approved.append(waiting.digits)
                return waiting
        self.waiting = []
        raise Refused("nobody here shows these digits")

    def refuse_all(self) -> None:
        self.waiting = []

    def begun(self) -> int:
        return self.tries


def sit(member: Member, *digits: str) -> Desk:
    desk = Desk(*digits)
    member.office.consents.use_door(desk)  # type: ignore[arg-type]
    return desk


def request(via: Member, seed: str = "", key: PrivateKey | None = None) -> JoinRequest:
    """A newcomer by pairing, at that member's door."""
    return JoinRequest(
        way="pairing",
        public_key=(key or make_key(f"newcomer {seed}")).public.der,
        name="laptop",
        addresses=[],
        server_certificate=certificate_of(via),
    )


def by_token(
    via: Member, token: Token, seed: str = "", key: PrivateKey | None = None
) -> JoinRequest:
    """The same with a token."""
    asked = request(via, seed, key)
    nonces = {"newcomer_nonce": b"n" * 32, "member_nonce": b"m" * 32}
    proof = make_proof(
        token.key,
        server_certificate_hash=hashlib.sha256(asked.server_certificate).digest(),
        public_key_der=asked.public_key,
        token_id=token.id,
        **nonces,
    )
    return replace(asked, way="token", token=token.id, proof=proof, **nonces)


def certificate_of(member: Member) -> bytes:
    return member.mesh.authority.issue(
        member.key.public, serial=bytes([1] * 16), now_unix_s=1_780_000_000.0
    )


def hold(member: Member) -> None:
    """It has the CA's key from here on."""
    member.holds_ca = True
    member.order(HoldCa(node=member.node, holds=True))


def version(member: Member) -> int:
    return member.registry.version


def pushed_out(member: Member, other: Member) -> bool:
    return member.registry.get(other.node) is None
