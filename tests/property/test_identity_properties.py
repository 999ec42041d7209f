"""Properties of tokens, digits, keyrings and member lists."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.errors import ProtocolError
from meshd.identity import (
    NewcomerPairing,
    Pairings,
    Token,
    TokenUnreadable,
    parse_token,
)
from meshd.ids import MeshId
from meshd.record import (
    MemberList,
    SignedMembers,
    clean_name,
    first_list,
    is_name,
    sign,
    verify,
)
from tests.joins import make_authority, make_key

AUTHORITY = make_authority()
KEYS = [make_key(f"property {n}").public for n in range(6)]
BASE32 = "abcdefghijklmnopqrstuvwxyz234567"

tokens = st.builds(
    Token,
    ca=st.text(BASE32, min_size=26, max_size=26).map(MeshId),
    id=st.text(BASE32, min_size=8, max_size=8),
    secret=st.binary(min_size=16, max_size=16),
)


@given(tokens)
def test_a_token_survives_the_way_through_its_text(token: Token) -> None:
    assert parse_token(token.text()) == token


@given(tokens, st.data())
def test_no_character_of_a_token_can_be_changed(token: Token, data: st.DataObject) -> None:
    text = token.text()
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(exclude_characters=text[at]))
    changed = text[:at] + other + text[at + 1 :]
    if changed.strip() == text.strip():
        return
    with pytest.raises(TokenUnreadable):
        parse_token(changed)


@given(tokens, st.data())
def test_no_character_of_a_token_can_be_left_out_or_swapped(
    token: Token, data: st.DataObject
) -> None:
    text = token.text()
    at = data.draw(st.integers(0, len(text) - 2))
    with pytest.raises(TokenUnreadable):
        parse_token(text[:at] + text[at + 1 :])
    swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if swapped != text:
        with pytest.raises(TokenUnreadable):
            parse_token(swapped)


@given(st.text(max_size=200))
def test_any_text_is_a_token_or_is_told_why_not(text: str) -> None:
    with contextlib.suppress(TokenUnreadable):
        assert parse_token(text).text() == text.strip()


# --- pairing


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_both_ends_of_an_honest_pairing_agree(nonce: bytes, member_nonce: bytes) -> None:
    one = NewcomerPairing(KEYS[0], nonce, b"c" * 32, AUTHORITY.public)
    pairings = Pairings()
    pairing = pairings.open(
        one.commitment,
        server_certificate_hash=b"c" * 32,
        ca=AUTHORITY.public,
        name="x",
        address="x",
        nonce=member_nonce,
        now_s=0.0,
        on_change=lambda: None,
    )
    assert pairings.reveal(pairing, one.public_key, one.nonce) == one.digits(member_nonce)


def test_a_man_in_the_middle_who_cannot_choose_last_is_right_about_once_in_a_million() -> None:
    """He has fixed what stands on one screen; the other side's nonce decides the other screen."""
    target = NewcomerPairing(KEYS[0], b"n" * 32, b"c" * 32, AUTHORITY.public).digits(b"m" * 32)
    hits = sum(
        NewcomerPairing(KEYS[1], b"e" * 32, b"d" * 32, AUTHORITY.public).digits(
            number.to_bytes(32, "big")
        )
        == target
        for number in range(20_000)
    )
    assert hits <= 2  # 0.02 are to be expected


# --- the member list


def start() -> MemberList:
    return first_list(AUTHORITY.mesh, "home", KEYS[0], name="a", addresses=[], now_unix_s=1.0)


@settings(deadline=None)
@given(st.data())
def test_no_byte_of_a_signed_list_can_be_changed(data: st.DataObject) -> None:
    signed = sign(start(), AUTHORITY.key)
    blob = bytearray(signed.to_bytes())
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ProtocolError):
        verify(SignedMembers.from_bytes(bytes(blob)), AUTHORITY.public)


@given(st.text(max_size=200))
def test_any_text_becomes_a_name(text: str) -> None:
    assert is_name(clean_name(text))
    assert clean_name(clean_name(text)) == clean_name(text)
