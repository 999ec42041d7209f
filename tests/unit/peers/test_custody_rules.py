"""What a node does about the CA's key, by what the record says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.ids import NodeId
from meshd.peers.custody_rules import Declare, Drop, Duty, Fetch, Holding, duty, may_have
from meshd.record.node_rows import MeshRow, NodeRow
from tests.joins import make_key

OLD, NEW = make_key("ca").public, make_key("next ca").public
KEYS = {name: make_key(name).public for name in "abcde"}
IDS = {name: key.node for name, key in KEYS.items()}
MESH = MeshRow(
    mesh=OLD.id,
    mesh_name="home",
    ca_key=NEW.der,
    gossip_key=1,
    keyring_generation=1,
    registry_version=1,
    ca_generation=2,
)


def ids(names: str) -> tuple[NodeId, ...]:
    return tuple(IDS[name] for name in names)


def rows(members: str, holders: str) -> list[NodeRow]:
    return [
        NodeRow(
            id=IDS[name],
            key=KEYS[name].der,
            name=name,
            joined_unix_ms=1,
            holds_ca=name in holders,
            held_ca=2 if name in holders else 0,
        )
        for name in members
    ]


@pytest.mark.parametrize(
    ("voters", "holders", "key", "wanted"),
    [
        # what `a` does; all five are members
        ("abc", "bc", None, Fetch(ids("bc"))),  # a voter without the key asks for it
        ("abc", "abc", None, Fetch(ids("bc"))),  # also one that has lost its file
        ("abc", "a", None, None),  # nobody could give it
        ("abc", "b", NEW, Declare(holds=True)),  # it is on its disk
        ("abc", "ab", NEW, None),  # as it should be
        ("bcd", "ab", NEW, Declare(holds=False)),  # it has no vote any more
        ("bcd", "b", NEW, Drop()),  # and the record knows that it lets go of the key
        ("bcd", "a", NEW, None),  # the last one keeps it
        ("bcd", "ab", None, Declare(holds=False)),  # the record is wrong about it
        ("bcd", "b", None, None),
        ("abc", "ab", OLD, Drop()),  # it is not the mesh's any more
        ("bcd", "b", OLD, Drop()),
        ("", "b", OLD, None),  # no copy of the record yet
    ],
)
def test_each_state_of_the_record_has_one_next_step(
    voters: str, holders: str, key: object, wanted: Duty | None
) -> None:
    held = None if key is None else (NEW if key is NEW else OLD).der
    step = duty(Holding(IDS["a"], held), MESH, rows("abcde", holders), ids(voters))
    assert step == wanted


def test_a_node_that_is_no_member_does_nothing() -> None:
    assert duty(Holding(IDS["a"], NEW.der), MESH, rows("bc", "b"), ids("bc")) is None


def test_only_members_with_a_vote_may_have_the_key() -> None:
    members = rows("abc", "a")
    assert may_have(IDS["b"], members, ids("abd"))
    assert not may_have(IDS["c"], members, ids("abd"))  # a member without a vote
    assert not may_have(IDS["d"], members, ids("abd"))  # a removed one that still has one
    assert not may_have(IDS["b"], members, ())


@given(
    voters=st.sets(st.sampled_from("abcde"), min_size=1),
    holders=st.sets(st.sampled_from("abcde"), min_size=1),
    lost=st.sets(st.sampled_from("abcde")),
    stale=st.sets(st.sampled_from("abcde")),
    order=st.lists(st.sampled_from("abcde"), min_size=60, max_size=60),
)
def test_from_any_state_the_voters_and_nobody_else_come_to_have_the_key(
    voters: set[str], holders: set[str], lost: set[str], stale: set[str], order: list[str]
) -> None:
    """Whoever acts when; the key never dies, and who is said to have it has it, or had lost it."""
    has = holders - lost
    disk = dict.fromkeys(has, NEW.der) | dict.fromkeys(stale - has, OLD.der)
    on_record = set(holders)
    for name in [*order, *"abcde" * 8]:
        holding = Holding(IDS[name], disk.get(name))
        had = {n for n, key in disk.items() if key == NEW.der}
        step = duty(holding, MESH, rows("abcde", "".join(on_record)), ids("".join(voters)))
        match step:
            case Fetch(asked):
                if any(disk.get(n) == NEW.der and IDS[n] in asked for n in "abcde"):
                    disk[name] = NEW.der
            case Declare(True):
                assert disk[name] == NEW.der
                on_record.add(name)
            case Declare(False):
                assert on_record - {name}
                on_record.discard(name)
            case Drop():
                assert disk[name] == OLD.der or (name not in voters and name not in on_record)
                del disk[name]
        assert not (on_record & had) - {n for n, key in disk.items() if key == NEW.der}
    if has & on_record:  # somebody had it who could still be asked
        assert {n for n, key in disk.items() if key == NEW.der} == voters == on_record
