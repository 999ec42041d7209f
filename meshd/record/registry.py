"""The registry: the newest member list this node has applied, and who wants to know of changes.

Pure.  Readers take the `Registry` interface and never learn who writes the list: today the founder
alone, later the replicated record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from meshd.errors import ProtocolError
from meshd.identity.keys import PublicKey
from meshd.ids import MeshId, NodeId
from meshd.record.members import Member, MemberList, SignedMembers, verify


@dataclass(frozen=True, slots=True)
class RegistryChange:
    """What a newer list brought."""

    version: int
    added: frozenset[NodeId]
    removed: frozenset[NodeId]
    """No members any more: links to them are to be closed at once."""
    changed: frozenset[NodeId]


class Registry(Protocol):
    """Who is in the mesh, as of the newest list applied here."""

    @property
    def mesh(self) -> MeshId: ...

    @property
    def version(self) -> int:
        """The number of the applied list; only ever grows."""
        ...

    @property
    def founder(self) -> NodeId:
        """Who admits others."""
        ...

    def members(self) -> Sequence[Member]:
        """All of them, this node included, in the order of their ids."""
        ...

    def get(self, node: NodeId) -> Member | None: ...

    def key_of(self, node: NodeId) -> PublicKey | None:
        """A member's key, for what it signed."""
        ...

    def key_hash_of(self, node: NodeId) -> bytes | None:
        """The `registered` argument of `identity.check_peer`."""
        ...

    def is_removed(self, node: NodeId) -> bool:
        """Whether it was a member once and must never be one again under this key."""
        ...

    def find(self, text: str) -> Member:
        """The member a person means by a name, an id or its beginning.  Raises NoSuchNode."""
        ...

    def subscribe(self, callback: Callable[[RegistryChange], None]) -> Callable[[], None]:
        """Be called after each newer list is applied; the result ends that.

        Callbacks are synchronous and must not fail.
        """
        ...


class MemberRegistry:
    """The one that stands behind `Registry` at every node."""

    def __init__(
        self,
        ca: PublicKey,
        signed: SignedMembers,
        *,
        persist: Callable[[SignedMembers], None] = lambda signed: None,
    ) -> None:
        """Start from a kept list.  `persist` is called with each newer one before it is applied.

        Raises ProtocolError if the list is not this mesh's.
        """
        self._ca = ca
        self._signed = signed
        self._list = verify(signed, ca)
        self._persist = persist
        self._callbacks: dict[int, Callable[[RegistryChange], None]] = {}
        self._next_callback = 0

    @property
    def mesh(self) -> MeshId:
        return self._list.mesh

    @property
    def mesh_name(self) -> str:
        return self._list.mesh_name

    @property
    def version(self) -> int:
        return self._list.version

    @property
    def founder(self) -> NodeId:
        return self._list.founder.id

    @property
    def current(self) -> MemberList:
        """The applied list itself, for its author."""
        return self._list

    @property
    def signed(self) -> SignedMembers:
        """The applied list as it travels, to hand to others."""
        return self._signed

    def members(self) -> Sequence[Member]:
        return self._list.members

    def get(self, node: NodeId) -> Member | None:
        return self._list.by_id.get(node)

    def key_of(self, node: NodeId) -> PublicKey | None:
        member = self._list.by_id.get(node)
        return member.public_key if member else None

    def key_hash_of(self, node: NodeId) -> bytes | None:
        member = self._list.by_id.get(node)
        return member.public_key.hash if member else None

    def is_removed(self, node: NodeId) -> bool:
        return node in self._list.removed

    def find(self, text: str) -> Member:
        return self._list.find(text)

    def subscribe(self, callback: Callable[[RegistryChange], None]) -> Callable[[], None]:
        token = self._next_callback
        self._next_callback += 1
        self._callbacks[token] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(token, None)

        return unsubscribe

    def accept(self, signed: SignedMembers) -> bool:
        """Apply a list that came from anywhere, if it is newer; False for the same or an older one.

        Raises ProtocolError if it is not signed by this mesh, is not valid, or has this list's
        number but says something else (two authors wrote at once: a founder was started from an
        old backup).  An OSError of `persist` passes through, and nothing is applied.
        """
        if signed.body == self._signed.body:
            return False
        newer = verify(signed, self._ca)
        if newer.version < self.version:
            return False
        if newer.version == self.version:
            raise ProtocolError(
                f"There are two different member lists with the number {self.version}: was the "
                "founder started from an old copy of its data directory?"
            )
        self._persist(signed)
        change = _difference(self._list, newer)
        self._list, self._signed = newer, signed
        for callback in list(self._callbacks.values()):
            callback(change)
        return True


def _difference(old: MemberList, new: MemberList) -> RegistryChange:
    before, after = old.by_id, new.by_id
    return RegistryChange(
        version=new.version,
        added=frozenset(after.keys() - before.keys()),
        removed=frozenset((before.keys() | new.removed.keys()) - after.keys() - old.removed.keys()),
        changed=frozenset(n for n in after.keys() & before.keys() if after[n] != before[n]),
    )
