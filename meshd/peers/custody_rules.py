"""What a node has to do about the CA's key, as the record has it now.  Pure.

    a voter has the key; a node without a vote has not; somebody always has
    a member that ever had it was removed: another key takes its place

A node takes one step, looks again, and so comes to rest.  The record says who has the key only from
when it is on that node's disk, and says so no more before it is deleted there: cut anywhere, who is
said to have it has it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from meshd.ids import NodeId
from meshd.record.node_rows import MeshRow, NodeRow


@dataclass(frozen=True, slots=True)
class Holding:
    """A node, and what it has of the CA's keys.  Keys are public parts, in DER."""

    me: NodeId
    ca: bytes
    """The key of the CA that it goes by."""
    key: bytes | None
    """What is on its disk; None: none."""
    next: bytes | None = None
    """One that it has made to take the place of the CA's; None: none."""
    former: tuple[bytes, ...] = ()
    """The keys of the CAs before the one that it goes by, the latest first."""
    certificates: tuple[bytes, ...] = ()
    """Theirs, in DER."""


@dataclass(frozen=True, slots=True)
class Votes:
    """Who votes on the record, as this node sees it."""

    voters: Collection[NodeId]
    leader: NodeId | None
    linked: Collection[NodeId]
    """Whom this node can ask now."""


@dataclass(frozen=True, slots=True)
class Learn:
    """Go by the CA on record, and know of those before it; a newcomer knows only of the last.

    If it is the one whose key was made here, have that as the key.
    """


@dataclass(frozen=True, slots=True)
class Repeat:
    """Put the CA that followed the one on record into its place again.

    The record was put back to before that: a backup was restored, or a copy taken for the record
    that had not heard of it.  The key of the CA on record was deleted when it was followed.
    """

    generation: int
    """Its number now."""


@dataclass(frozen=True, slots=True)
class Rotate:
    """Put another CA key in the place of the mesh's."""

    generation: int
    """Its number."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask these for the key, in this order, until one gives it."""

    holders: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class Declare:
    """Have the record say that this node holds the key, or that it holds it no more."""

    holds: bool


@dataclass(frozen=True, slots=True)
class Drop:
    """Delete the key: it is not for this node, or not the mesh's any more."""


@dataclass(frozen=True, slots=True)
class DropNext:
    """Delete the key that was made here: another one took the place, or this one has it already."""


Duty = Learn | Repeat | Rotate | Fetch | Declare | Drop | DropNext


def duty(holding: Holding, mesh: MeshRow, rows: Sequence[NodeRow], votes: Votes) -> Duty | None:
    """The next step; None: all is as it should be, or nothing can be done here.

    `rows` are the members.  While nobody is known to have a vote, nothing is done: this node has
    no copy of the record yet.
    """
    row = next((row for row in rows if row.id == holding.me), None)
    if row is None or not votes.voters:
        return None
    if mesh.ca_key in holding.former and holding.key == holding.ca:
        return Repeat(mesh.ca_generation + 1)
    took_over = holding.next == mesh.ca_key and holding.key != mesh.ca_key
    former = tuple(former.certificate for former in mesh.former_cas)
    if holding.ca != mesh.ca_key or took_over or holding.certificates != former:
        return Learn()
    if holding.next is not None and (not mesh.ca_must_rotate or holding.next == mesh.ca_key):
        return DropNext()
    if holding.key is not None and holding.key != mesh.ca_key:
        return Drop()
    holders = tuple(NodeId(other.id) for other in rows if other.holds_ca)
    if mesh.ca_must_rotate and holding.key is not None and _rotates(row, holders, votes):
        return Rotate(mesh.ca_generation + 1)
    others = tuple(node for node in holders if node != row.id)
    if row.id in votes.voters:
        return _as_voter(holding, row, others)
    return _without_vote(holding, row, others)


def may_have(node: NodeId, rows: Sequence[NodeRow], voters: Collection[NodeId]) -> bool:
    """Whether the CA's key may be given to that node: it is a member, and a voter."""
    return node in voters and any(row.id == node for row in rows)


def trouble(
    holding: Holding,
    mesh: MeshRow,
    rows: Sequence[NodeRow],
    votes: Votes,
    name_of: Callable[[NodeId], str],
) -> str:
    """What a person should know and do about the key, as a sentence; "" if all is well."""
    holders = [NodeId(row.id) for row in rows if row.holds_ca]
    if not holders or not votes.voters:
        return ""
    here = holding.key == mesh.ca_key
    others = [node for node in holders if node != holding.me]
    if here or any(node in votes.linked for node in others):
        if not mesh.ca_must_rotate:
            return ""
        return (
            "A node that was removed had the key of the mesh's CA: the mesh gets another one as "
            "soon as its record can be written"
        )
    nobody = "nobody can be let in and no certificate renewed"
    if others:
        return (
            "None of the nodes that have the key of the mesh's CA can be reached from here, so "
            f"{nobody}: start {' or '.join(map(name_of, others))}"
        )
    return (
        f"This node has lost the key of the mesh's CA, and no other has it, so {nobody}: put "
        "ca.key back from a backup of its data directory"
    )


def _rotates(row: NodeRow, holders: tuple[NodeId, ...], votes: Votes) -> bool:
    """One holder, so that not all make a key; should two think so, the record takes the first."""
    if not row.holds_ca or votes.leader in holders:
        return row.holds_ca and votes.leader == row.id
    there = [node for node in holders if node == row.id or node in votes.linked]
    return row.id == min(there)


def _as_voter(holding: Holding, row: NodeRow, others: tuple[NodeId, ...]) -> Duty | None:
    if holding.key is None and others:
        # Its file is gone: until that is on record, another might let go and think it has the key.
        return Declare(holds=False) if row.holds_ca else Fetch(others)
    if holding.key is None:
        return None
    return None if row.holds_ca else Declare(holds=True)


def _without_vote(holding: Holding, row: NodeRow, others: tuple[NodeId, ...]) -> Duty | None:
    if row.holds_ca:
        return (
            Declare(holds=False) if others else None
        )  # the last one keeps it until another has it
    return Drop() if holding.key is not None else None
