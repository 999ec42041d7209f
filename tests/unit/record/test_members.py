"""The member list: changes, signatures, and what no list may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError
from meshd.identity import PublicKey
from meshd.ids import Address, NodeId
from meshd.record import (
    ListTooLarge,
    Member,
    MemberList,
    MemberRegistry,
    NoSuchNode,
    RegistryChange,
    SignedMembers,
    clean_name,
    first_list,
    free_name,
    is_name,
    sign,
    usable,
    verify,
)
from meshd.record.members import SIGNATURE_CONTEXT, body_of
from meshd.wire.codec import pack, unpack
from tests.joins import NOW_UNIX_S, make_authority, make_key
from tests.member_lists import admit, change, remove, set_drained

AUTHORITY = make_authority()
FOUNDER = make_key("founder").public
HERE = Address("192.168.7.1", 11436)


def first() -> MemberList:
    return first_list(
        AUTHORITY.mesh, "home", FOUNDER, name="attic", addresses=[HERE], now_unix_s=NOW_UNIX_S
    )


def with_members(*names: str) -> MemberList:
    current = first()
    for name in names:
        current = admitted(current, name)
    return current


def admitted(current: MemberList, name: str, **kwargs: Any) -> MemberList:
    options: dict[str, Any] = {"name": name, "addresses": [], "now_unix_s": NOW_UNIX_S, **kwargs}
    return admit(current, key_of(name), **options)


def key_of(name: str) -> PublicKey:
    return make_key(f"member {name}").public


def node_of(name: str) -> NodeId:
    return key_of(name).node


# --- changes


def test_a_mesh_begins_with_its_founder() -> None:
    members = first()
    assert members.version == 1
    (founder,) = members.members
    assert (founder.name, founder.founder) == ("attic", True)
    assert founder.addresses == (HERE,)
    assert founder.joined_unix_s == NOW_UNIX_S


def test_addresses_that_are_none_are_left_out_and_the_rest_is_bounded() -> None:
    odd = [Address("a b", 1), Address("", 1), Address("x\n", 1), Address("x", 0), Address("é", 1)]
    many = [Address(f"10.0.0.{n}", 1) for n in range(99)]
    addresses = usable([*odd, HERE, HERE, *many])
    assert addresses[0] == HERE
    assert len(set(addresses)) == len(addresses) == limits.ADDRESSES_PER_NODE


def test_a_list_that_would_not_fit_into_a_frame_is_not_signed() -> None:
    host = "h" * limits.HOST_CHARS
    members = tuple(
        sorted(
            (
                Member(
                    make_key(n).public,
                    f"n{n}",
                    tuple(Address(host, port) for port in range(1, 17)),
                    0,
                    founder=n == 0,
                )
                for n in range(400)
            ),
            key=lambda member: member.id,
        )
    )
    with pytest.raises(ListTooLarge, match="too large"):
        sign(replace(first(), members=members), AUTHORITY.key)


# --- finding


def test_a_member_is_found_by_name_id_or_beginning() -> None:
    members = with_members("shed")
    for text in ("shed", "SHED", " shed ", node_of("shed"), node_of("shed")[:8]):
        assert members.find(text).id == node_of("shed")


def test_what_names_nobody_or_several_is_told() -> None:
    members = with_members(*(f"n{number:02}" for number in range(40)))
    with pytest.raises(NoSuchNode, match="there are: attic, n00, n01, "):
        members.find("cellar")
    with pytest.raises(NoSuchNode):
        members.find("")
    letters = [member.id[0] for member in members.members]
    common = next(letter for letter in letters if letters.count(letter) > 1)
    with pytest.raises(NoSuchNode, match="may be any of"):
        members.find(common)


# --- signatures


def test_a_signed_list_comes_back_as_it_was() -> None:
    current = remove(with_members("a", "b"), node_of("a"), NOW_UNIX_S)
    current = change(current, node_of("b"), drained=True, labels=("gpu",))
    signed = SignedMembers.from_bytes(sign(current, AUTHORITY.key).to_bytes())
    assert verify(signed, AUTHORITY.public) == current


def test_a_list_is_signed_by_its_own_mesh_only() -> None:
    signed = sign(first(), AUTHORITY.key)
    other = make_authority("other")
    with pytest.raises(ProtocolError, match="not signed"):
        verify(signed, other.public)
    with pytest.raises(ProtocolError, match="not signed"):
        verify(
            SignedMembers(signed.body, other.key.sign(SIGNATURE_CONTEXT, signed.body)),
            AUTHORITY.public,
        )
    with pytest.raises(ValueError, match="own mesh"):
        sign(first(), other.key)


def test_a_members_own_signature_makes_no_list() -> None:
    body = sign(first(), AUTHORITY.key).body
    member = make_key("founder")
    with pytest.raises(ProtocolError):
        verify(SignedMembers(body, member.sign(SIGNATURE_CONTEXT, body)), AUTHORITY.public)


def resigned(change: Any) -> SignedMembers:
    """A list that breaks a rule, rightly signed: what a faulty author would send."""
    fields = unpack(sign(with_members("shed"), AUTHORITY.key).body, max_bytes=1 << 20)
    change(fields)
    body = pack(fields)
    return SignedMembers(body, AUTHORITY.key.sign(SIGNATURE_CONTEXT, body))


def edit(field: str, value: Any, member: int | None = None) -> Any:
    def change(fields: dict[str, Any]) -> None:
        (fields if member is None else fields["members"][member])[field] = value

    return change


def double(fields: dict[str, Any]) -> None:
    fields["members"].append(fields["members"][-1])


def swap(fields: dict[str, Any]) -> None:
    fields["members"].reverse()


def same_name(fields: dict[str, Any]) -> None:
    fields["members"][0]["name"] = fields["members"][1]["name"].upper()


def removed_member(fields: dict[str, Any]) -> None:
    fields["removed"] = {FOUNDER.node: 1}


@pytest.mark.parametrize(
    "change",
    [
        edit("version", 0),
        edit("version", -1),
        edit("version", "2"),
        edit("version", 2**63),
        edit("mesh", "a" * 26),
        edit("mesh_name", "two words"),
        edit("members", []),
        edit("members", None),
        edit("removed", {"x": 1}),
        edit("removed", {"a" * 26: "now"}),
        edit("key", b"x", member=0),
        edit("name", "", member=0),
        edit("name", "a\nb", member=0),
        edit("name", "a" * 65, member=0),
        edit("joined", -1, member=0),
        edit("joined", 1.5, member=0),
        edit("founder", 1, member=0),
        edit("addresses", [["h", 0]], member=0),
        edit("addresses", [["h\x1b[31m", 1]], member=0),
        edit("addresses", [["h", 1]] * 17, member=0),
        edit("labels", ["x" * 65], member=0),
        double,
        swap,
        same_name,
        removed_member,
    ],
)
def test_a_list_that_breaks_a_rule_is_refused_though_rightly_signed(change: Any) -> None:
    with pytest.raises(ProtocolError):
        verify(resigned(change), AUTHORITY.public)


def test_keys_of_a_later_version_are_passed_over_and_passed_on() -> None:
    def later(fields: dict[str, Any]) -> None:
        fields["zones"] = ["x"]
        fields["members"][0]["zone"] = "x"

    signed = resigned(later)
    assert verify(signed, AUTHORITY.public).members == with_members("shed").members
    assert SignedMembers.from_bytes(signed.to_bytes()) == signed


def test_a_list_over_the_limit_is_refused_before_its_signature_is_checked() -> None:
    huge = SignedMembers(bytes(limits.MEMBER_LIST_BYTES + 1), bytes(64))
    with pytest.raises(LimitExceeded):
        verify(huge, AUTHORITY.public)


@pytest.mark.parametrize(
    "data", [b"", b"\xc0", pack({"body": b""}), pack({"body": "x", "signature": b""})]
)
def test_bytes_that_are_no_signed_list_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        SignedMembers.from_bytes(data)


# --- the registry


class Node:
    def __init__(self, start: MemberList) -> None:
        self.kept: list[SignedMembers] = []
        self.heard: list[RegistryChange] = []
        self.registry = MemberRegistry(
            AUTHORITY.public, sign(start, AUTHORITY.key), persist=self.kept.append
        )
        self.unsubscribe = self.registry.subscribe(self.heard.append)

    def accept(self, members: MemberList) -> bool:
        return self.registry.accept(sign(members, AUTHORITY.key))


def test_readers_see_the_applied_list() -> None:
    current = remove(with_members("a", "b"), node_of("a"), NOW_UNIX_S)
    registry = Node(current).registry
    assert registry.version == 4
    assert registry.mesh == AUTHORITY.mesh
    assert registry.mesh_name == "home"
    assert [m.name for m in registry.members()] == [m.name for m in current.members]
    assert registry.key_of(node_of("b")) == key_of("b")
    assert registry.key_hash_of(node_of("b")) == key_of("b").hash
    assert registry.key_of(node_of("a")) is None
    assert registry.key_hash_of(node_of("a")) is None
    assert registry.get(node_of("a")) is None
    assert registry.is_removed(node_of("a"))
    assert not registry.is_removed(node_of("b"))
    assert registry.find("b").id == node_of("b")


def test_a_newer_list_is_kept_and_told() -> None:
    node = Node(with_members("a", "b"))
    newer = set_drained(remove(node.registry.current, node_of("a"), 1.0), node_of("b"), True)
    newer = admitted(newer, "c")
    assert node.accept(newer)
    assert node.kept == [node.registry.signed] == [sign(newer, AUTHORITY.key)]
    assert node.heard == [
        RegistryChange(
            version=newer.version,
            added=frozenset([node_of("c")]),
            removed=frozenset([node_of("a")]),
            changed=frozenset([node_of("b")]),
        )
    ]


def test_who_was_removed_before_this_node_had_heard_of_it_is_told_once() -> None:
    node = Node(first())
    gone = remove(with_members("a"), node_of("a"), 1.0)
    assert node.accept(gone)
    assert node.accept(admitted(gone, "b"))
    assert [change.removed for change in node.heard] == [frozenset([node_of("a")]), frozenset()]


def test_an_older_list_and_the_same_list_change_nothing() -> None:
    older, current = first(), with_members("a")
    node = Node(current)
    assert not node.accept(older)
    assert not node.accept(current)
    assert (node.kept, node.heard) == ([], [])
    assert node.registry.current == current


def test_two_lists_with_one_number_are_refused_loudly() -> None:
    node = Node(with_members("a"))
    with pytest.raises(ProtocolError, match="old copy of its data directory"):
        node.accept(with_members("b"))
    assert node.registry.current == with_members("a")


def test_a_list_of_another_mesh_changes_nothing() -> None:
    other = make_authority("other")
    foreign = replace(first(), mesh=other.mesh)
    node = Node(first())
    with pytest.raises(ProtocolError):
        node.registry.accept(sign(replace(foreign, version=9), other.key))
    assert node.registry.version == 1


def test_what_cannot_be_kept_is_not_applied() -> None:
    def full(signed: SignedMembers) -> None:
        raise OSError("disk full")

    registry = MemberRegistry(AUTHORITY.public, sign(first(), AUTHORITY.key), persist=full)
    heard: list[RegistryChange] = []
    registry.subscribe(heard.append)
    with pytest.raises(OSError, match="disk full"):
        registry.accept(sign(with_members("a"), AUTHORITY.key))
    assert registry.version == 1
    assert heard == []


def test_what_the_record_came_to_needs_no_signature_and_survives_a_restart() -> None:
    kept: list[bytes] = []
    signed = sign(first(), AUTHORITY.key)
    registry = MemberRegistry(AUTHORITY.public, signed, persist_applied=kept.append)
    newer = remove(with_members("a"), node_of("a"), 1.0)
    assert registry.apply(newer)
    registry.keep()
    assert registry.signed is signed, "nothing unsigned is handed to others"
    assert (registry.version, registry.signed_version) == (3, 1)
    again = MemberRegistry(AUTHORITY.public, signed, applied=kept[0])
    assert again.current == newer
    assert again.is_removed(node_of("a"))


def test_a_record_that_is_behind_takes_nothing_back() -> None:
    node = Node(with_members("a"))
    for behind in (first(), with_members("b")):
        assert not node.registry.apply(behind)
    assert node.registry.current == with_members("a")
    assert node.heard == []


def test_who_can_sign_signs_what_was_applied_once() -> None:
    node = Node(first())
    node.registry.apply(with_members("a"))
    assert node.registry.sign(AUTHORITY.key)
    assert not node.registry.sign(AUTHORITY.key)
    assert verify(node.registry.signed, AUTHORITY.public) == with_members("a")
    assert len(node.heard) == 1


def test_a_signature_under_what_was_applied_is_kept_to_be_handed_on() -> None:
    node = Node(first())
    node.registry.apply(with_members("a"))
    assert not node.accept(with_members("a")), "it is no news"
    assert node.registry.signed_version == 2
    assert node.kept == [node.registry.signed]
    assert len(node.heard) == 1


def test_equal_lists_are_equal_bytes() -> None:
    assert body_of(with_members("a", "b")) == body_of(with_members("a", "b"))


def test_who_unsubscribed_hears_nothing_even_in_the_middle() -> None:
    node = Node(first())
    node.unsubscribe()
    node.unsubscribe()
    node.accept(with_members("a"))
    assert node.heard == []


# --- names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Marias-MacBook-Pro.local", "Marias-MacBook-Pro"),
        ("host", "host"),
        ("küche nr 7", "k-che-nr-7"),
        ("", "node"),
        ("...", "node"),
        ("日本", "node"),
        ("a" * 100, "a" * 64),
        ("-x-", "x"),
        ("a\n\x1b[31mb", "a-31mb"),
    ],
)
def test_any_host_name_becomes_a_name(text: str, name: str) -> None:
    assert clean_name(text) == name
    assert is_name(name)


def test_a_number_keeps_a_long_name_within_its_length() -> None:
    assert free_name("a" * 64, ["a" * 64]) == "a" * 62 + "-2"
