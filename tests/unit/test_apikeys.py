"""API keys: made once, kept as hashes, compared in constant time."""

from __future__ import annotations

import hmac

import pytest

from meshd import limits
from meshd.apikeys import SECRET_BYTES, ApiKeys
from meshd.errors import ConfigError, Refused


def secret(number: int) -> bytes:
    return number.to_bytes(SECRET_BYTES, "big")


def test_a_key_is_known_again_after_the_file_was_written_and_read() -> None:
    text, key, keys = ApiKeys().create(secret(1), "laptop", 1000.0)
    read = ApiKeys.parse(keys.dump(), "keys.json")
    assert read.keys == (key,)
    assert read.check(text) == key.id
    assert text.startswith("sk-meshd-")


def test_the_file_does_not_hold_the_key() -> None:
    text, _, keys = ApiKeys().create(secret(1), "laptop", 1000.0)
    assert text.removeprefix("sk-meshd-").encode() not in keys.dump()


def test_what_is_no_key_is_no_key() -> None:
    text, _, keys = ApiKeys().create(secret(1), "", 0.0)
    for wrong in ("", text[:-1], text + "a", text.upper(), "\udcff", "é"):
        assert keys.check(wrong) is None
    assert ApiKeys().check(text) is None


def test_every_key_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ApiKeys()
    texts = []
    for number in range(3):
        text, _, keys = keys.create(secret(number), "", 0.0)
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
    text, key, keys = ApiKeys().create(secret(1), "laptop", 0.0)
    other, _, keys = keys.create(secret(2), "phone", 0.0)
    for which in (key.id, key.id[:5], "laptop"):
        gone, left = keys.revoke(which)
        assert gone == key
        assert left.check(text) is None
        assert left.check(other) is not None


def test_a_key_to_revoke_must_be_meant_clearly() -> None:
    _, _, keys = ApiKeys().create(secret(1), "laptop", 0.0)
    _, _, keys = keys.create(secret(2), "laptop", 0.0)
    with pytest.raises(Refused, match="could be any of"):
        keys.revoke("laptop")
    for which in ("", "tablet"):
        with pytest.raises(Refused, match="no API key is called"):
            keys.revoke(which)


def test_there_is_an_end_to_keys() -> None:
    keys = ApiKeys()
    for number in range(limits.API_KEYS):
        _, _, keys = keys.create(secret(number), "", 0.0)
    with pytest.raises(Refused, match="revoke one first"):
        keys.create(secret(9999), "", 0.0)


@pytest.mark.parametrize("data", [b"", b"{}x", b"[]", b'{"keys": [{"id": 1}]}', b'{"version": 2}'])
def test_a_file_that_cannot_be_read_is_named(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"/data/api-keys\.json"):
        ApiKeys.parse(data, "/data/api-keys.json")
    assert ApiKeys.parse(None, "x").keys == ()
