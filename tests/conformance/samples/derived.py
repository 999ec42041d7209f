"""Samples of what is computed, not sent: ids, keys, proofs, digits (proto/join.md, gossip.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshd.identity.keyring import GossipKey
from meshd.identity.keys import KEY_SEED_BYTES, PrivateKey
from meshd.identity.pairing import make_commitment, make_digits
from meshd.identity.tokens import Token, make_proof, parse_token
from meshd.ids import MeshId, NodeId, key_id
from meshd.wire.envelope import derive_key
from tests.conformance.forms import CA
from tests.conformance.jsonform import to_json
from tests.conformance.samples.making import MESH, NODE

NEWCOMER = PrivateKey.from_random(bytes(range(1, KEY_SEED_BYTES + 1)))
TOKEN = Token(MeshId(MESH), "abcdefgh", bytes(range(16)))


def _token(text: str) -> dict[str, Any]:
    token = parse_token(text)
    return {"ca": token.ca, "id": token.id, "secret": token.secret, "key": token.key}


DERIVE: dict[str, Callable[..., Any]] = {
    "id": lambda public_key: key_id(public_key),
    "gossip_key_id": lambda secret: GossipKey.of(secret).id,
    "datagram_key": lambda secret, sender, generation: derive_key(
        secret, NodeId(sender), generation
    ),
    "token": _token,
    "proof": make_proof,
    "commitment": make_commitment,
    "digits": make_digits,
}


def derived() -> list[dict[str, Any]]:
    def vector(name: str, type_: str, **given: Any) -> dict[str, Any]:
        return {
            "name": name, "type": type_, "since": 1,
            "given": to_json(given), "result": to_json(DERIVE[type_](**given)),
        }  # fmt: skip

    return [
        vector("a node's id, of its public key", "id", public_key=NEWCOMER.public.der),
        vector("a mesh's id, of its CA's public key", "id", public_key=CA.public.der),
        vector("the id of a gossip key", "gossip_key_id", secret=b"\x01" * 32),
        vector("the key of a sender's datagrams", "datagram_key",
               secret=b"\x01" * 32, sender=NODE, generation=4),
        vector("the key of its next start", "datagram_key",
               secret=b"\x01" * 32, sender=NODE, generation=5),
        vector("a token", "token", text=TOKEN.text()),
        vector("a token with blanks around it", "token", text=f"  {TOKEN.text()}\n"),
        vector("the proof of a token", "proof",
               token_key=TOKEN.key, server_certificate_hash=b"\x11" * 32,
               public_key_der=NEWCOMER.public.der, newcomer_nonce=b"\x22" * 32,
               member_nonce=b"\x33" * 32, token_id=TOKEN.id),
        vector("a commitment", "commitment",
               public_key_der=NEWCOMER.public.der, nonce=b"\x22" * 32),
        vector("the digits of a pairing", "digits",
               server_certificate_hash=b"\x11" * 32, ca_public_key_der=CA.public.der,
               public_key_der=NEWCOMER.public.der, newcomer_nonce=b"\x22" * 32,
               member_nonce=b"\x33" * 32),
        vector("digits that begin with 0", "digits",
               server_certificate_hash=b"\x11" * 32, ca_public_key_der=CA.public.der,
               public_key_der=NEWCOMER.public.der, newcomer_nonce=b"\x22" * 32,
               member_nonce=leading_zero()),
    ]  # fmt: skip


def leading_zero() -> bytes:
    """A member's nonce that gives digits with a 0 in front, which are still six."""
    for number in range(1000):
        nonce = number.to_bytes(32, "big")
        digits = make_digits(
            server_certificate_hash=b"\x11" * 32,
            ca_public_key_der=CA.public.der,
            public_key_der=NEWCOMER.public.der,
            newcomer_nonce=b"\x22" * 32,
            member_nonce=nonce,
        )
        if digits.startswith("0"):
            return nonce
    raise AssertionError("one in ten has")
