"""Join tokens: their text and their proof."""

from __future__ import annotations

from typing import Any

import pytest

from meshd import limits
from meshd.identity import (
    Token,
    TokenUnreadable,
    make_proof,
    new_token,
    parse_token,
)
from meshd.ids import MeshId
from tests.joins import make_authority

MESH = make_authority().mesh
TOKEN = Token(MESH, "abcdefgh", bytes(range(16)))
SEEN: dict[str, Any] = {
    "server_certificate_hash": b"c" * 32,
    "public_key_der": b"k" * 91,
    "newcomer_nonce": b"a" * 32,
    "member_nonce": b"b" * 32,
}


# --- text


def test_a_token_is_one_line_with_the_mesh_in_it() -> None:
    text = TOKEN.text()
    assert text.startswith(f"mesh1-{MESH}-abcdefgh.")
    assert len(text) <= limits.TOKEN_TEXT_CHARS
    assert parse_token(text) == TOKEN
    assert parse_token(f"  {text}\n") == TOKEN


def test_a_token_does_not_show_its_secret() -> None:
    assert "secret" not in repr(TOKEN)
    assert repr(TOKEN.secret) not in repr(TOKEN)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("x" * 1000, "too long"),
        ("K10abc::server:def", "not a join token"),
        ("mesh2-" + TOKEN.text()[6:], "form that this version does not know"),
        (TOKEN.text()[:-1], "cut"),
        (TOKEN.text().partition(".")[0], "cut"),
        (TOKEN.text() + "a", "last part has 33 characters"),
        (TOKEN.text().replace(MESH, MESH[1:]), "first part has 25 characters"),
        (TOKEN.text().replace("abcdefgh", "abcdefg"), "second part has 7 characters"),
        (TOKEN.text().replace("abcdefgh", "abcd1fgh"), "second part has a character"),
        (TOKEN.text().upper().replace("MESH1", "mesh1"), "lower-case"),
        (TOKEN.text().replace("abcdefgh", "abcdefgi"), "mistyped"),
        (TOKEN.text().replace(".", ". "), "blank"),
        (TOKEN.text().replace("-", "_"), "does not know"),
        (TOKEN.text().replace(".", "-"), "cut"),
    ],
)
def test_a_text_that_is_no_token_is_told_what_is_wrong_with_it(text: str, what: str) -> None:
    with pytest.raises(TokenUnreadable, match=what) as caught:
        parse_token(text)
    assert TOKEN.text()[-20:] not in str(caught.value)


# --- proof


@pytest.mark.parametrize("part", [*SEEN, "token_id"])
def test_a_proof_is_good_for_one_connection_one_key_and_one_token_only(part: str) -> None:
    seen = {**SEEN, "token_id": TOKEN.id}
    other = {**seen, part: "xxxxxxxx" if part == "token_id" else b"x" * len(seen[part])}
    assert make_proof(TOKEN.key, **other) != make_proof(TOKEN.key, **seen)


def test_the_parts_of_a_proof_cannot_be_shifted_into_each_other() -> None:
    left = make_proof(
        b"k" * 32, token_id="", **{**SEEN, "newcomer_nonce": b"ab", "member_nonce": b"c"}
    )
    right = make_proof(
        b"k" * 32, token_id="", **{**SEEN, "newcomer_nonce": b"a", "member_nonce": b"bc"}
    )
    assert left != right


def test_a_new_token_is_of_its_mesh_and_reads_back() -> None:
    token = new_token(MESH, b"12345", b"s" * 16)
    assert parse_token(token.text()) == token
    assert token.key != token.secret
    with pytest.raises(ValueError, match="exact number"):
        new_token(MESH, b"1234", b"s" * 16)


def test_a_token_of_another_mesh_has_another_pin() -> None:
    other = Token(MeshId("a" * 26), TOKEN.id, TOKEN.secret)
    assert parse_token(other.text()).ca != TOKEN.ca
