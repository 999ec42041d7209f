"""API keys, aliases and policies on record."""

from __future__ import annotations

import hashlib

import pytest

from meshd import limits
from meshd.apikeys import SECRET_BYTES, new_key
from meshd.record.commands_registry import AddApiKey, RevokeApiKey, SetAlias, SetPolicy, Trace
from meshd.record.events import AliasesChanged, ApiKeysChanged, PoliciesChanged, Traced
from meshd.record.results import Code
from meshd.record.view import api_keys
from tests.unit.record.logs import START_MS, Log, code_of, id_of


def test_a_key_on_record_opens_the_client_port() -> None:
    text, key = new_key(bytes(SECRET_BYTES), "bot", 0)
    log = Log()
    command = AddApiKey(id=key.id, name=key.name, sha256=bytes.fromhex(key.sha256))
    log.by("attic", command)
    log.by("attic", command)
    assert log.happened(ApiKeysChanged) == [ApiKeysChanged(log.index - 1)]
    keys = api_keys(log.state)
    assert keys.check(text) == key.id
    assert keys.check(text + "x") is None
    assert keys.keys[0].created_unix_s == START_MS / 1000
    log.by("attic", RevokeApiKey(id=key.id))
    assert api_keys(log.state).check(text) is None
    assert code_of(log.by_raw("attic", RevokeApiKey(id=key.id))) is Code.NOT_THERE


def test_two_keys_with_one_id_are_not_mixed_up() -> None:
    log = Log()
    log.by("attic", AddApiKey(id="0" * 8, name="a", sha256=hashlib.sha256(b"a").digest()))
    other = AddApiKey(id="0" * 8, name="b", sha256=hashlib.sha256(b"b").digest())
    assert code_of(log.by_raw("attic", other)) is Code.EXISTS


def test_there_are_so_many_keys_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "API_KEYS", 1)
    log = Log()
    log.by("attic", AddApiKey(id="0" * 8, name="a", sha256=bytes(32)))
    more = AddApiKey(id="1" * 8, name="b", sha256=bytes(32))
    assert code_of(log.by_raw("attic", more)) is Code.TOO_MANY


def test_an_alias_is_set_replaced_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ALIASES", 1)
    log = Log()
    log.by("attic", SetAlias(alias="small", model="llama3.2:1b"))
    log.by("attic", SetAlias(alias="small", model="llama3.2:3b"))
    assert log.state.settings.aliases() == {"small": "llama3.2:3b"}
    more = SetAlias(alias="large", model="llama3.3:70b")
    assert code_of(log.by_raw("attic", more)) is Code.TOO_MANY
    log.by("attic", SetAlias(alias="small"))
    assert log.state.settings.aliases() == {}
    assert code_of(log.by_raw("attic", SetAlias(alias="small"))) is Code.NOT_THERE
    assert len(log.happened(AliasesChanged)) == 3
    log.state.check()


def test_a_policy_is_set_replaced_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "POLICIES", 1)
    log = Log()
    log.by("attic", SetPolicy(name="routing.policy", value="region"))
    log.by("attic", SetPolicy(name="routing.policy", value="predicted"))
    assert log.state.settings.policies() == {"routing.policy": "predicted"}
    assert code_of(log.by_raw("attic", SetPolicy(name="other", value="x"))) is Code.TOO_MANY
    log.by("attic", SetPolicy(name="routing.policy"))
    assert code_of(log.by_raw("attic", SetPolicy(name="other"))) is Code.NOT_THERE
    assert len(log.happened(PoliciesChanged)) == 3
    log.state.check()


def test_traces_pass_through_to_the_history_and_leave_nothing_behind() -> None:
    log = Log()
    log.by("attic", Trace(rows=(b"one", b"two"), left_out=3))
    traced = log.happened(Traced)
    assert traced == [Traced(log.index, id_of("attic"), (b"one", b"two"), 3)]
    assert b"two" not in log.state.freeze()


def test_a_numbered_batch_of_traces_counts_once_whoever_proposes_it_again() -> None:
    log = Log("studio")
    for number in (7, 7, 8, 7, 8):
        log.by("attic", Trace(rows=(b"%d" % number,), number=number))
    log.by("studio", Trace(rows=(b"another's",), number=1))
    log.start("attic")
    log.by("attic", Trace(rows=(b"8 again",), number=8))
    assert [event.rows for event in log.happened(Traced)] == [(b"7",), (b"8",), (b"another's",)]
    log.state.check()
