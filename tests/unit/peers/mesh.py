"""Members with the parts of a node that talk over its links: roster, keys, office, inventories."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import PurePosixPath

import trio

from meshd.errors import DiskFailed
from meshd.identity import (
    GOSSIP_KEY_BYTES,
    Authority,
    IdentityStore,
    Keyring,
    PrivateKey,
)
from meshd.ids import Address, NodeId
from meshd.peers.admission import AdmissionDesk
from meshd.peers.keys import MeshKeys
from meshd.peers.links import ControlLinks
from meshd.peers.office import MeshOffice
from meshd.peers.roster import Roster
from meshd.peers.switchboard import Switchboard
from meshd.ports import Ports
from meshd.record import (
    MemberRegistry,
    RecordState,
    RegistryChange,
    SignedMembers,
    first_list,
    member_list,
    sign,
)
from meshd.record.commands_registry import Admit, Command
from meshd.record.takeover import fields_of
from meshd.testing.clock import SimClock
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy
from meshd.wire.control import Hello
from tests.joins import NOW_UNIX_S, found_of, make_authority, make_key
from tests.member_lists import admit
from tests.records import SharedRecord
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
        self.holds_ca = name == mesh.founder
        self.roster = Roster(self.registry, self.links, self.switchboard, self._authority)
        self.used: list[Keyring] = []
        entropy = SeededEntropy(name)
        self.keys = MeshKeys(
            mesh.first_keyring,
            self.registry,
            self.links,
            self.switchboard,
            entropy,
            changed=self._keys_changed,
        )
        self.office = MeshOffice(
            self.node,
            self.registry,
            self.links,
            self.switchboard,
            self.keys,
            entropy,
            lambda: [self.peer.address],
        )
        self.registry.subscribe(self._members_changed)
        self.desk = AdmissionDesk(
            authority=self._authority,
            registry=self.registry,
            sign=self.roster.signed,
            record=mesh.record.member(self.node),
            keyring=lambda: self.keys.keyring,
            clock=SimClock(wall_unix_s=NOW_UNIX_S),
            entropy=entropy,
        )
        self.record = mesh.record.members[self.node]
        self.office.use_record(self.record, self.desk)
        self.keys.use_record(self.record)

    def use_record(self) -> None:
        """From here on what is applied counts, as in a node whose record runs."""
        self.record.on_applied = self._applied

    def order(self, command: Command) -> None:
        """A command from this node, committed at once."""
        self.record.commit(command)

    def _authority(self) -> Authority | None:
        return self.mesh.authority if self.holds_ca else None

    def _applied(self, state: RecordState) -> None:
        mesh = state.nodes.mesh
        if mesh.registry_version > self.registry.version:
            self.roster.applied(member_list(state))
        self.keys.named(mesh.keyring_generation, mesh.gossip_key)

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


class Mesh:
    """A founder and members, each with the whole list unless a test says otherwise."""

    def __init__(self, town: Town, names: Sequence[str]) -> None:
        self.town = town
        self.authority = make_authority()
        self.first_keyring = Keyring.generate(SeededEntropy("ring").token(GOSSIP_KEY_BYTES))
        keys = {name: make_key(name) for name in names}
        founder, *rest = names
        self.lists = [
            first_list(
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
        self.founder = founder
        self.record = self._record()
        self.members = {name: Member(self, name, keys[name], newest) for name in names}
        for member in self.members.values():
            member.use_record()

    def _record(self) -> SharedRecord:
        """One that has come to the newest list."""
        record = SharedRecord(found_of(self.authority, self.lists[0], self.first_keyring))
        by = record.member(self.lists[0].members[0].id)
        for member in self.lists[-1].members:
            if member.id != by.node:
                by.commit(Admit(node=fields_of(member)))
        return record

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
