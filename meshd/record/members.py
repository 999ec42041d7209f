"""The member list: who is in the mesh.  Pure.

One numbered list, made of the record (view.py), signed by whoever holds the CA's key, kept and
passed on by every node.  It is what a node knows before its record runs, what a newcomer gets with
its admission, and what reaches a node that the record does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Final

import msgspec

from meshd import limits
from meshd.errors import LimitExceeded, ProtocolError, Refused
from meshd.identity.keys import PrivateKey, PublicKey, public_key
from meshd.ids import Address, MeshId, NodeId, is_key_id
from meshd.record.names import clean_name, is_name
from meshd.wire.codec import pack, unpack

SIGNATURE_CONTEXT: Final = b"meshd members 1"
MEMBER_BYTES: Final = 16 * 1024
"""More than any one member takes up in a list."""

_HOST = re.compile(rf"[A-Za-z0-9._:%-]{{1,{limits.HOST_CHARS}}}\Z")


class ListTooLarge(Refused):
    """A member list would be larger than what travels in one frame."""


class NoSuchNode(Refused):
    """What was typed names no member, or more than one."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member, as the mesh has it on record."""

    public_key: PublicKey
    name: str
    addresses: tuple[Address, ...]
    """Where it said it listens when it joined or last changed it: a hint, proves nothing."""
    joined_unix_s: int
    founder: bool = False
    """It founded the mesh."""
    drained: bool = False
    """It takes no new requests, by somebody's order."""
    labels: tuple[str, ...] = ()

    @property
    def id(self) -> NodeId:
        return self.public_key.node


@dataclass(frozen=True)
class MemberList:
    """The whole list.  Checked when made: raises ProtocolError for one that breaks a rule."""

    mesh: MeshId
    mesh_name: str
    version: int
    members: tuple[Member, ...]
    """In the order of their ids."""
    removed: Mapping[NodeId, int] = field(default_factory=dict)
    """Who was removed or left, and when (unix s): their keys never come back."""

    def __post_init__(self) -> None:
        ids = [member.id for member in self.members]
        names = {member.name.casefold() for member in self.members}
        rules = (
            (is_key_id(self.mesh), "the mesh id is not one"),
            (is_name(self.mesh_name), "the mesh's name is not one"),
            (0 < self.version < 2**63, "the version is not a positive number"),
            (len(ids) <= limits.MEMBERS, f"there are more than {limits.MEMBERS} members"),
            (
                len(ids) + len(self.removed) <= limits.MEMBERS_EVER,
                f"there are more than {limits.MEMBERS_EVER} members and removed ids",
            ),
            (all(a < b for a, b in pairwise(ids)), "ids are out of order"),
            (len(names) == len(ids), "two members have one name"),
            (self.removed.keys().isdisjoint(ids), "a removed node is a member"),
            (all(is_key_id(node) for node in self.removed), "a removed id is not one"),
            (bool(ids), "there is no member"),
            (all(_is_sound(member) for member in self.members), "a member's entry is not sound"),
        )
        for holds, what in rules:
            if not holds:
                raise ProtocolError(f"A member list is not valid: {what}.")

    @cached_property
    def by_id(self) -> dict[NodeId, Member]:
        return {member.id: member for member in self.members}

    def find(self, text: str) -> Member:
        """The member with that name, id or beginning of an id.  Raises NoSuchNode."""
        return find_member(text, self.members)


def find_member(text: str, members: Sequence[Member]) -> Member:
    """The member that a person means by a name, an id or its beginning.  Raises NoSuchNode."""
    wanted = text.strip()
    for member in members:
        if wanted == member.id or wanted.casefold() == member.name.casefold():
            return member
    matching = [m for m in members if wanted and m.id.startswith(wanted)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        some = ", ".join(f"{m.name} ({m.id[:12]})" for m in matching[:5])
        raise NoSuchNode(f"{text!r} may be any of {some}: write more of the id.")
    names = sorted(m.name for m in members)
    known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    raise NoSuchNode(f"No node is called {text!r}; there are: {known}.")


def _is_sound(member: Member) -> bool:
    return (
        is_name(member.name)
        and len(member.addresses) <= limits.ADDRESSES_PER_NODE
        and all(is_address(address) for address in member.addresses)
        and len(member.labels) <= limits.LABELS_PER_NODE
        and all(0 < len(label) <= limits.LABEL_CHARS for label in member.labels)
        and 0 <= member.joined_unix_s < 2**53
    )


def is_address(address: Address) -> bool:
    """Whether its host can be one (printable, short) and its port too."""
    return _HOST.match(address.host) is not None and 0 < address.port < 65536


def first_list(
    mesh: MeshId,
    mesh_name: str,
    key: PublicKey,
    *,
    name: str,
    addresses: Iterable[Address],
    now_unix_s: float,
) -> MemberList:
    """The first list of a new mesh: its founder alone."""
    founder = Member(key, clean_name(name), usable(addresses), int(now_unix_s), founder=True)
    return MemberList(mesh, clean_name(mesh_name), 1, (founder,))


def usable(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Those that can be addresses, each once, as many as a member may have."""
    kept = dict.fromkeys(address for address in addresses if is_address(address))
    return tuple(kept)[: limits.ADDRESSES_PER_NODE]


# --- as bytes


class _MemberWire(msgspec.Struct):
    key: bytes
    name: str
    addresses: Annotated[list[tuple[str, int]], msgspec.Meta(max_length=limits.ADDRESSES_PER_NODE)]
    joined: int
    founder: bool
    drained: bool
    labels: list[str]


class _ListWire(msgspec.Struct):
    mesh: str
    mesh_name: str
    version: int
    members: Annotated[list[_MemberWire], msgspec.Meta(max_length=limits.MEMBERS)]
    removed: dict[str, int]


class SignedMembers(msgspec.Struct, frozen=True):
    """A member list and the CA's signature over it, as they travel and are kept.

    `body` is passed on as it came, so that a list from a newer version loses nothing on its way.
    """

    body: bytes
    signature: bytes

    def is_by(self, ca: PublicKey) -> bool:
        """Whether that key has signed it."""
        return ca.verify(SIGNATURE_CONTEXT, self.body, self.signature)

    def to_bytes(self) -> bytes:
        """One blob for disk and for the join protocol."""
        return pack({"body": self.body, "signature": self.signature})

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedMembers:
        """Read what `to_bytes` wrote; nothing is verified.  Raises ProtocolError."""
        fields = unpack(data, max_bytes=limits.MEMBER_LIST_BYTES + 256)
        try:
            return msgspec.convert(fields, cls, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise ProtocolError(f"A signed member list is not valid: {error}.") from error


def body_of(members: MemberList) -> bytes:
    """The list as bytes, equal for equal lists.

    Raises ListTooLarge if they are more than `limits.MEMBER_LIST_BYTES`.
    """
    try:
        body = pack(_to_wire(members))
    except LimitExceeded:
        body = b""
    if not 0 < len(body) <= limits.MEMBER_LIST_BYTES:
        raise ListTooLarge("The mesh is full: its member list would be too large to travel.")
    return body


def sign(members: MemberList, ca: PrivateKey) -> SignedMembers:
    """Sign a list with the mesh's key.  Raises ListTooLarge."""
    if ca.public.mesh != members.mesh:
        raise ValueError("a member list is signed by its own mesh's key")
    body = body_of(members)
    return SignedMembers(body, ca.sign(SIGNATURE_CONTEXT, body))


class OtherSigner(ProtocolError):
    """A member list is signed by another than the mesh's CA, as far as is known here."""


def verify(signed: SignedMembers, ca: PublicKey) -> MemberList:
    """The list, if it is signed by this mesh's key.  Raises OtherSigner and ProtocolError.

    The signature is checked before anything inside is looked at.
    """
    if len(signed.body) > limits.MEMBER_LIST_BYTES:
        raise LimitExceeded(
            f"A member list of {len(signed.body)} bytes is over the limit of "
            f"{limits.MEMBER_LIST_BYTES}."
        )
    if not signed.is_by(ca):
        raise OtherSigner("A member list is not signed by this mesh's authority.")
    members = read_body(signed.body)
    if members.mesh != ca.mesh:
        raise ProtocolError("A member list is of another mesh than its signature.")
    return members


def read_body(body: bytes) -> MemberList:
    """The list in these bytes, whoever wrote them.  Raises ProtocolError."""
    fields = unpack(body, max_bytes=limits.MEMBER_LIST_BYTES)
    try:
        wire = msgspec.convert(fields, _ListWire, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise ProtocolError(f"A member list is not valid: {error}.") from error
    return MemberList(
        mesh=MeshId(wire.mesh),
        mesh_name=wire.mesh_name,
        version=wire.version,
        members=tuple(_member(member) for member in wire.members),
        removed={NodeId(node): at for node, at in wire.removed.items()},
    )


def _to_wire(members: MemberList) -> dict[str, object]:
    return {
        "mesh": members.mesh,
        "mesh_name": members.mesh_name,
        "version": members.version,
        "members": [
            {
                "key": member.public_key.der,
                "name": member.name,
                "addresses": [[address.host, address.port] for address in member.addresses],
                "joined": member.joined_unix_s,
                "founder": member.founder,
                "drained": member.drained,
                "labels": list(member.labels),
            }
            for member in members.members
        ],
        "removed": dict(members.removed),
    }


def _member(wire: _MemberWire) -> Member:
    return Member(
        public_key=public_key(wire.key),
        name=wire.name,
        addresses=tuple(Address(host, port) for host, port in wire.addresses),
        joined_unix_s=wire.joined,
        founder=wire.founder,
        drained=wire.drained,
        labels=tuple(wire.labels),
    )
