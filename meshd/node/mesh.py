"""The node among the other members: who we are to them, and who they are to us."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from meshd import control, limits, logs
from meshd.api.administration import Presence
from meshd.config import Config
from meshd.http import HttpServer
from meshd.identity import Authority, Keyring, show_digits
from meshd.ids import Address, MeshId, NodeId, short
from meshd.inference import Failure
from meshd.membership.mdns import Mdns
from meshd.membership.sightings import Sighting
from meshd.node.introduction import Introduction
from meshd.node.kept_addresses import KeptAddresses
from meshd.paths import Paths
from meshd.peers.addresses import AddressBook, Source, advertised
from meshd.peers.admission import AdmissionDesk
from meshd.peers.door import PeerDoor
from meshd.peers.entering import TO_COME_BACK, Standing
from meshd.peers.join_server import JoinServer, Waiting
from meshd.peers.keys import MeshKeys
from meshd.peers.links import SLEPT, ControlLinks
from meshd.peers.mesh_record import MeshRecord
from meshd.peers.neighbours import Heard, Neighbours, Own
from meshd.peers.office import MeshOffice
from meshd.peers.roster import Roster
from meshd.peers.switchboard import Switchboard
from meshd.ports import Alpn, Datagrams, Ports
from meshd.record import RecordState, RegistryChange, member_list
from meshd.relay.kinds import OF_THE_NODE
from meshd.routing.catalogue import Target
from meshd.screen import Screen, SightedMesh
from meshd.wire.control import Hello

log = logs.get("mesh")

INTERFACES_S = 3.0
"""How often the interfaces are looked at: a machine that moved is found again this much later."""
HOUSEKEEPING_S = 10.0
"""How often changed addresses are kept on disk and the certificate's age is looked at."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What the data side wants to know of the mesh."""

    presence: Callable[[NodeId, bool, bool], None]
    """(node, is present, is suspect)."""
    forgotten: Callable[[NodeId], None]
    """It is no member any more."""
    unlinked: Callable[[NodeId, str], None]
    members: Callable[[], None]
    """The member list changed."""
    woke: Callable[[], None]
    """This machine slept."""


_AWAY_IN_ORDER = {"left": "was stopped", "asleep": "is asleep"}
"""States of members that said goodbye, and remain members ("left" is gossip's word for it)."""


class MeshSide:
    """Identity, membership and orders of one node."""

    def __init__(
        self,
        ports: Ports,
        config: Config,
        paths: Paths,
        screen: Screen,
        standing: Standing,
        port: int,
        stop: Callable[[], None],
    ) -> None:
        self.id: NodeId = standing.key.public.node
        self.standing = standing
        self.registry = standing.registry
        self._ports, self._config = ports, config
        self._screen, self._port, self._stop = screen, port, stop
        self._versions: dict[NodeId, str] = {}
        self._bad = logs.PerSource(logs.get("peers"), trio.current_time)
        self._hosts: list[str] = []
        self._hosts_until = -math.inf
        self._told_of: set[MeshId] = set()
        self._sent_away_by: set[NodeId] = set()
        """Members that say that this node was removed."""
        self.introduction = Introduction(ports, standing, port)
        self.introduction.use()
        self.addresses = AddressBook()
        self._kept = KeptAddresses(ports.disk, paths.data / "peers.json", self.addresses)
        self.switchboard = Switchboard(self.registry.mesh, self.introduction.hello)
        self.links = ControlLinks(ports.network, ports.entropy, self.switchboard, self.addresses.of)
        self.roster = Roster(self.registry, self.links, self.switchboard, self._authority)
        self.keys = MeshKeys(
            standing.identity.keyring,
            self.registry,
            self.links,
            self.switchboard,
            ports.entropy,
            changed=self._keys_changed,
        )
        self.office = MeshOffice(
            self.id,
            self.registry,
            self.links,
            self.switchboard,
            self.keys,
            ports.entropy,
            self.own_addresses,
        )
        self.join_server = JoinServer(
            identity=lambda: standing.identity,
            admitter=lambda: self.office,
            entropy=ports.entropy,
            on_waiting=self._newcomer,
        )
        self.office.consents.use_door(self.join_server)
        self.switchboard.on_greeted(self._greeted)
        self.switchboard.on_linked(self._linked)
        self.switchboard.on_sent_away(self._was_sent_away)
        self.mdns = Mdns(
            self.introduction.announcement(), self._hosts_for_others, on_sighting=self.sighted
        )

    def connect(
        self,
        datagrams: Datagrams,
        own: Own,
        heard_inventory: Callable[[NodeId, int], Awaitable[None]],
        callbacks: Callbacks,
        peer_http: HttpServer,
    ) -> None:
        """Wire in the data side, which was built on the links of this one."""
        self._callbacks = callbacks
        self.neighbours = Neighbours(
            self._ports,
            self.standing,
            datagrams,
            self.links,
            self.switchboard,
            self.addresses,
            own,
            Heard(callbacks.presence, heard_inventory, self._woke),
            on_unknown_key=self.keys.ask,
        )
        self.door = PeerDoor(
            {
                Alpn.CONTROL: self.links.serve,
                Alpn.HTTP: peer_http.serve_stream,
                Alpn.JOIN: self.join_server.serve,
            },
            on_bad=self._refused_at_door,
        )
        self.switchboard.on_unlinked(callbacks.unlinked)
        self.registry.subscribe(self._members_changed)

    def use_record(self, record: MeshRecord) -> None:
        """Wire in the record, which was built on the links of this one."""
        desk = AdmissionDesk(
            authority=self._authority,
            registry=self.registry,
            sign=self.roster.signed,
            record=record,
            keyring=lambda: self.standing.identity.keyring,
            clock=self._ports.clock,
            entropy=self._ports.entropy,
        )
        self.office.use_record(record, desk)
        self.keys.use_record(record)

    def record_applied(self, state: RecordState) -> None:
        """The record has come to this state here: who is in the mesh follows in the same step."""
        if not state.nodes.is_founded:
            return
        mesh = state.nodes.mesh
        if mesh.registry_version > self.registry.version:
            self.roster.applied(member_list(state))
        self.keys.named(mesh.keyring_generation, mesh.gossip_key)

    async def run(self) -> None:
        """Keep links, take part in gossip, announce, until cancelled."""
        self._kept.restore()
        if self.standing.reached is not None:
            self.addresses.reached(*self.standing.reached)
        self.apply_members()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.links.run)
                nursery.start_soon(self.roster.run)
                nursery.start_soon(self.keys.run)
                nursery.start_soon(self.neighbours.run)
                nursery.start_soon(self._housekeep)
                if self._config.mdns:
                    nursery.start_soon(self.mdns.run)
        finally:
            self._kept.save()  # whoever moved lately would not be found after a restart

    def ca_changed(self) -> None:
        """The mesh has another CA, and `standing.identity` says which."""
        self.registry.trust(self.standing.identity.ca)
        self.introduction.ca_changed()
        self.mdns.announce(self.introduction.announcement())
        self.roster.ca_changed()

    # ---------------------------------------------------------------- what is asked of it

    def name_of(self, node: NodeId) -> str:
        """A member's name, or the beginning of its id."""
        member = self.registry.get(node)
        return member.name if member else short(node)

    def presence(self, node: NodeId) -> Presence:
        """What is known of another member, for status."""
        view = self.neighbours.agent.member(node)
        version, addresses = self._versions.get(node, ""), self.addresses.of(node)
        if view is None:
            state = "alive" if self.links.is_up(node) else "unknown"
            return Presence(state, None, version, addresses)
        return Presence(view.state.value, round(view.heard_s, 1), version, addresses)

    def own_addresses(self) -> list[Address]:
        """Where other members reach this node."""
        return advertised(self._config.advertise, self.own_hosts(), self._port)

    def own_hosts(self) -> list[str]:
        """This machine's IP addresses; another list when they were looked up anew."""
        now = trio.current_time()
        if now >= self._hosts_until:
            self._hosts = self._ports.network.interface_addresses()
            self._hosts_until = now + INTERFACES_S
        return self._hosts

    def _hosts_for_others(self) -> list[str]:
        """This machine's addresses, none while it has nothing but loopback (no cable, no Wi-Fi)."""
        hosts = self._ports.network.interface_addresses()
        return [host for host in hosts if not ipaddress.ip_address(host).is_loopback]

    def holder_failed(self, target: Target, failure: Failure) -> None:
        """A forwarded request broke: what the data plane saw is evidence for gossip."""
        log.info("a holder failed", node=self.name_of(target.node), why=failure.message)
        if failure.kind in OF_THE_NODE:
            self.neighbours.suspect(target.node, failure.message)

    def problems(self) -> list[str]:
        """What a person should know of the mesh's own workings."""
        found = self.neighbours.agent.problems()
        if self._sent_away_by:
            who = ", ".join(sorted(map(self.name_of, self._sent_away_by)))
            found.append(f"{self._removed()}, says {who}. {TO_COME_BACK}")
        if self._config.mdns and self.mdns.failure is not None:
            found.append(f"mDNS does not work here: {self.mdns.failure}")
        return found

    async def findings(self) -> list[control.Finding]:
        """`meshd doctor`: how each member is reached from here."""
        found = []
        if self._config.advertise:
            told = ", ".join(map(str, self.own_addresses()))
            found.append(
                control.Finding("advertise", "ok", f"the others are told to reach it at {told}")
            )
        for member in self.registry.members():
            if member.id == self.id:
                continue
            state = self.presence(member.id).state
            if self.links.is_up(member.id):
                found.append(control.Finding("peer-tcp", "ok", f"{member.name}: TCP link is up"))
            elif state in _AWAY_IN_ORDER:
                said = f"{member.name} {_AWAY_IN_ORDER[state]}"
                found.append(control.Finding("peer-tcp", "ok", said))
            else:
                where = ", ".join(map(str, self.addresses.of(member.id))) or "no address known"
                found.append(
                    control.Finding(
                        "peer-tcp",
                        "fail",
                        f"{member.name} cannot be reached over TCP ({where})",
                        "is it on, and does its firewall let meshd in? If it is gone for good: "
                        f"meshd remove {member.name}",
                    )
                )
        found += [
            control.Finding("mesh", "warn", sentence, "see the sentence")
            for sentence in self.problems()
        ]
        return found

    def gauges(self) -> dict[str, int]:
        """Counts of gossip, for status."""
        return self.neighbours.agent.counters()

    async def _housekeep(self) -> None:
        while True:
            await trio.sleep(HOUSEKEEPING_S)
            self._kept.save()
            if self.introduction.renewal_is_due:
                await self.introduction.renew(self.office)

    # ---------------------------------------------------------------- the others

    def apply_members(self) -> None:
        """Act on the member list as it is now."""
        others = {m.id for m in self.registry.members() if m.id != self.id}
        for member in self.registry.members():
            self.addresses.put(member.id, member.addresses, Source.LISTED)
        self.addresses.keep_only(others)
        self._callbacks.members()
        self.links.want(others)
        if self.registry.is_removed(self.id) and not self.office.leaving:
            self._screen.warning(f"{self._removed()}; it stops. {TO_COME_BACK}")
            self._stop()

    def _members_changed(self, change: RegistryChange) -> None:
        for node in change.removed:
            self._callbacks.forgotten(node)
            self._versions.pop(node, None)
            self._sent_away_by.discard(node)
            self.door.cut(node, "it is no member any more")
        self.apply_members()

    def _greeted(self, node: NodeId, hello: Hello) -> None:
        self._versions[node] = hello.version
        if not self.links.is_up(node):
            self.links.kick(node)  # it is there: no need to wait for our turn to dial

    def _linked(self, node: NodeId) -> None:
        self._sent_away_by.discard(node)
        if (address := self.links.address_of(node)) is not None:
            self.addresses.reached(node, address)

    def _was_sent_away(self, node: NodeId) -> None:
        if self.registry.get(node) is None or self.registry.is_removed(self.id):
            return  # it knows, and stops
        if not self._sent_away_by:
            self._screen.warning(f"{self._removed()}, says {self.name_of(node)}. {TO_COME_BACK}")
        self._sent_away_by.add(node)

    def _removed(self) -> str:
        return f"this node was removed from mesh {self.registry.mesh_name}"

    def _authority(self) -> Authority | None:
        """The CA's key, if this node holds it now."""
        return self.standing.identity.authority

    def sighted(self, sighting: Sighting) -> None:
        """Somebody announced that node by mDNS: a place to knock at."""
        if sighting.mesh == self.registry.mesh and self.registry.get(sighting.node):
            self.addresses.put(sighting.node, sighting.addresses, Source.SIGHTED)
            self.neighbours.agent.found(sighting.node, sighting.addresses)
            if not self.links.is_up(sighting.node):
                self.links.kick(sighting.node)
        elif sighting.mesh != self.registry.mesh and len(self.registry.members()) == 1:
            self._tell_of(sighting)

    def _tell_of(self, sighting: Sighting) -> None:
        """Alone, and another mesh is in sight: say once how to join it."""
        if sighting.mesh in self._told_of or not sighting.addresses:
            return
        if len(self._told_of) < limits.MEMBERS:
            self._told_of.add(sighting.mesh)
            mesh = SightedMesh(
                sighting.mesh, sighting.name, str(sighting.addresses[0]), sighting.ca
            )
            self._screen.meshes_in_sight([mesh])

    def _keys_changed(self, keyring: Keyring) -> None:
        self.standing.identity.keyring = keyring
        self.neighbours.use_keys(keyring)
        self.standing.store.save_keyring(self.registry.mesh, keyring)  # a full disk comes last

    def _woke(self) -> None:
        """Connections did not survive the sleep, and nobody has told us."""
        self._callbacks.woke()
        for node in self.links.up():
            self.links.cut(node, SLEPT)

    def _refused_at_door(self, source: str, why: str) -> None:
        self._bad.warning("refused on the mesh port", source, why=why)

    def _newcomer(self, waiting: Waiting) -> None:
        self._screen.newcomer(
            digits=show_digits(waiting.digits), name=waiting.name, address=waiting.address
        )
