"""What a node has to do about the CA's key, as the record has it now.  Pure.

    a voter has the key; a node without a vote has not; somebody always has

A node takes one step, looks again, and so comes to rest.  The record says who has the key only from
when it is on that node's disk, and says so no more before it is deleted there: cut anywhere, who is
said to have it has it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from meshd.ids import NodeId
from meshd.record.node_rows import MeshRow, NodeRow


@dataclass(frozen=True, slots=True)
class Holding:
    """A node, and what it has of the CA's key."""

    me: NodeId
    key: bytes | None
    """The public part (DER) of the key on its disk; None: it has none."""


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


Duty = Fetch | Declare | Drop


def duty(
    holding: Holding,
    mesh: MeshRow,
    rows: Sequence[NodeRow],
    voters: Collection[NodeId],
) -> Duty | None:
    """The next step; None: all is as it should be, or nothing can be done here.

    `rows` are the members.  While nobody is known to have a vote, nothing is done: this node has
    no copy of the record yet.
    """
    row = next((row for row in rows if row.id == holding.me), None)
    if row is None or not voters:
        return None
    others = tuple(NodeId(other.id) for other in rows if other.holds_ca and other.id != row.id)
    if holding.key is not None and holding.key != mesh.ca_key:
        return Drop()
    if row.id in voters:
        return _as_voter(holding, row, others)
    return _without_vote(holding, row, others)


def may_have(node: NodeId, rows: Sequence[NodeRow], voters: Collection[NodeId]) -> bool:
    """Whether the CA's key may be given to that node: it is a member, and a voter."""
    return node in voters and any(row.id == node for row in rows)


def _as_voter(holding: Holding, row: NodeRow, others: tuple[NodeId, ...]) -> Duty | None:
    if holding.key is None:
        return Fetch(others) if others else None
    return None if row.holds_ca else Declare(holds=True)


def _without_vote(holding: Holding, row: NodeRow, others: tuple[NodeId, ...]) -> Duty | None:
    if row.holds_ca:
        return (
            Declare(holds=False) if others else None
        )  # the last one keeps it until another has it
    return Drop() if holding.key is not None else None
