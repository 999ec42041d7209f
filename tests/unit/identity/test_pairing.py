"""Pairing: digits, consent, and how many guesses there are."""

from __future__ import annotations

from typing import Any

import pytest

from meshd import limits
from meshd.errors import ProtocolError, Refused
from meshd.identity import (
    MemberPairing,
    NewcomerPairing,
    PairingEnd,
    Pairings,
    PairingsFull,
    PairingState,
    make_commitment,
    read_digits,
    show_digits,
)
from tests.joins import make_authority, make_key

CA = make_authority().public
CERTIFICATE_HASH = b"c" * 32
MEMBER_NONCE = b"m" * 32


def newcomer(seed: int = 1, **changes: Any) -> NewcomerPairing:
    fields: dict[str, Any] = {
        "public_key": make_key(seed).public,
        "nonce": bytes([seed]) * 32,
        "server_certificate_hash": CERTIFICATE_HASH,
        "ca_public_key": CA,
    }
    return NewcomerPairing(**{**fields, **changes})


class Member:
    """`Pairings` at one member, with what it called back."""

    def __init__(self) -> None:
        self.pairings = Pairings()
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1

    def open(self, one: NewcomerPairing, now_s: float = 0.0) -> MemberPairing:
        return self.pairings.open(
            one.commitment,
            server_certificate_hash=CERTIFICATE_HASH,
            ca=CA,
            name="laptop",
            address="192.168.7.9",
            nonce=MEMBER_NONCE,
            now_s=now_s,
            on_change=self.changed,
        )

    def show(self, one: NewcomerPairing, now_s: float = 0.0) -> MemberPairing:
        pairing = self.open(one, now_s)
        self.pairings.reveal(pairing, one.public_key, one.nonce)
        return pairing


def test_both_sides_see_the_same_digits() -> None:
    one = newcomer()
    assert Member().show(one).digits == one.digits(MEMBER_NONCE)


@pytest.mark.parametrize(
    "changes",
    [
        {"server_certificate_hash": b"x" * 32},
        {"ca_public_key": make_authority("other").public},
        {"public_key": make_key(2).public},
        {"nonce": b"x" * 32},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_whatever_somebody_in_the_middle_exchanges_changes_the_digits(
    changes: dict[str, Any],
) -> None:
    assert newcomer(**changes).digits(MEMBER_NONCE) != newcomer().digits(MEMBER_NONCE)
    assert newcomer().digits(b"x" * 32) != newcomer().digits(MEMBER_NONCE)


def test_digits_keep_their_leading_zeros() -> None:
    shown = {newcomer(nonce=bytes([n]) * 32).digits(MEMBER_NONCE) for n in range(250)}
    assert {len(digits) for digits in shown} == {limits.DIGITS}
    assert any(digits.startswith("0") for digits in shown)


def test_a_commitment_cannot_be_opened_to_something_else() -> None:
    one, other = newcomer(1), newcomer(2)
    for key, nonce in (
        (other.public_key, one.nonce),
        (one.public_key, other.nonce),
        (one.public_key, one.nonce + b"x"),
        (one.public_key, b""),
    ):
        member = Member()
        pairing = member.open(one)
        with pytest.raises(ProtocolError, match="committed"):
            member.pairings.reveal(pairing, key, nonce)
        assert pairing.state is PairingState.ENDED
        assert member.pairings.pending(0.0) == []


def test_key_and_nonce_cannot_be_shifted_into_each_other() -> None:
    assert make_commitment(b"ab", b"c") != make_commitment(b"a", b"bc")


def test_only_both_consents_together_admit() -> None:
    for member_first in (True, False):
        member = Member()
        pairing = member.show(newcomer())
        steps = [
            lambda m=member, p=pairing: m.pairings.approve(p.digits, 1.0),
            lambda m=member, p=pairing: m.pairings.newcomer_agrees(p),
        ]
        steps = steps if member_first else steps[::-1]
        steps[0]()
        assert pairing.state is PairingState.SHOWN
        steps[1]()
        assert pairing.state is PairingState.AGREED


def test_the_newcomer_cannot_consent_before_the_digits_show_or_twice() -> None:
    member = Member()
    pairing = member.open(newcomer())
    with pytest.raises(ProtocolError):
        member.pairings.newcomer_agrees(pairing)
    member.pairings.reveal(pairing, newcomer().public_key, newcomer().nonce)
    member.pairings.newcomer_agrees(pairing)
    with pytest.raises(ProtocolError):
        member.pairings.newcomer_agrees(pairing)
    with pytest.raises(ProtocolError):
        member.pairings.reveal(pairing, newcomer().public_key, newcomer().nonce)


def test_a_commitment_that_is_still_closed_cannot_be_approved_or_seen() -> None:
    member = Member()
    member.open(newcomer())
    assert member.pairings.pending(0.0) == []
    with pytest.raises(Refused, match="No machine is waiting"):
        member.pairings.approve("000000", 0.0)


def test_one_wrong_guess_ends_all_that_wait() -> None:
    member = Member()
    pairings = [member.show(newcomer(seed)) for seed in (1, 2)]
    wrong = next(d for d in ("000000", "000001", "000002") if d not in {p.digits for p in pairings})
    with pytest.raises(Refused, match="No waiting machine shows 000"):
        member.pairings.approve(wrong, 1.0)
    assert [p.ended for p in pairings] == [PairingEnd.WRONG_DIGITS] * 2
    with pytest.raises(Refused):
        member.pairings.approve(pairings[0].digits, 1.0)


def test_digits_that_two_show_admit_neither() -> None:
    member = Member()
    pairings = [member.show(newcomer()), member.show(newcomer())]
    assert pairings[0].digits == pairings[1].digits
    with pytest.raises(Refused):
        member.pairings.approve(pairings[0].digits, 1.0)
    assert {p.state for p in pairings} == {PairingState.ENDED}


def test_a_pairing_that_was_approved_stays_while_others_are_burned() -> None:
    member = Member()
    approved, waiting = member.show(newcomer(1)), member.show(newcomer(2))
    member.pairings.approve(approved.digits, 1.0)
    with pytest.raises(Refused):
        member.pairings.approve(approved.digits, 1.0)  # nobody waits with these digits now
    assert waiting.state is PairingState.ENDED
    member.pairings.newcomer_agrees(approved)
    assert approved.state is PairingState.AGREED


def test_a_pairing_ends_when_its_time_is_over() -> None:
    member = Member()
    pairing = member.show(newcomer())
    assert member.pairings.pending(limits.PAIRING_S - 0.1) == [pairing]
    with pytest.raises(Refused):
        member.pairings.approve(pairing.digits, limits.PAIRING_S)
    assert pairing.ended is PairingEnd.TIMED_OUT


def test_three_may_wait_and_an_end_makes_room() -> None:
    member = Member()
    pairings = [member.open(newcomer(seed)) for seed in range(1, 4)]
    with pytest.raises(PairingsFull, match="waiting for consent"):
        member.open(newcomer(4))
    member.pairings.end(pairings[0], PairingEnd.GONE)
    member.open(newcomer(4))


def test_tries_are_rationed_however_they_end() -> None:
    member = Member()
    for seed in range(limits.PAIRING_TRIES):
        member.pairings.end(member.open(newcomer(seed), now_s=float(seed)), PairingEnd.GONE)
    with pytest.raises(PairingsFull, match="begun within"):
        member.open(newcomer(), now_s=20.0)
    with pytest.raises(PairingsFull):
        member.open(newcomer(), now_s=limits.PAIRING_S - 0.1)
    member.open(newcomer(), now_s=limits.PAIRING_S)


def test_the_first_reason_for_an_end_stands() -> None:
    member = Member()
    pairing = member.show(newcomer())
    changes = member.changes
    member.pairings.end(pairing, PairingEnd.REFUSED_THERE)
    member.pairings.end(pairing, PairingEnd.GONE)
    assert pairing.ended is PairingEnd.REFUSED_THERE
    assert member.changes == changes + 1


@pytest.mark.parametrize("size", [0, 31, 33])
def test_wrong_sizes_are_refused(size: int) -> None:
    with pytest.raises(ProtocolError):
        Pairings().open(
            bytes(size),
            server_certificate_hash=CERTIFICATE_HASH,
            ca=CA,
            name="x",
            address="x",
            nonce=MEMBER_NONCE,
            now_s=0.0,
            on_change=lambda: None,
        )
    with pytest.raises(ProtocolError):
        newcomer().digits(bytes(size))


@pytest.mark.parametrize("text", ["123456", "123 456", " 123-456 ", "1 2 3 4 5 6"])
def test_digits_are_read_as_people_type_them(text: str) -> None:
    assert read_digits(text) == "123456"
    assert show_digits("123456") == "123 456"


@pytest.mark.parametrize("text", ["", "12345", "1234567", "12345a", "١٢٣٤٥٦", "12345⁶"])
def test_what_is_not_six_digits_is_refused_and_burns_nothing(text: str) -> None:
    member = Member()
    pairing = member.show(newcomer())
    with pytest.raises(Refused, match="is not the 6 digits"):
        member.pairings.approve(text, 1.0)
    assert pairing.state is PairingState.SHOWN
