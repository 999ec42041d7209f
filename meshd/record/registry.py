"""The registry: the newest member list this node has applied, and who wants to know of changes.

Pure.  A newer list comes from the record as it is applied here, or signed, from another node, where
the record is behind or does not run.  Readers take the `Registry` interface and never learn which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from meshd.errors import ProtocolError
from meshd.identity.keys import PrivateKey, PublicKey
from meshd.ids import MeshId, NodeId
from meshd.record.members import (
    Member,
    MemberList,
    SignedMembers,
    body_of,
    read_body,
    sign,
    verify,
)


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
        former: Sequence[PublicKey] = (),
        applied: bytes | None = None,
        persist: Callable[[SignedMembers], None] = lambda signed: None,
        persist_applied: Callable[[bytes], None] = lambda body: None,
    ) -> None:
        """Start from what was kept: a signed list, and what the record came to since (`applied`).

        What was kept may be signed with a former CA's key; of others no such list is taken.
        `persist` is called with each newer signed list before it is applied, `persist_applied` by
        `keep`.  Raises ProtocolError if a list is not this mesh's.
        """
        self._ca = ca
        self._signed = signed
        signer = next((key for key in (ca, *former) if signed.is_by(key)), ca)
        self._list = self._signed_list = verify(signed, signer)
        if applied is not None:
            kept = read_body(applied)
            if kept.mesh != self._list.mesh:
                raise ProtocolError("The list that the record came to is of another mesh.")
            self._list = max(self._list, kept, key=lambda one: one.version)
        self._persist = persist
        self._persist_applied = persist_applied
        self._callbacks: dict[int, Callable[[RegistryChange], None]] = {}
        self._next_callback = 0

    def trust(self, ca: PublicKey) -> None:
        """The mesh has another CA: lists are signed with this key from now on."""
        self._ca = ca

    @property
    def ca(self) -> PublicKey:
        """The CA's key, with which lists are signed."""
        return self._ca

    @property
    def is_signed(self) -> bool:
        """Whether `signed` is by the CA of now: others take no other."""
        return self._signed.is_by(self._ca)

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
    def current(self) -> MemberList:
        """The applied list itself."""
        return self._list

    @property
    def signed(self) -> SignedMembers:
        """The newest list that is signed, to hand to others; the applied one may be newer."""
        return self._signed

    @property
    def signed_version(self) -> int:
        """The number of the newest list that is signed."""
        return self._signed_list.version

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

    def apply(self, members: MemberList) -> bool:
        """Apply what the record came to here, if it is newer; False if it is not.

        It never goes back: a record that is being opened anew is behind for a moment.  `sign` or
        `keep` is to follow.
        """
        assert members.mesh == self.mesh, "a node has the record of its own mesh"
        if members.version <= self.version:
            return False
        self._become(members)
        return True

    def keep(self) -> None:
        """Have the applied list survive a restart, though nobody has signed it yet.

        Raises ListTooLarge; an OSError of `persist_applied` passes through.
        """
        if self.signed_version < self.version:
            self._persist_applied(body_of(self._list))

    def sign(self, ca: PrivateKey) -> bool:
        """Sign the applied list, if none is signed that is as new; False if one is.

        Raises as `sign`, and an OSError of `persist` passes through.
        """
        if self.signed_version >= self.version and self.is_signed:
            return False
        signed = sign(self._list, ca)
        self._persist(signed)
        self._signed, self._signed_list = signed, self._list
        return True

    def accept(self, signed: SignedMembers) -> bool:
        """Take a signed list from anywhere.  False if it is no newer than the applied one.

        One with the applied list's number is kept, to be handed on.  Raises ProtocolError if it is
        not signed by this mesh, is not valid, or has this list's number but says something else.
        An OSError of `persist` passes through, and nothing is applied.
        """
        if signed.body == self._signed.body:
            return False
        newer = verify(signed, self._ca)
        if newer.version < self.version:
            return False
        if newer.version == self.version:
            if newer != self._list:
                raise ProtocolError(
                    f"There are two different member lists with the number {self.version}: was a "
                    "node started from an old copy of its data directory?"
                )
            if self.signed_version < newer.version or not self.is_signed:
                self._persist(signed)
                self._signed, self._signed_list = signed, newer
            return False
        self._persist(signed)
        self._signed, self._signed_list = signed, newer
        self._become(newer)
        return True

    def _become(self, newer: MemberList) -> None:
        change = _difference(self._list, newer)
        self._list = newer
        for callback in list(self._callbacks.values()):
            callback(change)


def _difference(old: MemberList, new: MemberList) -> RegistryChange:
    before, after = old.by_id, new.by_id
    return RegistryChange(
        version=new.version,
        added=frozenset(after.keys() - before.keys()),
        removed=frozenset((before.keys() | new.removed.keys()) - after.keys() - old.removed.keys()),
        changed=frozenset(n for n in after.keys() & before.keys() if after[n] != before[n]),
    )
