"""Join tokens: their text, their proof, their store."""

from __future__ import annotations

from typing import Any

import pytest

from meshd import limits
from meshd.errors import Refused
from meshd.identity import (
    Token,
    TokenFault,
    TokenRefused,
    TokenStore,
    TokenUnreadable,
    make_proof,
    parse_token,
)
from meshd.identity.tokens import TokensDamaged
from meshd.ids import MeshId, NodeId
from tests.joins import make_authority

MESH = make_authority().mesh
TOKEN = Token(MESH, "abcdefgh", bytes(range(16)))
NODE = NodeId("n" * 26)
SEEN: dict[str, Any] = {
    "server_certificate_hash": b"c" * 32,
    "public_key_der": b"k" * 91,
    "newcomer_nonce": b"a" * 32,
    "member_nonce": b"b" * 32,
}


def store_with(**kwargs: Any) -> tuple[TokenStore, Token]:
    store = TokenStore(MESH)
    options: dict[str, Any] = {"ttl_s": 100.0, "uses": 1, "now_unix_s": 1000.0, **kwargs}
    return store, store.create(random_id=b"12345", random_secret=b"s" * 16, **options)


def verify(store: TokenStore, token: Token, *, now_unix_s: float = 1001.0, **changes: Any) -> None:
    node = changes.pop("node", NODE)
    proof = make_proof(token.key, token_id=token.id, **SEEN)
    store.verify(token.id, proof, node=node, now_unix_s=now_unix_s, **{**SEEN, **changes})


def fault(store: TokenStore, token: Token, **kwargs: Any) -> TokenFault:
    with pytest.raises(TokenRefused) as caught:
        verify(store, token, **kwargs)
    return caught.value.fault


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


# --- store


def test_a_right_proof_admits() -> None:
    verify(*store_with())


@pytest.mark.parametrize("part", [*SEEN])
def test_a_proof_is_good_for_one_connection_and_one_key_only(part: str) -> None:
    store, token = store_with()
    assert fault(store, token, **{part: b"x" * len(SEEN[part])}) is TokenFault.WRONG


def test_the_parts_of_a_proof_cannot_be_shifted_into_each_other() -> None:
    left = make_proof(
        b"k" * 32, token_id="", **{**SEEN, "newcomer_nonce": b"ab", "member_nonce": b"c"}
    )
    right = make_proof(
        b"k" * 32, token_id="", **{**SEEN, "newcomer_nonce": b"a", "member_nonce": b"bc"}
    )
    assert left != right


def test_a_token_expires() -> None:
    store, token = store_with(ttl_s=100.0)
    verify(store, token, now_unix_s=1099.9)
    assert fault(store, token, now_unix_s=1100.0) is TokenFault.EXPIRED


def test_a_token_is_used_up_by_its_number_of_nodes() -> None:
    store, token = store_with(uses=2)
    for name in "ab":
        verify(store, token, node=NodeId(name * 26))
        store.use(token.id, NodeId(name * 26))
        store.use(token.id, NodeId(name * 26))
    assert fault(store, token, node=NodeId("c" * 26)) is TokenFault.USED
    verify(store, token, node=NodeId("a" * 26))  # its answer may have been lost


def test_whether_it_has_expired_is_told_only_to_who_knows_the_secret() -> None:
    store, token = store_with(ttl_s=1.0)
    guess = Token(MESH, token.id, b"x" * 16)
    assert fault(store, guess, now_unix_s=5000.0) is TokenFault.WRONG


def test_an_unknown_id_is_wrong_even_with_a_proof_under_a_key_of_zeros() -> None:
    store, _ = store_with()
    proof = make_proof(bytes(32), token_id="aaaaaaaa", **SEEN)
    with pytest.raises(TokenRefused) as caught:
        store.verify("aaaaaaaa", proof, node=NODE, now_unix_s=1.0, **SEEN)
    assert caught.value.fault is TokenFault.WRONG


@pytest.mark.parametrize("proof", [b"", b"\0" * 31, b"\0" * 33])
def test_a_proof_of_another_length_is_wrong(proof: bytes) -> None:
    store, token = store_with()
    with pytest.raises(TokenRefused):
        store.verify(token.id, proof, node=NODE, now_unix_s=1.0, **SEEN)


def test_a_revoked_token_is_wrong() -> None:
    store, token = store_with()
    assert store.revoke(token.id)
    assert not store.revoke(token.id)
    assert fault(store, token) is TokenFault.WRONG


def test_the_secret_is_not_kept() -> None:
    store, token = store_with()
    data = store.to_bytes()
    assert token.secret not in data
    (row,) = store.rows()
    assert token.secret not in row.key
    again = TokenStore.from_bytes(MESH, data)
    assert again.rows() == store.rows()
    verify(again, token)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"tokens":[{}]}', b'{"tokens":[],"format":2}', b"\xff"]
)
def test_a_damaged_file_of_tokens_is_named_as_one(data: bytes) -> None:
    with pytest.raises(TokensDamaged):
        TokenStore.from_bytes(MESH, data)


@pytest.mark.parametrize(
    "options",
    [
        {"ttl_s": 0.0},
        {"ttl_s": -1.0},
        {"ttl_s": limits.TOKEN_TTL_MAX_S + 1},
        {"ttl_s": float("nan")},
        {"uses": 0},
        {"uses": -1},
        {"uses": limits.MEMBERS + 1},
    ],
    ids=str,
)
def test_a_token_with_senseless_bounds_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        store_with(**options)


def test_tokens_are_bounded_and_spent_ones_make_room() -> None:
    store = TokenStore(MESH)

    def create(number: int, now_unix_s: float) -> Token:
        return store.create(
            ttl_s=100.0,
            uses=1,
            now_unix_s=now_unix_s,
            random_id=number.to_bytes(5, "big"),
            random_secret=bytes(16),
        )

    tokens = [create(number, 0.0) for number in range(limits.TOKENS)]
    with pytest.raises(Refused, match="good tokens"):
        create(limits.TOKENS, 1.0)
    store.use(tokens[7].id, NODE)
    create(limits.TOKENS, 1.0)
    assert tokens[7].id not in {row.id for row in store.rows()}
    create(limits.TOKENS + 1, 101.0)
    assert len(store.rows()) == limits.TOKENS


def test_a_token_of_another_mesh_has_another_pin() -> None:
    other = Token(MeshId("a" * 26), TOKEN.id, TOKEN.secret)
    assert parse_token(other.text()).mesh != TOKEN.mesh
