"""The registry: admission, removal, and the keys that go with them."""

from __future__ import annotations

from typing import Any

import pytest

from meshd import limits
from meshd.ids import key_id
from meshd.record import nodes as reducer
from meshd.record.commands import Entry, encode
from meshd.record.commands_registry import (
    Admit,
    Adopt,
    Certify,
    ChangeNode,
    CreateToken,
    HoldCa,
    NodeFields,
    Remove,
    RevokeToken,
    RotateCa,
    RotateKeyring,
    Started,
)
from meshd.record.events import (
    CaChanged,
    KeyringRotated,
    NodeAdmitted,
    NodeChanged,
    NodeRemoved,
    TokensChanged,
)
from meshd.record.results import Code, RecordRefused
from meshd.record.state import RecordState
from meshd.record.view import member_list
from tests.unit.record.logs import CA, HOUR_MS, START_MS, Log, boot, code_of, found, id_of, key_of
from tests.unit.record.made import submit, take

TOKEN = CreateToken(id="abcdefgh", key=bytes(32), ttl_ms=HOUR_MS, uses=2)


def refused(log: Log, command: Any) -> Code:
    """Why it was refused; that it changed nothing but its session is checked."""
    mesh = log.state.capture()
    before = [part for part in mesh.parts() if b"sessions" not in part and b"results" not in part]
    with pytest.raises(RecordRefused) as caught:
        log.by("attic", command)
    after = [part for part in log.state.capture().parts()
             if b"sessions" not in part and b"results" not in part]  # fmt: skip
    assert before[1:] == after[1:]  # all but the head, which has the index
    assert not log.events
    return caught.value.code


def test_a_mesh_is_founded_once() -> None:
    log = Log()
    assert code_of(log.raw(found())) is Code.FOUNDED_ALREADY
    row = log.state.nodes.member(id_of("attic"))
    assert (row.name, row.founder, row.holds_ca) == ("attic", True, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"ca_key": CA.der[:-1] + bytes([CA.der[-1] ^ 1])},
        {"ca_key": b"\x30" + bytes(90)},
        {"mesh": key_of("attic").id},
    ],
    ids=["a point beside the curve", "no key at all", "the id of another key"],
)
def test_a_key_that_is_none_founds_nothing(changes: dict[str, Any]) -> None:
    state = RecordState()
    assert code_of(state.apply(1, encode(Entry(found(**changes))))) is Code.BAD_KEY
    assert not state.nodes.is_founded


def test_an_admitted_node_is_in_and_a_repeat_changes_nothing() -> None:
    log = Log()
    assert log.admit("mini", labels=("quiet", "gpu", "quiet"))["name"] == "mini"
    assert log.happened(NodeAdmitted) == [NodeAdmitted(log.index, id_of("mini"))]
    row = log.state.nodes.member(id_of("mini"))
    assert (row.labels, row.joined_unix_ms) == (("gpu", "quiet"), START_MS)
    version = log.state.nodes.mesh.registry_version
    assert log.admit("mini")["version"] == version
    assert not log.events


def test_a_name_that_is_taken_gets_a_number() -> None:
    log = Log("mini")
    node = NodeFields(key=key_of("other").der, name="Mini")
    assert log.by("attic", Admit(node=node))["name"] == "Mini-2"


def test_a_key_that_is_none_is_not_admitted() -> None:
    log = Log()
    bad = key_of("mini").der[:-1] + bytes([key_of("mini").der[-1] ^ 1])
    assert refused(log, Admit(node=NodeFields(key=bad, name="mini"))) is Code.BAD_KEY


# --- tokens


def test_a_token_lets_in_as_many_as_it_is_good_for() -> None:
    log = Log()
    log.by("attic", TOKEN)
    log.admit("mini", token="abcdefgh")
    log.admit("mini", token="abcdefgh")  # again: its answer was lost
    log.admit("studio", token="abcdefgh")
    log.events.clear()
    node = NodeFields(key=key_of("laptop").der, name="laptop")
    assert refused(log, Admit(node=node, token="abcdefgh")) is Code.TOKEN_USED
    assert log.state.tokens.rows()[0].used_by == (id_of("mini"), id_of("studio"))
    log.state.check()


def test_a_token_ends_by_the_record_clock() -> None:
    log = Log()
    log.by("attic", TOKEN)
    log.tick(HOUR_MS)
    log.events.clear()
    node = NodeFields(key=key_of("mini").der, name="mini")
    assert refused(log, Admit(node=node, token="abcdefgh")) is Code.TOKEN_EXPIRED


def test_a_token_that_is_not_there_lets_nobody_in() -> None:
    log = Log()
    node = NodeFields(key=key_of("mini").der, name="mini")
    assert refused(log, Admit(node=node, token="abcdefgh")) is Code.TOKEN_WRONG
    log.by("attic", TOKEN)
    log.events.clear()
    assert refused(log, TOKEN) is Code.EXISTS
    log.by("attic", RevokeToken(id="abcdefgh"))
    log.events.clear()
    assert refused(log, Admit(node=node, token="abcdefgh")) is Code.TOKEN_WRONG
    assert refused(log, RevokeToken(id="abcdefgh")) is Code.NOT_THERE


def test_a_spent_token_makes_room_and_good_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TOKENS", 2)
    log = Log()
    for letter in "ab":
        log.by("attic", CreateToken(id=letter * 8, key=bytes(32), ttl_ms=HOUR_MS, uses=1))
    log.events.clear()
    third = CreateToken(id="c" * 8, key=bytes(32), ttl_ms=HOUR_MS, uses=1)
    assert refused(log, third) is Code.TOO_MANY
    log.admit("mini", token="b" * 8)
    log.by("attic", third)
    assert [row.id for row in log.state.tokens.rows()] == ["a" * 8, "c" * 8]


# --- removal


def test_a_removal_rotates_the_gossip_key_in_the_same_command() -> None:
    log = Log("mini", "studio")
    log.by("attic", TOKEN)
    log.events.clear()
    log.by("studio", Remove(node=id_of("mini"), gossip_key=77))
    assert [type(event) for event in log.events] == [NodeRemoved, KeyringRotated, TokensChanged]
    assert {event.index for event in log.events} == {log.index}
    assert log.events[1] == KeyringRotated(log.index, 2, 77, id_of("studio"))
    mesh = log.state.nodes.mesh
    assert (mesh.keyring_generation, mesh.gossip_key) == (2, 77)
    assert log.state.nodes.is_removed(id_of("mini"))
    assert log.state.tokens.rows() == []  # it had the record, and with it what they are proven by
    log.events.clear()
    log.by("attic", Remove(node=id_of("mini"), gossip_key=78))  # again, by another
    assert not log.events
    log.state.check()


def test_a_removed_key_is_never_let_in_again() -> None:
    log = Log("mini")
    log.by("attic", Remove(node=id_of("mini"), gossip_key=2))
    log.events.clear()
    node = NodeFields(key=key_of("mini").der, name="mini")
    assert refused(log, Admit(node=node)) is Code.REMOVED
    assert refused(log, ChangeNode(node=id_of("mini"), drained=True)) is Code.REMOVED


def test_removing_what_was_never_there_is_refused() -> None:
    assert refused(Log(), Remove(node=id_of("mini"), gossip_key=2)) is Code.NO_SUCH_NODE


def test_the_only_one_that_can_admit_does_not_leave() -> None:
    log = Log("mini")
    assert refused(log, Remove(node=id_of("attic"), gossip_key=2)) is Code.LAST_CA_HOLDER
    assert refused(log, HoldCa(node=id_of("attic"), holds=False)) is Code.LAST_CA_HOLDER
    log.by("attic", HoldCa(node=id_of("mini"), holds=True))
    log.events.clear()
    log.by("attic", Remove(node=id_of("attic"), gossip_key=2))
    assert CaChanged(log.index, 1, must_rotate=True) in log.events
    log.state.check()


def test_who_never_held_the_ca_key_leaves_without_a_new_one() -> None:
    log = Log("mini")
    log.by("attic", Remove(node=id_of("mini"), gossip_key=2))
    assert not log.happened(CaChanged)


def test_who_once_held_the_ca_key_takes_its_worth_along() -> None:
    log = Log("mini")
    log.by("attic", HoldCa(node=id_of("mini"), holds=True))
    log.by("attic", HoldCa(node=id_of("mini"), holds=False))
    log.events.clear()
    log.by("attic", Remove(node=id_of("mini"), gossip_key=2))
    assert log.happened(CaChanged) == [CaChanged(log.index, 1, must_rotate=True)]
    new = RotateCa(node=id_of("attic"), ca_key=key_of("new ca").der, generation=2)
    log.by("attic", new)
    assert log.happened(CaChanged) == [CaChanged(log.index, 2, must_rotate=False)]
    log.events.clear()
    assert refused(log, new) is Code.OLD_GENERATION
    assert log.state.nodes.mesh.mesh == CA.mesh  # the mesh keeps its name
    log.state.check()


def test_of_two_rotations_at_once_one_is_refused() -> None:
    log = Log()
    rotation = RotateKeyring(gossip_key=5, generation=2)
    assert log.by("attic", rotation) == {"generation": 2}
    log.events.clear()
    assert refused(log, rotation) is Code.OLD_GENERATION


def test_a_removed_node_claims_nothing_any_more() -> None:
    log = Log("mini")
    log.by("attic", submit())
    log.by("attic", Remove(node=id_of("mini"), gossip_key=2))
    assert code_of(log.by_raw("mini", take())) is Code.NO_SESSION
    again = Started(node=id_of("mini"), generation=9, boot=boot("mini", 9))
    assert code_of(log.raw(again)) is Code.REMOVED
    assert log.by("attic", take())["jobs"], "somebody else may have it"


def test_removed_ids_are_forgotten_only_where_room_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Log("mini", "studio")
    log.by("attic", Remove(node=id_of("mini"), gossip_key=2))
    monkeypatch.setattr(limits, "MEMBERS_EVER", 3)
    log.events.clear()
    node = NodeFields(key=key_of("laptop").der, name="laptop")
    assert refused(log, Admit(node=node)) is Code.MESH_FULL
    monkeypatch.setattr(reducer, "FORGET_REMOVED_MS", 2 * HOUR_MS)
    log.tick(HOUR_MS)
    log.tick(HOUR_MS)
    log.admit("laptop")
    assert not log.state.nodes.is_removed(id_of("mini"))
    log.state.check()


def test_a_mesh_has_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MEMBERS", 2)
    log = Log("mini")
    node = NodeFields(key=key_of("laptop").der, name="laptop")
    assert refused(log, Admit(node=node)) is Code.MESH_FULL


# --- what is said of nodes


def test_a_change_is_what_is_given_and_nothing_else() -> None:
    log = Log("mini")
    before = log.state.nodes.member(id_of("mini"))
    log.by("attic", ChangeNode(node=id_of("mini"), region="cellar", priority=5, drained=True))
    after = log.state.nodes.member(id_of("mini"))
    assert (after.region, after.priority, after.drained) == ("cellar", 5, True)
    assert (after.name, after.key) == (before.name, before.key)
    assert log.happened(NodeChanged) == [NodeChanged(log.index, id_of("mini"))]
    version = log.state.nodes.mesh.registry_version
    log.by("attic", ChangeNode(node=id_of("mini"), drained=True))
    assert log.state.nodes.mesh.registry_version == version
    assert not log.events


def test_a_node_keeps_its_own_name_and_takes_no_other_s() -> None:
    log = Log("mini")
    assert log.by("attic", ChangeNode(node=id_of("mini"), name="MINI"))["name"] == "MINI"
    assert log.by("attic", ChangeNode(node=id_of("mini"), name="attic"))["name"] == "attic-2"
    log.state.check()


def test_the_newest_certificates_are_on_record() -> None:
    log = Log("mini")
    for serial in range(1, 8):
        command = Certify(node=id_of("mini"), serial=bytes([serial]), not_after_unix_ms=START_MS)
        log.by("attic", command)
        log.by("attic", command)
    kept = [row.serial for row in log.state.nodes.member(id_of("mini")).certificates]
    assert kept == [b"\x04", b"\x05", b"\x06", b"\x07"]


def test_an_older_member_list_is_taken_over() -> None:
    log = Log("mini")
    fields = [NodeFields(key=key_of(name).der, name="mini", drained=True, joined_unix_ms=5)
              for name in ("mini", "studio")]  # fmt: skip
    command = Adopt(nodes=tuple(fields), removed=((id_of("gone"), 7), (id_of("attic"), 7)))
    assert log.by("attic", command) == {"nodes": 1, "removed": 1}
    row = log.state.nodes.member(id_of("studio"))
    assert (row.name, row.drained, row.joined_unix_ms) == ("mini-2", True, 5)
    assert log.by("attic", command) == {"nodes": 0, "removed": 0}
    log.events.clear()
    twice = NodeFields(key=key_of("laptop").der, name="laptop")
    assert refused(log, Adopt(nodes=(twice, twice))) is Code.EXISTS
    both = Adopt(nodes=(twice,), removed=((id_of("laptop"), 1),))
    assert refused(log, both) is Code.EXISTS
    log.state.check()


def later_list(log: Log, version: int, **changes: object) -> Adopt:
    """A command to take over a list of that number."""
    return Adopt(list_version=version, **changes)  # type: ignore[arg-type]


def test_a_later_list_changes_adds_and_removes_and_the_numbers_go_on_from_its() -> None:
    log = Log("mini", "studio")
    log.by("attic", CreateToken(id="abcdefgh", key=bytes(32), ttl_ms=1000, uses=1))
    log.events.clear()
    drained = NodeFields(key=key_of("mini").der, name="mini", drained=True)
    new = NodeFields(key=key_of("laptop").der, name="laptop")
    gone = ((id_of("never"), 7), (id_of("studio"), 9))
    log.by("attic", later_list(log, 40, nodes=(drained, new), removed=gone,
                               keyring_generation=5, gossip_key=99))  # fmt: skip
    nodes = log.state.nodes
    assert nodes.member(id_of("mini")).drained
    assert nodes.get(id_of("laptop")) is not None
    assert nodes.is_removed(id_of("studio"))
    assert nodes.is_removed(id_of("never"))
    assert nodes.mesh.registry_version == 41
    assert (nodes.mesh.keyring_generation, nodes.mesh.gossip_key) == (5, 99)
    assert [e.node for e in log.happened(NodeRemoved)] == [id_of("studio")]
    assert log.state.sessions.get(id_of("studio")) is None
    assert log.state.tokens.rows() == []
    log.state.check()


def test_the_number_moves_on_with_the_last_part_of_a_list() -> None:
    log = Log("mini")
    version = log.state.nodes.mesh.registry_version
    new = NodeFields(key=key_of("laptop").der, name="laptop")
    log.by("attic", later_list(log, 40, nodes=(new,), more=True))
    assert log.state.nodes.mesh.registry_version == version
    log.by("attic", later_list(log, 40))
    assert log.state.nodes.mesh.registry_version == 41


def test_a_later_list_does_not_take_away_the_only_one_that_can_admit() -> None:
    log = Log("mini")
    gone = later_list(log, 40, removed=((id_of("attic"), 7),))
    assert refused(log, gone) is Code.LAST_CA_HOLDER


# --- as a member list


def test_the_record_is_a_member_list_with_its_own_number() -> None:
    log = Log("mini", "studio")
    log.by("attic", ChangeNode(node=id_of("mini"), drained=True, labels=("gpu", "attic")))
    log.by("attic", Remove(node=id_of("studio"), gossip_key=2))
    members = member_list(log.state)
    assert (members.mesh, members.mesh_name) == (CA.mesh, "home")
    assert members.version == log.state.nodes.mesh.registry_version
    assert [m.id for m in members.members] == sorted([id_of("attic"), id_of("mini")])
    mini = members.by_id[id_of("mini")]
    assert (mini.name, mini.public_key, mini.drained) == ("mini", key_of("mini"), True)
    assert mini.labels == ("attic", "gpu")
    assert members.removed == {id_of("studio"): log.state.clock.now_unix_ms // 1000}


def test_a_certificate_is_no_change_of_the_list() -> None:
    log = Log("mini")
    before = member_list(log.state)
    log.by("attic", Certify(node=id_of("mini"), serial=b"1", not_after_unix_ms=START_MS))
    assert member_list(log.state) == before


def test_ids_are_those_of_keys() -> None:
    assert id_of("mini") == key_id(key_of("mini").der)
