"""What a signed member list says that the record does not know.  Pure.

A list is made of the record, so it is never ahead of it: unless an earlier meshd wrote it, whose
founder decided alone, or the record itself went back (restored from a backup, or begun anew by
`meshd recover`).  Then what the list says is taken into the record, removals above all: a node that
was sent away must not be a member again because the record forgot.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from meshd import limits
from meshd.identity.keyring import Keyring
from meshd.ids import NodeId
from meshd.record.commands_registry import Adopt, NodeFields
from meshd.record.members import Member, MemberList
from meshd.record.state import RecordState
from meshd.record.table import encode_row
from meshd.record.view import member_list

NODES_BYTES: Final = limits.COMMAND_BYTES // 2
"""So much of one command for nodes: one fits, with all addresses and labels that it may have."""
NODES_AT_ONCE: Final = 128
REMOVED_AT_ONCE: Final = 256
"""Of some 40 bytes each: they and the nodes fit into one command."""


def taken_over(members: MemberList, state: RecordState, keyring: Keyring) -> Adopt | None:
    """The next command to take that list into the record; None: nothing is lacking.

    For a node whose state has all that was ever acknowledged.  `keyring` is this node's.
    """
    known = member_list(state)
    if members.version < known.version or members == known:
        return None
    lacking = [fields_of(one) for one in members.members if one != known.by_id.get(one.id)]
    nodes = _first(lacking)
    gone = [
        (node, at * 1000)
        for node, at in sorted(members.removed.items())
        if not state.nodes.is_removed(node) and not _holds_ca_alone(state, node)
    ]
    later = state.nodes.mesh.keyring_generation < keyring.version
    return Adopt(
        nodes=nodes,
        removed=tuple(gone[:REMOVED_AT_ONCE]),
        list_version=members.version,
        more=len(nodes) < len(lacking) or len(gone) > REMOVED_AT_ONCE,
        keyring_generation=keyring.version if later else 0,
        gossip_key=keyring.primary.id if later else 0,
    )


def fields_of(member: Member) -> NodeFields:
    """A member of a list as commands describe it."""
    return NodeFields(
        key=member.public_key.der,
        name=member.name,
        addresses=tuple((a.host, a.port) for a in member.addresses),
        labels=member.labels,
        drained=member.drained,
        joined_unix_ms=member.joined_unix_s * 1000,
    )


def _first(lacking: Sequence[NodeFields]) -> tuple[NodeFields, ...]:
    """As many as fit into a command."""
    sizes = accumulate(len(encode_row(fields)) for fields in lacking[:NODES_AT_ONCE])
    return tuple(
        fields for fields, size in zip(lacking, sizes, strict=False) if size <= NODES_BYTES
    )


def _holds_ca_alone(state: RecordState, node: NodeId) -> bool:
    holders = [row.id for row in state.nodes.rows() if row.holds_ca]
    return holders == [node]
