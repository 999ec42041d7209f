"""The registry as its readers know it, out of the record's state.  Pure.

Readers take `registry.Registry` and do not learn who writes it: what the signed member list gave
them, this gives them, as of the last applied command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshd.apikeys import ApiKey, ApiKeys
from meshd.identity.keys import PublicKey, public_key
from meshd.ids import Address, MeshId, NodeId
from meshd.record.members import Member, find_member
from meshd.record.node_rows import NodeRow
from meshd.record.registry import RegistryChange
from meshd.record.state import RecordState


class RecordRegistry:
    """A `Registry` over the record."""

    def __init__(self, state: RecordState) -> None:
        """Of a mesh that is founded."""
        self._state = state
        self._members: dict[NodeId, Member] = {}
        self._version = -1
        self._told = self._current()
        self._told_version = self.version
        self._told_removed = frozenset(NodeId(row.id) for row in state.nodes.removed_rows())
        self._callbacks: dict[int, Callable[[RegistryChange], None]] = {}
        self._next_callback = 0

    @property
    def mesh(self) -> MeshId:
        return MeshId(self._state.nodes.mesh.mesh)

    @property
    def mesh_name(self) -> str:
        return self._state.nodes.mesh.mesh_name

    @property
    def version(self) -> int:
        return self._state.nodes.mesh.registry_version

    @property
    def founder(self) -> NodeId:
        """One that holds the CA's key; the founder itself as long as it does."""
        rows = [row for row in self._state.nodes.rows() if row.holds_ca]
        return NodeId(min(rows, key=lambda row: (not row.founder, row.joined_unix_ms, row.id)).id)

    def members(self) -> Sequence[Member]:
        return tuple(self._current().values())

    def get(self, node: NodeId) -> Member | None:
        return self._current().get(node)

    def key_of(self, node: NodeId) -> PublicKey | None:
        member = self._current().get(node)
        return member.public_key if member else None

    def key_hash_of(self, node: NodeId) -> bytes | None:
        member = self._current().get(node)
        return member.public_key.hash if member else None

    def is_removed(self, node: NodeId) -> bool:
        return self._state.nodes.is_removed(node)

    def find(self, text: str) -> Member:
        return find_member(text, self.members())

    def subscribe(self, callback: Callable[[RegistryChange], None]) -> Callable[[], None]:
        token = self._next_callback
        self._next_callback += 1
        self._callbacks[token] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(token, None)

        return unsubscribe

    def refresh(self) -> None:
        """Tell the subscribers what is new; call it after each step, and after a restore."""
        if self._told_version == self.version:
            return
        before, gone_before = self._told, self._told_removed
        after = self._current()
        gone = frozenset(NodeId(row.id) for row in self._state.nodes.removed_rows())
        self._told, self._told_removed, self._told_version = after, gone, self.version
        change = RegistryChange(
            version=self.version,
            added=frozenset(after.keys() - before.keys()),
            removed=frozenset((before.keys() | gone) - after.keys() - gone_before),
            changed=frozenset(n for n in after.keys() & before.keys() if after[n] != before[n]),
        )
        for callback in list(self._callbacks.values()):
            callback(change)

    def _current(self) -> dict[NodeId, Member]:
        """The members by id, in the order of their ids; made anew when the registry changed."""
        if self._version != self.version:
            rows = self._state.nodes.rows()
            self._members = {NodeId(row.id): _member(row) for row in rows}
            self._version = self.version
        return self._members


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
