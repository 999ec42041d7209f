"""API keys: made once, kept as hashes, compared in constant time."""

from __future__ import annotations

import hmac

import pytest

from meshd import limits
from meshd.apikeys import SECRET_BYTES, ApiKey, ApiKeys, new_key
from meshd.errors import ConfigError, Refused


def secret(number: int) -> bytes:
    return number.to_bytes(SECRET_BYTES, "big")


def create(keys: ApiKeys, number: int, name: str = "") -> tuple[str, ApiKey, ApiKeys]:
    text, key = new_key(secret(number), name, 0.0)
    return text, key, keys.with_key(key)


def test_a_key_is_known_again_after_the_file_was_written_and_read() -> None:
    text, key, keys = create(ApiKeys(), 1, "laptop")
    read = ApiKeys.parse(keys.dump(), "keys.json")
    assert read.keys == (key,)
    assert read.check(text) == key.id
    assert text.startswith("sk-meshd-")


def test_the_file_does_not_hold_the_key() -> None:
    text, _, keys = create(ApiKeys(), 1, "laptop")
    assert text.removeprefix("sk-meshd-").encode() not in keys.dump()


def test_what_is_no_key_is_no_key() -> None:
    text, _, keys = create(ApiKeys(), 1)
    for wrong in ("", text[:-1], text + "a", text.upper(), "\udcff", "é"):
        assert keys.check(wrong) is None
    assert ApiKeys().check(text) is None


def test_every_key_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ApiKeys()
    texts = []
    for number in range(3):
        text, _, keys = create(keys, number)
        texts.append(text)
    compared = []

    def counted(a: str, b: str) -> bool:
        compared.append(b)
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", counted)
    for text in [*texts, "wrong"]:
        compared.clear()
        keys.check(text)
        assert len(compared) == 3


def test_a_revoked_key_is_a_key_no_more() -> None:
    text, key, keys = create(ApiKeys(), 1, "laptop")
    other, _, keys = create(keys, 2, "phone")
    for which in (key.id, key.id[:5], "laptop"):
        gone = keys.find(which)
        left = keys.without(gone)
        assert gone == key
        assert left.check(text) is None
        assert left.check(other) is not None


def test_a_key_to_revoke_must_be_meant_clearly() -> None:
    # Two nodes may have given one name.
    keys = ApiKeys(tuple(new_key(secret(number), "laptop", 0.0)[1] for number in (1, 2)))
    with pytest.raises(Refused, match="could be any of"):
        keys.find("laptop")
    for which in ("", "tablet"):
        with pytest.raises(Refused, match="no API key is called"):
            keys.find(which)


def test_there_is_an_end_to_keys() -> None:
    keys = ApiKeys()
    for number in range(limits.API_KEYS):
        _, _, keys = create(keys, number)
    with pytest.raises(Refused, match="revoke one first"):
        create(keys, 9999)


@pytest.mark.parametrize("data", [b"", b"{}x", b"[]", b'{"keys": [{"id": 1}]}', b'{"version": 2}'])
def test_a_file_that_cannot_be_read_is_named(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"/data/api-keys\.json"):
        ApiKeys.parse(data, "/data/api-keys.json")
    assert ApiKeys.parse(None, "x").keys == ()


def test_a_name_is_for_one_key_and_no_name_for_many() -> None:
    _, _, keys = create(ApiKeys(), 1, "laptop")
    with pytest.raises(Refused, match="there is a key called 'laptop' already"):
        create(keys, 2, "laptop")
    _, _, keys = create(keys, 2)
    create(keys, 3)


def test_the_record_says_which_keys_open_a_node_but_for_those_it_has_yet_to_hear_of() -> None:
    kept, on_record = create(ApiKeys(), 1)[1], new_key(secret(2), "phone", 0.0)[1]
    phone = ApiKey(on_record.id, "phone", on_record.sha256, 0.0, on_record=True)
    keys = ApiKeys((kept,)).in_mesh("home").as_on_record([phone], 7)
    assert keys.keys == (phone, kept)
    assert (keys.index, keys.pending) == (7, (kept,))
    back = ApiKeys.parse(keys.dump(), "x")
    assert (back.keys, back.mesh, back.index) == (keys.keys, "home", 7)
    later = back.as_on_record([], 8)  # the phone's was taken back
    assert later.keys == (kept,)
    heard = ApiKey(kept.id, "", kept.sha256, 0.0, on_record=True)
    assert later.as_on_record([heard], 9).keys == (heard,)


def test_a_file_of_before_the_record_holds_keys_that_it_has_yet_to_hear_of() -> None:
    old = (
        b'{"version": 1, "keys": [{"id": "0", "name": "", "sha256": "00", "created_unix_s": 1.0}]}'
    )
    keys = ApiKeys.parse(old, "x")
    assert keys.pending == keys.keys
    assert keys.index == 0


def test_keys_of_one_mesh_are_new_to_the_next_that_a_node_joins() -> None:
    phone = new_key(secret(2), "phone", 0.0)[1]
    recorded = ApiKey(phone.id, "phone", phone.sha256, 0.0, on_record=True)
    keys = ApiKeys().in_mesh("home").as_on_record([recorded], 7)
    assert keys.in_mesh("home") is keys
    moved = keys.in_mesh("office")
    assert (moved.pending, moved.index) == ((phone,), 0)
