"""Keys, signatures, and that no secret shows."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshd.errors import ProtocolError, Refused
from meshd.identity import (
    GOSSIP_KEY_BYTES,
    KEY_SEED_BYTES,
    SIGNATURE_BYTES,
    GossipKey,
    KeyDamaged,
    Keyring,
    PrivateKey,
    public_key,
)
from meshd.ids import key_id
from tests.joins import make_key

KEY = make_key(1)


def test_a_node_id_is_a_hash_of_the_key() -> None:
    assert KEY.public.node == key_id(KEY.public.der)
    assert public_key(KEY.public.der) == KEY.public


def test_a_signature_holds_for_its_key_its_context_and_its_data_only() -> None:
    signature = KEY.sign(b"meshd test 1", b"data")
    assert len(signature) == SIGNATURE_BYTES
    assert KEY.public.verify(b"meshd test 1", b"data", signature)
    assert not KEY.public.verify(b"meshd test 2", b"data", signature)
    assert not KEY.public.verify(b"meshd test 1", b"date", signature)
    assert not make_key(2).public.verify(b"meshd test 1", b"data", signature)


@pytest.mark.parametrize("length", [0, 1, 63, 65, 72])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    assert not KEY.public.verify(b"meshd test 1", b"data", bytes(length))


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_a_signature_of_impossible_numbers_is_refused(fill: bytes) -> None:
    assert not KEY.public.verify(b"meshd test 1", b"data", fill * SIGNATURE_BYTES)


def test_no_bit_of_a_signature_can_be_flipped() -> None:
    signature = KEY.sign(b"meshd test 1", b"data")
    for position in range(SIGNATURE_BYTES):
        flipped = bytearray(signature)
        flipped[position] ^= 1
        assert not KEY.public.verify(b"meshd test 1", b"data", bytes(flipped))


@pytest.mark.parametrize("context", [b"", b"a\0b"])
def test_a_context_that_could_be_mistaken_is_a_mistake_of_the_caller(context: bytes) -> None:
    with pytest.raises(ValueError, match="context"):
        KEY.sign(context, b"data")


def test_context_and_data_cannot_be_shifted_into_each_other() -> None:
    signature = KEY.sign(b"meshd", b"test")
    assert not KEY.public.verify(b"meshdt", b"est", signature)


def test_signing_twice_gives_the_same_bytes() -> None:
    assert KEY.sign(b"meshd test 1", b"data") == KEY.sign(b"meshd test 1", b"data")


def test_a_key_survives_the_way_through_pem() -> None:
    assert PrivateKey.from_pem(KEY.pem()).public == KEY.public


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"garbage",
        KEY.pem()[:-40],
        ec.derive_private_key(5, ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        ec.derive_private_key(5, ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        ),
    ],
    ids=["empty", "garbage", "cut", "other curve", "encrypted"],
)
def test_a_file_that_holds_no_key_of_ours_is_damaged(pem: bytes) -> None:
    with pytest.raises(KeyDamaged):
        PrivateKey.from_pem(pem)


def test_no_secret_shows() -> None:
    ring = Keyring.generate(b"s" * GOSSIP_KEY_BYTES)
    shown = f"{KEY!r} {KEY} {ring!r} {ring.primary!r}"
    assert "ssss" not in shown
    assert shown.startswith(f"PrivateKey({KEY.public.id})")


def test_randomness_of_the_wrong_size_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="random bytes"):
        PrivateKey.from_random(bytes(KEY_SEED_BYTES - 1))


def test_a_public_key_has_one_form_only() -> None:
    compressed = KEY.public.raw().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    head = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    with pytest.raises(ProtocolError):
        public_key(head + compressed)


@pytest.mark.parametrize("der", [b"", b"x", KEY.public.der[:-1], KEY.public.der + b"\0"])
def test_bytes_that_are_no_key_are_refused(der: bytes) -> None:
    with pytest.raises(ProtocolError):
        public_key(der)


def test_a_point_off_the_curve_is_refused() -> None:
    with pytest.raises(ProtocolError):
        public_key(KEY.public.der[:-64] + b"\1" * 64)


# --- the keyring


def ring_of(*letters: str) -> Keyring:
    return Keyring.of(1, [letter.encode() * GOSSIP_KEY_BYTES for letter in letters])


def test_a_rotation_opens_what_the_former_key_sealed() -> None:
    before = ring_of("a")
    after = before.rotate(b"b" * GOSSIP_KEY_BYTES)
    assert after.version == before.version + 1
    assert after.primary == GossipKey.of(b"b" * GOSSIP_KEY_BYTES)
    assert after.get(before.primary.id) == before.primary
    assert after.rotate(b"c" * GOSSIP_KEY_BYTES).get(before.primary.id) is None


def test_a_rotation_step_by_step_always_has_a_primary() -> None:
    ring = ring_of("a")
    old = ring.primary.id
    ring = ring.add(b"b" * GOSSIP_KEY_BYTES)
    assert ring.primary.id == old
    new = ring.keys[1].id
    with pytest.raises(Refused, match="primary"):
        ring.remove(old)
    ring = ring.use(new).remove(old)
    assert [key.id for key in ring.keys] == [new]
    assert ring.version == 4


def test_a_key_that_is_not_there_cannot_be_used_or_removed() -> None:
    with pytest.raises(Refused, match="no key"):
        ring_of("a").use(1)
    with pytest.raises(Refused, match="no key"):
        ring_of("a").remove(1)


def test_a_keyring_is_bounded_and_holds_a_key_once() -> None:
    full = ring_of(*"abcdefgh")
    with pytest.raises(Refused):
        full.add(b"i" * GOSSIP_KEY_BYTES)
    for secrets in ([], [b"a" * 32, b"a" * 32], [b"a" * 31], [bytes([n]) * 32 for n in range(9)]):
        with pytest.raises(ProtocolError):
            Keyring.of(1, secrets)
    with pytest.raises(ProtocolError):
        Keyring.of(0, [b"a" * 32])
