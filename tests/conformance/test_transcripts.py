"""Both sides of a join against golden transcripts, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from meshd.identity import PrivateKey, parse_token
from meshd.ids import Address
from meshd.peers.join_client import (
    Joined,
    Newcomer,
    PairingOffer,
    join_by_pairing,
    join_with_token,
)
from meshd.wire.join import Admitted
from tests.conformance.transcripts import (
    NAMES,
    JsonMap,
    listed,
    load,
    play,
    recorded_answer,
    replay_newcomer,
    sent_by,
)
from tests.joins import HOST, JoinNetwork, MemoryStream

TRANSCRIPTS = {name: load(name) for name in NAMES}


async def join(transcript: JsonMap, nursery: trio.Nursery) -> tuple[Joined, JoinNetwork, list[str]]:
    """Join a member that says what it said when the transcript was made."""
    given = transcript["given"]

    async def serve(stream: MemoryStream) -> None:
        await play(stream, transcript, "member")

    net = JoinNetwork(nursery, serve, lambda: bytes.fromhex(given["server_certificate"]))
    who = Newcomer(
        PrivateKey.from_pem(given["newcomer_private_key_pem"].encode()),
        given["newcomer_name"],
        [Address(host, port) for host, port in given["newcomer_addresses"]],
    )
    entropy = listed(given["newcomer_nonce"])
    shown: list[str] = []

    async def confirm(offer: PairingOffer) -> bool:
        shown.append(offer.digits)
        return True

    if "token" in given:
        token = parse_token(given["token"])
        joined = await join_with_token(net.network, entropy, HOST, token, who)
    else:
        joined = await join_by_pairing(net.network, entropy, HOST, who, confirm)
    return joined, net, shown


@pytest.mark.parametrize("name", NAMES)
async def test_the_newcomer_says_what_it_said_when_the_transcript_was_made(
    autojump_clock: MockClock, nursery: trio.Nursery, name: str
) -> None:
    transcript = TRANSCRIPTS[name]
    joined, net, shown = await join(transcript, nursery)
    assert bytes(net.dialled[0].sent) == b"".join(sent_by(transcript, "newcomer"))
    results = transcript["results"]
    assert joined.identity.mesh == results["mesh"]
    assert joined.identity.name == results["name"]
    assert joined.identity.certificate_der.hex() == results["certificate"]
    assert joined.identity.certificate.node == results["node"]
    assert [secret.hex() for secret in joined.identity.keyring.secrets] == results["keyring"]
    assert [f"{key.id:08x}" for key in joined.identity.keyring.keys] == results["gossip_key_ids"]
    assert shown == ([results["digits"]] if "digits" in results else [])


@pytest.mark.parametrize("name", NAMES)
async def test_the_member_says_what_it_said_when_the_transcript_was_made(
    autojump_clock: MockClock, name: str
) -> None:
    transcript = TRANSCRIPTS[name]
    sent, asked, shown = await replay_newcomer(transcript)
    assert sent == b"".join(sent_by(transcript, "member"))
    (request,) = asked
    assert request.public_key.hex() == transcript["results"]["public_key"]
    assert request.way == ("token" if "token" in transcript["given"] else "pairing")
    assert shown == transcript["results"].get("digits", "")


# --- the formulas of join.md, written a second time from its text


def covered(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def given_bytes(transcript: JsonMap, key: str) -> bytes:
    return bytes.fromhex(transcript["given"][key])


def result_bytes(transcript: JsonMap, key: str) -> bytes:
    return bytes.fromhex(transcript["results"][key])


def test_the_proof_is_what_the_text_says() -> None:
    t = TRANSCRIPTS["join-token"]
    body, _, tail = t["given"]["token"].partition(".")
    _, mesh, token_id = body.split("-")
    raw = base64.b32decode(tail.upper())
    secret, checksum = raw[:16], raw[16:]
    assert mesh == t["results"]["mesh"]
    line = f"{mesh}-{token_id}.".encode() + secret
    assert checksum == hashlib.sha256(b"meshd token 1\0" + line).digest()[:4]
    key = hashlib.sha256(secret).digest()
    assert key == result_bytes(t, "token_key")
    proof = hmac.digest(
        key,
        covered(
            b"meshd-join/1",
            hashlib.sha256(given_bytes(t, "server_certificate")).digest(),
            result_bytes(t, "public_key"),
            given_bytes(t, "newcomer_nonce"),
            given_bytes(t, "member_nonce"),
            token_id.encode(),
        ),
        "sha256",
    )
    assert proof == result_bytes(t, "proof")


def test_commitment_and_digits_are_what_the_text_says() -> None:
    t = TRANSCRIPTS["join-pairing"]
    key, nonce = result_bytes(t, "public_key"), given_bytes(t, "newcomer_nonce")
    commitment = hashlib.sha256(covered(b"meshd pairing commitment 1", key, nonce)).digest()
    assert commitment == result_bytes(t, "commitment")
    digest = hashlib.sha256(
        covered(
            b"meshd pairing digits 1",
            hashlib.sha256(given_bytes(t, "server_certificate")).digest(),
            ca_key(t),
            key,
            nonce,
            given_bytes(t, "pairing_member_nonce"),
        )
    ).digest()
    assert f"{int.from_bytes(digest, 'big') % 1_000_000:06}" == t["results"]["digits"]


def ca_key(t: JsonMap) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    certificate = x509.load_der_x509_certificate(given_bytes(t, "ca_certificate"))
    der = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = base64.b32encode(hashlib.sha256(der).digest()).decode().lower()
    assert digest[:26] == t["results"]["mesh"]
    return der


@pytest.mark.parametrize("name", NAMES)
def test_the_signed_member_list_is_what_the_text_says(name: str) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    from meshd.wire.codec import unpack

    t = TRANSCRIPTS[name]
    answer: Admitted = recorded_answer(t)
    blob: dict[str, Any] = unpack(answer.members, max_bytes=len(answer.members))
    assert blob.keys() == {"body", "signature"}
    signature = blob["signature"]
    assert len(signature) == 64
    der = utils.encode_dss_signature(
        int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    )
    key = cast(ec.EllipticCurvePublicKey, load_der_public_key(ca_key(t)))
    key.verify(der, b"meshd members 1\0" + blob["body"], ec.ECDSA(hashes.SHA256()))
    members = unpack(blob["body"], max_bytes=len(blob["body"]))
    assert members.keys() == {"mesh", "mesh_name", "version", "members", "removed"}
    assert members["version"] == t["results"]["members_version"]
    assert t["results"]["public_key"] in {m["key"].hex() for m in members["members"]}
    for secret, key_id in zip(t["results"]["keyring"], t["results"]["gossip_key_ids"], strict=True):
        digest = hashlib.sha256(b"meshd gossip key 1\0" + bytes.fromhex(secret)).hexdigest()
        assert digest[:8] == key_id
