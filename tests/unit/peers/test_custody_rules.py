"""What a node does about the CA's key, by what the record says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from meshd.ids import NodeId
from meshd.peers.custody_rules import (
    Declare,
    Drop,
    DropNext,
    Duty,
    Fetch,
    Holding,
    Learn,
    Repeat,
    Rotate,
    Votes,
    duty,
    may_have,
    trouble,
)
from meshd.record.node_rows import FormerCa, MeshRow, NodeRow
from tests.joins import make_key

OLD, CA, NEXT = (make_key(name).public.der for name in ("ca", "next ca", "third ca"))
KEYS = {name: make_key(name).public for name in "abcde"}
IDS = {name: key.node for name, key in KEYS.items()}
MESH = MeshRow(
    mesh=make_key("ca").public.id,
    mesh_name="home",
    ca_key=CA,
    gossip_key=1,
    keyring_generation=1,
    registry_version=1,
    ca_generation=2,
)
MUST_ROTATE = replace(MESH, ca_must_rotate=True)


def ids(names: str) -> tuple[NodeId, ...]:
    return tuple(IDS[name] for name in names)


def votes(voters: str, leader: str = "", linked: str = "abcde") -> Votes:
    return Votes(ids(voters), IDS.get(leader), ids(linked))


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
        ("abc", "abc", None, Declare(holds=False)),  # it has lost its file, and asks after that
        ("abc", "a", None, None),  # nobody could give it
        ("abc", "b", CA, Declare(holds=True)),  # it is on its disk
        ("abc", "ab", CA, None),  # as it should be
        ("bcd", "ab", CA, Declare(holds=False)),  # it has no vote any more
        ("bcd", "b", CA, Drop()),  # and the record knows that it lets go of the key
        ("bcd", "a", CA, None),  # the last one keeps it
        ("bcd", "ab", None, Declare(holds=False)),  # the record is wrong about it
        ("bcd", "b", None, None),
        ("abc", "ab", OLD, Drop()),  # it is not the mesh's any more
        ("bcd", "b", OLD, Drop()),
        ("", "b", OLD, None),  # no copy of the record yet
    ],
)
def test_each_state_of_the_record_has_one_next_step(
    voters: str, holders: str, key: bytes | None, wanted: Duty | None
) -> None:
    step = duty(Holding(IDS["a"], CA, key), MESH, rows("abcde", holders), votes(voters))
    assert step == wanted


FIRST = min("abc", key=lambda name: IDS[name])
LAST = max("abc", key=lambda name: IDS[name])


@pytest.mark.parametrize(
    ("me", "holders", "leader", "linked", "wanted"),
    [
        ("a", "abc", "a", "abc", Rotate(3)),  # the leader, if it holds the key
        ("b", "abc", "a", "abc", None),
        (FIRST, "abc", "d", "abc", Rotate(3)),  # else the first of those that can be asked
        (LAST, "abc", "d", "abc", None),
        (LAST, "abc", "d", "", Rotate(3)),  # perhaps two do: the record takes the first
        (LAST, FIRST, "", "abc", Declare(holds=True)),  # who is not said to hold it does not
        ("a", "a", "", "", Rotate(3)),
    ],
)
def test_one_holder_makes_another_key_when_one_that_had_it_was_removed(
    me: str, holders: str, leader: str, linked: str, wanted: Duty | None
) -> None:
    holding = Holding(IDS[me], CA, CA)
    there = votes("abc", leader, linked)
    assert duty(holding, MUST_ROTATE, rows("abc", holders), there) == wanted
    assert not isinstance(duty(holding, MESH, rows("abc", holders), there), Rotate)


@pytest.mark.parametrize(
    ("ca", "key", "made", "mesh", "wanted"),
    [
        (OLD, OLD, None, MESH, Learn()),  # another one was first
        (OLD, OLD, CA, MESH, Learn()),  # this one's key took the place
        (CA, OLD, CA, MESH, Learn()),  # cut before it was its key
        (CA, CA, CA, MESH, DropNext()),  # cut after that
        (CA, CA, CA, MUST_ROTATE, DropNext()),  # that one is not to follow itself
        (CA, CA, NEXT, MESH, DropNext()),  # it lost the race, and has the winner's key
        (CA, CA, NEXT, MUST_ROTATE, Rotate(3)),  # it is not known whether it was taken
    ],
)
def test_a_change_of_the_ca_is_gone_through_with_from_wherever_it_was_cut(
    ca: bytes, key: bytes, made: bytes | None, mesh: MeshRow, wanted: Duty
) -> None:
    holding = Holding(IDS["a"], ca, key, made)
    assert duty(holding, mesh, rows("ab", "ab"), votes("ab", "a")) == wanted


@pytest.mark.parametrize(
    ("ca", "key", "former", "wanted"),
    [
        # the record names CA, as number 2
        (NEXT, NEXT, (CA, OLD), Repeat(3)),
        (NEXT, None, (CA, OLD), Learn()),  # who has no key goes back, until one who has repeats it
        (NEXT, CA, (CA, OLD), Learn()),
        (OLD, OLD, (), Learn()),
        (CA, CA, (OLD,), None),
        (CA, CA, (), None),
    ],
)
def test_a_record_that_was_put_back_to_a_former_ca_gets_the_next_one_again(
    ca: bytes, key: bytes | None, former: tuple[bytes, ...], wanted: Duty | None
) -> None:
    holding = Holding(IDS["a"], ca, key, former=former)
    assert duty(holding, MESH, rows("a", "a"), votes("a", "a")) == wanted


def test_who_came_after_a_change_of_the_ca_learns_of_the_cas_before() -> None:
    mesh = replace(MESH, former_cas=(FormerCa(certificate=b"the first", link=b"a link"),))
    newcomer = Holding(IDS["a"], CA, None)
    assert duty(newcomer, mesh, rows("ab", "b"), votes("b", "b")) == Learn()
    knows = Holding(IDS["a"], CA, None, certificates=(b"the first",))
    assert duty(knows, mesh, rows("ab", "b"), votes("b", "b")) is None


def test_a_node_that_is_no_member_does_nothing() -> None:
    assert duty(Holding(IDS["a"], CA, CA), MESH, rows("bc", "b"), votes("bc")) is None


def test_only_members_with_a_vote_may_have_the_key() -> None:
    members = rows("abc", "a")
    assert may_have(IDS["b"], members, ids("abd"))
    assert not may_have(IDS["c"], members, ids("abd"))  # a member without a vote
    assert not may_have(IDS["d"], members, ids("abd"))  # a removed one that still has one
    assert not may_have(IDS["b"], members, ())


@pytest.mark.parametrize(
    ("holders", "key", "linked", "mesh", "wanted"),
    [
        # what `a` says
        ("abc", CA, "", MESH, ""),
        ("bc", None, "c", MESH, ""),
        ("bc", None, "", MESH, "can be reached from here.*start b or c"),
        ("abc", None, "", MESH, "can be reached from here.*start b or c"),
        ("a", None, "bc", MESH, "has lost the key.*put ca.key back from a backup"),
        ("a", OLD, "bc", MESH, "has lost the key"),
        ("ab", CA, "b", MUST_ROTATE, "as soon as its record can be written"),
        ("b", None, "b", MUST_ROTATE, "as soon as its record can be written"),
    ],
)
def test_a_person_is_told_who_has_the_key_when_nobody_there_has(
    holders: str, key: bytes | None, linked: str, mesh: MeshRow, wanted: str
) -> None:
    names = {node: name for name, node in IDS.items()}
    there = votes("abc", linked=linked)
    said = trouble(Holding(IDS["a"], CA, key), mesh, rows("abc", holders), there, names.__getitem__)
    assert bool(said) == bool(wanted)
    assert re.search(wanted, said)


@dataclass
class Town:
    """Five nodes and a record; whoever acts takes the step that it should."""

    voters: str
    leader: str
    on_record: set[str]
    ca: dict[str, bytes]
    key: dict[str, bytes]
    made: dict[str, bytes] = field(default_factory=dict)
    mesh: MeshRow = MESH

    def holding(self, name: str) -> Holding:
        return Holding(IDS[name], self.ca[name], self.key.get(name), self.made.get(name))

    def act(self, name: str) -> None:
        there = votes(self.voters, self.leader)
        members = rows("abcde", "".join(self.on_record))
        match duty(self.holding(name), self.mesh, members, there):
            case Learn():
                if self.made.get(name) == self.mesh.ca_key:
                    self.key[name] = self.made.pop(name)
                self.ca[name] = self.mesh.ca_key
            case Rotate(generation):
                assert generation == self.mesh.ca_generation + 1
                assert self.key[name] == self.mesh.ca_key
                key = self.made.setdefault(name, make_key(f"{name} {generation}").public.der)
                self.on_record = {name}
                self.mesh = replace(
                    self.mesh, ca_key=key, ca_generation=generation, ca_must_rotate=False
                )
            case Fetch(asked):
                if any(self.has(n) and IDS[n] in asked for n in "abcde"):
                    self.key[name] = self.mesh.ca_key
            case Declare(True):
                assert self.has(name)
                self.on_record.add(name)
            case Declare(False):
                self.on_record.discard(name)
                assert self.on_record
            case Drop():
                assert not self.has(name) or name not in self.on_record
                del self.key[name]
            case DropNext():
                del self.made[name]

    def has(self, name: str) -> bool:
        return self.key.get(name) == self.mesh.ca_key

    def could(self, name: str) -> bool:
        """It has the key, or will when it looks."""
        return self.mesh.ca_key in (self.key.get(name), self.made.get(name))


NAMES = st.sampled_from("abcde")


@given(
    voters=st.sets(NAMES, min_size=1),
    holders=st.sets(NAMES, min_size=1),
    lost=st.sets(NAMES),
    stale=st.sets(NAMES),
    order=st.lists(NAMES, min_size=60, max_size=60),
    removals=st.sets(st.integers(0, 59), max_size=3),
)
def test_from_any_state_the_voters_and_nobody_else_come_to_have_the_key(
    voters: set[str],
    holders: set[str],
    lost: set[str],
    stale: set[str],
    order: list[str],
    removals: set[int],
) -> None:
    """Whoever acts when, and however often somebody who had the key is removed meanwhile.

    Who has lost its file looks first: the others would think that it has the key.
    """
    has = holders - lost
    town = Town(
        voters="".join(voters),
        leader=min(voters),
        on_record=set(holders),
        ca={name: OLD if name in stale - has else CA for name in "abcde"},
        key=dict.fromkeys(has, CA) | dict.fromkeys(stale - has, OLD),
    )
    for turn, name in enumerate([*sorted(lost) * 4, *order, *"abcde" * 12]):
        if turn in removals:
            town.mesh = replace(town.mesh, ca_must_rotate=True)
        kept = {n for n in town.on_record if town.could(n)}
        town.act(name)
        assert not kept or any(town.could(n) for n in town.on_record)
    if has:  # somebody had it who could be asked
        assert {n for n in "abcde" if town.has(n)} == voters == town.on_record
        assert set(town.key) == voters
        assert not town.made
        assert not town.mesh.ca_must_rotate
        assert set(town.ca.values()) == {town.mesh.ca_key}
