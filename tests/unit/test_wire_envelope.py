"""Sealed datagrams: memberlist's Keyring_* and Gossip_MismatchedKeys, and RFC 4303's window."""

from __future__ import annotations

import pytest

from meshd import limits
from meshd.errors import LimitExceeded
from meshd.ids import MeshId, NodeId
from meshd.wire import envelope
from meshd.wire.envelope import (
    OVERHEAD_BYTES,
    PAYLOAD_BYTES,
    BadEnvelope,
    BadVersion,
    Envelope,
    EnvelopeRefused,
    Replayed,
    Unauthenticated,
    UnknownKey,
    UnknownSender,
    derive_key,
)

MESH = MeshId("m" * 26)
ALICE = NodeId("a" * 26)
BOB = NodeId("b" * 26)
OLD, NEW = b"o" * 32, b"n" * 32


def sealed_by(
    node: NodeId,
    *,
    generation: int = 1,
    keys: dict[int, bytes] | None = None,
    primary: int = 1,
    mesh: MeshId = MESH,
    members: tuple[NodeId, ...] = (ALICE, BOB),
) -> Envelope:
    return Envelope(mesh, node, generation, keys or {1: OLD}, primary, lambda node: node in members)


def test_a_sealed_datagram_opens_at_another_member() -> None:
    datagram = sealed_by(ALICE).seal(b"hello")
    assert len(datagram) == OVERHEAD_BYTES + 5
    assert b"hello" not in datagram
    assert sealed_by(BOB).open(datagram) == (ALICE, b"hello")


def test_no_datagram_is_larger_than_the_limit() -> None:
    alice = sealed_by(ALICE)
    assert len(alice.seal(bytes(PAYLOAD_BYTES))) == limits.DATAGRAM_BYTES
    with pytest.raises(LimitExceeded):
        alice.seal(bytes(PAYLOAD_BYTES + 1))


def test_no_two_datagrams_are_sealed_alike() -> None:
    alice = sealed_by(ALICE)
    assert alice.seal(b"same") != alice.seal(b"same")


def test_every_sender_and_every_start_has_a_key_of_its_own() -> None:
    keys = {derive_key(OLD, ALICE, 1), derive_key(OLD, ALICE, 2), derive_key(OLD, BOB, 1)}
    assert len(keys) == 3


def test_the_derivation_is_this_one() -> None:
    # A golden value: another implementation has to get the same.
    assert derive_key(bytes(range(32)), ALICE, 7).hex() == (
        "874f326e191d73a0beeae6c9c9fff6e67e2565b097be702e40c2aae0f4f4be8a"
    )


def test_what_was_opened_does_not_open_again() -> None:
    bob, datagram = sealed_by(BOB), sealed_by(ALICE).seal(b"once")
    bob.open(datagram)
    with pytest.raises(Replayed):
        bob.open(datagram)


def test_datagrams_out_of_order_open_within_the_window_and_not_beyond() -> None:
    alice, bob = sealed_by(ALICE), sealed_by(BOB)
    datagrams = [alice.seal(bytes((n,))) for n in range(limits.REPLAY_WINDOW_PACKETS + 1)]
    bob.open(datagrams[-1])
    for datagram in reversed(datagrams[1:-1]):
        bob.open(datagram)
    for datagram in datagrams:
        with pytest.raises(Replayed):
            bob.open(datagram)


def test_a_leap_of_the_counter_empties_the_window() -> None:
    alice, bob = sealed_by(ALICE), sealed_by(BOB)
    early = [alice.seal(b"x") for _ in range(3)]
    for _ in range(1000):
        late = alice.seal(b"y")
    bob.open(early[0])
    bob.open(late)
    for datagram in (*early, late):
        with pytest.raises(Replayed):
            bob.open(datagram)


def test_an_earlier_start_is_refused_once_a_later_one_was_heard() -> None:
    bob = sealed_by(BOB)
    first, second = sealed_by(ALICE, generation=1), sealed_by(ALICE, generation=2)
    stale = first.seal(b"stale")
    bob.open(first.seal(b"1"))
    bob.open(second.seal(b"2"))
    with pytest.raises(Replayed):
        bob.open(stale)
    bob.open(second.seal(b"3"))


def test_a_new_generation_of_this_node_seals_with_a_new_key() -> None:
    alice, bob = sealed_by(ALICE, generation=1), sealed_by(BOB)
    bob.open(alice.seal(b"1"))
    alice.set_generation(2)
    assert bob.open(alice.seal(b"2")) == (ALICE, b"2")
    with pytest.raises(ValueError, match="greater"):
        alice.set_generation(2)


def test_another_mesh_with_the_same_key_is_not_read() -> None:
    with pytest.raises(Unauthenticated):
        sealed_by(BOB).open(sealed_by(ALICE, mesh=MeshId("x" * 26)).seal(b"hi"))


def test_a_rotation_goes_through_three_steps_without_losing_a_datagram() -> None:
    alice, bob = sealed_by(ALICE), sealed_by(BOB)
    bob.set_keys({1: OLD, 2: NEW}, 1)  # everybody can open both
    bob.open(alice.seal(b"old"))
    alice.set_keys({1: OLD, 2: NEW}, 2)  # the new one seals
    assert bob.open(alice.seal(b"new")) == (ALICE, b"new")
    bob.set_keys({2: NEW}, 2)
    assert alice.open(bob.seal(b"new too")) == (BOB, b"new too")
    assert bob.open(alice.seal(b"still")) == (ALICE, b"still")


def test_the_replay_window_outlives_a_rotation() -> None:
    alice, bob = sealed_by(ALICE), sealed_by(BOB)
    datagram = alice.seal(b"old")
    bob.open(datagram)
    bob.set_keys({1: OLD, 2: NEW}, 2)
    with pytest.raises(Replayed):
        bob.open(datagram)


def test_a_key_that_is_not_in_the_keyring_is_named_and_nothing_is_decrypted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    datagram = sealed_by(ALICE, keys={9: NEW}, primary=9).seal(b"?")
    bob = sealed_by(BOB)
    monkeypatch.setattr(envelope, "_cipher", lambda *_: pytest.fail("derived a key for nothing"))
    with pytest.raises(UnknownKey, match="00000009"):
        bob.open(datagram)


def test_a_key_with_the_right_id_and_another_secret_does_not_open() -> None:
    with pytest.raises(Unauthenticated):
        sealed_by(BOB).open(sealed_by(ALICE, keys={1: NEW}).seal(b"?"))


def test_a_sender_that_is_no_member_is_refused() -> None:
    with pytest.raises(UnknownSender):
        sealed_by(BOB, members=(BOB,)).open(sealed_by(ALICE).seal(b"?"))


def test_a_datagram_of_ones_own_that_comes_back_is_refused() -> None:
    alice = sealed_by(ALICE)
    with pytest.raises(Replayed):
        alice.open(alice.seal(b"echo"))


def test_who_was_removed_and_comes_back_is_read_again() -> None:
    alice, bob = sealed_by(ALICE, generation=5), sealed_by(BOB)
    bob.open(alice.seal(b"1"))
    bob.forget(ALICE)
    assert bob.open(sealed_by(ALICE, generation=1).seal(b"2")) == (ALICE, b"2")


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (lambda d: d[: OVERHEAD_BYTES - 1], BadEnvelope),
        (lambda d: d + bytes(limits.DATAGRAM_BYTES), BadEnvelope),
        (lambda d: b"\x02" + d[1:], BadVersion),
        (lambda d: d[:5] + b"A" * 26 + d[31:], BadEnvelope),
        (lambda d: d[:5] + b"\xff" * 26 + d[31:], BadEnvelope),
        (lambda d: d[:5] + BOB.encode() + d[31:], Replayed),
        (lambda d: d[:-1] + bytes((d[-1] ^ 1,)), Unauthenticated),
        (lambda d: d[:38] + b"\x09" + d[39:], Unauthenticated),
        (lambda d: d[:46] + b"\x09" + d[47:], Unauthenticated),
    ],
)
def test_each_kind_of_bad_datagram_has_an_error_and_a_counter_of_its_own(
    change: object, refused: type[EnvelopeRefused]
) -> None:
    assert callable(change)
    bob = sealed_by(BOB)
    datagram = sealed_by(ALICE).seal(b"hello")
    with pytest.raises(refused) as caught:
        bob.open(change(datagram))
    assert type(caught.value) is refused
    assert caught.value.counter.startswith("datagrams_")
    assert bob.open(datagram) == (ALICE, b"hello")  # nothing else has changed


def test_a_keyring_without_its_primary_or_with_a_short_key_is_a_bug_of_ours() -> None:
    with pytest.raises(ValueError, match="primary"):
        sealed_by(ALICE, keys={1: OLD}, primary=2)
    with pytest.raises(ValueError, match="32 bytes"):
        sealed_by(ALICE, keys={1: b"short"})
