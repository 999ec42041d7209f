"""Members with the parts of a node that talk over its links: roster, keys, office, inventories."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import PurePosixPath

import trio

from meshd.errors import DiskFailed
from meshd.identity import (
    GOSSIP_KEY_BYTES,
    IdentityStore,
    Keyring,
    PrivateKey,
    TokenStore,
)
from meshd.ids import Address, NodeId
from meshd.peers.join_admit import FounderAdmitter
from meshd.peers.keys import MeshKeys
from meshd.peers.links import ControlLinks
from meshd.peers.office import MeshOffice
from meshd.peers.roster import Roster
from meshd.peers.switchboard import Switchboard
from meshd.ports import Ports
from meshd.record import MemberRegistry, RegistryChange, SignedMembers, admit, found, sign
from meshd.testing.clock import SimClock
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy
from meshd.wire.control import Hello
from tests.joins import NOW_UNIX_S, make_authority, make_key
from tests.unit.peers.rig import PORT, Peer, Town, hello_of, until

__all__ = ["Member", "Mesh", "Ports", "until"]


class Member:
    """One node's mesh side, without engines and gossip."""

    def __init__(self, mesh: Mesh, name: str, key: PrivateKey, signed: SignedMembers) -> None:
        self.mesh, self.name, self.key = mesh, name, key
        self.node: NodeId = key.public.node
        self.disk = MemoryDisk()
        self.store = IdentityStore(self.disk, PurePosixPath("/data"))
        self.full_disk = False
        self.registry = MemberRegistry(mesh.authority.public, signed, persist=self._persist)
        self.switchboard = Switchboard(mesh.authority.mesh, self._hello)
        self.peer: Peer = mesh.town.member(self.node, self.switchboard, name=name)
        self.links: ControlLinks = self.peer.links
        self.roster = Roster(self.registry, self.links, self.switchboard)
        founder = self.node == signed_founder(signed)
        self.used: list[Keyring] = []
        entropy = SeededEntropy(name)
        self.keys = MeshKeys(
            mesh.first_keyring,
            self.registry,
            self.links,
            self.switchboard,
            entropy,
            rotates=founder,
            changed=self._keys_changed,
        )
        self.tokens = TokenStore(mesh.authority.mesh)
        self.desk = self._desk(entropy) if founder else None
        self.office = MeshOffice(
            self.node,
            self.registry,
            self.links,
            self.switchboard,
            self.desk,
            lambda: [self.peer.address],
        )
        self.registry.subscribe(self._members_changed)

    def _desk(self, entropy: SeededEntropy) -> FounderAdmitter:
        return FounderAdmitter(
            node=self.node,
            authority=self.mesh.authority,
            registry=self.registry,
            tokens=self.tokens,
            keyring=lambda: self.keys.keyring,
            clock=SimClock(wall_unix_s=NOW_UNIX_S),
            entropy=entropy,
            persist_tokens=lambda tokens: self._persist(tokens),
        )

    def _persist(self, what: object) -> None:
        if self.full_disk:
            raise DiskFailed(28, "/data cannot be written: no space left on the device.")

    def _keys_changed(self, keyring: Keyring) -> None:
        self.used.append(keyring)
        self._persist(keyring)

    def _members_changed(self, change: RegistryChange) -> None:
        self.want()

    def _hello(self) -> Hello:
        return hello_of(
            self.node,
            mesh=self.mesh.authority.mesh,
            name=self.name,
            members_version=self.registry.version,
        )

    def want(self) -> None:
        """Link whoever the list names."""
        self.links.want({m.id for m in self.registry.members()} - {self.node})

    def start(self) -> None:
        """Serve and link."""
        self.want()
        self.mesh.town.run(self.peer)
        self.mesh.town.nursery.start_soon(self.keys.run)
        self.mesh.town.nursery.start_soon(self.roster.run)

    def sees(self, *others: Member) -> bool:
        """Whether its links to them are up."""
        return all(self.links.is_up(other.node) for other in others)


def signed_founder(signed: SignedMembers) -> NodeId:
    mesh_authority = make_authority()
    return MemberRegistry(mesh_authority.public, signed).founder


class Mesh:
    """A founder and members, each with the whole list unless a test says otherwise."""

    def __init__(self, town: Town, names: Sequence[str]) -> None:
        self.town = town
        self.authority = make_authority()
        self.first_keyring = Keyring.generate(SeededEntropy("ring").token(GOSSIP_KEY_BYTES))
        keys = {name: make_key(name) for name in names}
        founder, *rest = names
        self.lists = [
            found(
                self.authority.mesh,
                "home",
                keys[founder].public,
                name=founder,
                addresses=[Address("10.0.0.2", PORT)],
                now_unix_s=NOW_UNIX_S,
            )
        ]
        for name in rest:
            self.lists.append(
                admit(
                    self.lists[-1],
                    keys[name].public,
                    name=name,
                    addresses=[],
                    now_unix_s=NOW_UNIX_S,
                )
            )
        newest = self.signed(-1)
        self.members = {name: Member(self, name, keys[name], newest) for name in names}

    def signed(self, index: int) -> SignedMembers:
        """One of `lists`, as it travels."""
        return sign(self.lists[index], self.authority.key)

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    async def up(self) -> None:
        """All started and linked."""
        for member in self.members.values():
            member.start()
        everyone = list(self.members.values())
        await until(lambda: all(a.sees(*(b for b in everyone if b is not a)) for a in everyone))

    @staticmethod
    @asynccontextmanager
    async def open(*names: str, **network: object) -> AsyncIterator[Mesh]:
        """A mesh of these, the first its founder; nobody runs yet."""
        async with Town.open(**network) as town:
            yield Mesh(town, names)


async def settle() -> None:
    """Let everything that is on its way arrive."""
    await trio.sleep(1)
