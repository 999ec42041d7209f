"""The record's state as the rest of the node knows it: the member list, API keys.  Pure."""

from __future__ import annotations

from meshd.apikeys import ApiKey, ApiKeys
from meshd.identity.keys import public_key
from meshd.ids import Address, MeshId, NodeId
from meshd.record.members import Member, MemberList
from meshd.record.node_rows import NodeRow
from meshd.record.state import RecordState


def member_list(state: RecordState) -> MemberList:
    """The member list that a founded mesh's record amounts to.

    A function of the state alone, numbered by its count of changes: two nodes that make it of the
    same number make the same bytes.
    """
    mesh = state.nodes.mesh
    return MemberList(
        mesh=MeshId(mesh.mesh),
        mesh_name=mesh.mesh_name,
        version=mesh.registry_version,
        members=tuple(_member(row) for row in state.nodes.rows()),
        removed={NodeId(r.id): r.removed_unix_ms // 1000 for r in state.nodes.removed_rows()},
    )


def _member(row: NodeRow) -> Member:
    return Member(
        public_key=public_key(row.key),
        name=row.name,
        addresses=tuple(Address(host, port) for host, port in row.addresses),
        joined_unix_s=row.joined_unix_ms // 1000,
        founder=row.founder,
        drained=row.drained,
        labels=row.labels,
    )


def api_keys(state: RecordState) -> ApiKeys:
    """The API keys on record, as the client port checks them."""
    return ApiKeys(
        tuple(
            ApiKey(row.id, row.name, row.sha256.hex(), row.created_unix_ms / 1000, True)
            for row in state.api_keys.rows()
        )
    )
