"""The node and the record: the ledger on this node's links, disk and membership."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import PurePath

import trio

from meshd import logs
from meshd.config import Config
from meshd.consensus.voters import Standing as VoterStanding
from meshd.consensus.voters import Wish
from meshd.control import Done, RecordReport, VotesDecided
from meshd.errors import ProtocolError, Refused
from meshd.ids import NodeId
from meshd.jobs.blob_store import erase as erase_folder
from meshd.ledger.electorate import Machine
from meshd.ledger.ledger import Ledger
from meshd.ledger.live_backup import back_up
from meshd.ledger.place import Place, erase
from meshd.ledger.recovery import Recovered, recovered
from meshd.ledger.report import report, shortage
from meshd.ledger.vote_orders import order_vote
from meshd.membership.members import State
from meshd.node.mesh import MeshSide
from meshd.node.quorum import QuorumWatch
from meshd.paths import Paths
from meshd.ports import Ports
from meshd.record.commands import Entry, encode
from meshd.record.commands_registry import Adopt, ConfirmClock, Found
from meshd.record.events import Event
from meshd.record.members import MemberList
from meshd.record.results import read as read_result
from meshd.record.state import RecordState
from meshd.record.takeover import fields_of, taken_over
from meshd.wire.control import Message
from meshd.wire.control_record import MachineReply, MachineRequest, RecordMessage

log = logs.get("record")

_OTHER_RECORD = (
    "The others' record goes on without entries that this node knows to be written: it was begun "
    "anew or recovered elsewhere. To follow it, stop this node, type `meshd record repair "
    "--set-aside`, and start it."
)


class RecordSide:
    """What the record needs of the rest of the node."""

    def __init__(self, ports: Ports, config: Config, paths: Paths, mesh: MeshSide) -> None:
        self._ports, self._config, self._mesh = ports, config, mesh
        standing = mesh.standing
        self._place = Place.under(paths.data, mesh.registry.mesh, mesh.id, standing.generation)
        self._notes = _notes(recovered(ports.disk, self._place))
        self._settle: list[Callable[[], Awaitable[None]]] = []
        self._on_events: list[Callable[[Sequence[Event]], None]] = []
        self._members = _Members(mesh, ports.clock.wall)
        self._compared: tuple[MemberList, int] | None = None
        """The member list and the number of the registry that were held against each other last."""
        links = mesh.links
        self.ledger = Ledger(
            ports,
            self._place,
            self._members,
            send=lambda node, messages: links.notify_at_once(
                node, [RecordMessage(data=data) for data in messages]
            ),
            linked=links.up,
            eligible=lambda node: mesh.registry.get(node) is not None,
            founding=self._founding,
            missing=self._missing,
            machine=self._machine,
            on_events=self._happened,
            on_applied=mesh.record_applied,
            settle=self._settled,
            why_not=lambda: self.report().problem,
        )
        board = mesh.switchboard
        board.take_in_order(RecordMessage, lambda node, m: self.ledger.received(node, m.data))
        board.on_linked(self.ledger.connected)
        board.on_unlinked(lambda node, reason: self.ledger.disconnected(node))
        board.answer(MachineRequest, self._tell_machine)

    async def run(self) -> None:
        """Keep the record, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(QuorumWatch(self._shortage).run)
            await self.ledger.run()

    def _shortage(self) -> str:
        """Who is missing for a majority; "" while nobody is, or the record does not run here."""
        status, mesh = self.ledger.status, self._mesh
        return "" if status is None else shortage(mesh.id, status, mesh.links.up(), mesh.name_of)

    def before_compaction(self, settle: Callable[[], Awaitable[None]]) -> None:
        """Be awaited before entries of the log go whose events were told."""
        self._settle.append(settle)

    async def _settled(self) -> None:
        for settle in self._settle:
            await settle()

    def on_events(self, call: Callable[[Sequence[Event]], None]) -> None:
        """Be told what applied commands brought about, in order, as soon as they are applied."""
        self._on_events.append(call)

    def wall_unix_s(self) -> float:
        """What time it is, by the median of the clocks of this node and those it asked."""
        return self._ports.clock.wall() + self._members.median_offset_s()

    def beside(self, what: str) -> PurePath:
        """Where something is kept that belongs to this record: beside its journal."""
        folder = self._place.folder
        return folder.with_name(f"{folder.name}.{what}")

    def report(self) -> RecordReport:
        """The record as this node has it, for people."""
        driver, mesh = self.ledger.driver, self._mesh
        return report(
            mesh.id,
            None if driver is None else driver.status(),
            self.ledger.state,
            [member.id for member in mesh.registry.members()],
            mesh.links.up(),
            name_of=mesh.name_of,
            problem=self.ledger.problem,
            sync_s=self.ledger.sync_s,
            void=self.ledger.void_votes(),
            notes=self._notes,
        )

    def admitting(self) -> set[str]:
        """The nodes that hold the CA's key, by the record as it is here."""
        return {row.id for row in self.ledger.state.nodes.rows() if row.holds_ca}

    def problems(self) -> list[str]:
        """What a person should look at."""
        found = [why] if (why := self._why_not()) else []
        if self.ledger.vote_is_void:
            found.append(
                "this node lost what it had promised as a voter of the record, so its vote is void "
                "until the others have taken it and given it a new one (`meshd voters`). If it "
                "alone had one: `meshd recover` at the node whose copy reaches furthest"
            )
        state = self.ledger.state
        held_ms = state.clock.row.held_unix_ms
        if not held_ms:
            return found
        behind_min = (held_ms - state.clock.now_unix_ms) // 60_000
        return [
            *found,
            f"the machines' clocks are {behind_min} min ahead of the record's, as after a pause of "
            "all of them; if they are right: meshd record confirm-clock",
        ]

    def _why_not(self) -> str:
        """Why nothing can be written, where that is no matter of a moment."""
        driver = self.ledger.driver
        if driver is not None and driver.met_other_record:
            return _OTHER_RECORD
        if driver is None:
            why = self.ledger.problem
            return f"The record does not run here: {why}" if why else ""
        return self._shortage()

    async def confirm_clock(self) -> Done:
        """Let the record's clock follow the machines' over a leap.  Raises Refused and the like."""
        driver = self.ledger.driver
        if driver is None:
            raise Refused(self.ledger.problem or "the record does not run here yet")
        command = ConfirmClock(unix_ms=int(self.wall_unix_s() * 1000))
        outcome = await driver.propose(encode(Entry(command)))
        read_result(outcome.result)
        return Done("the record's clock goes with the machines' again")

    async def order_vote(self, node: NodeId, vote: str) -> VotesDecided:
        """A person decides about that node's vote.  Raises Refused and the like."""
        problem = self.report().problem
        return await order_vote(self.ledger, node, Wish(vote), self._mesh.name_of, problem)

    async def backup(self) -> Iterator[bytes]:
        """A backup in pieces.  Raises Refused."""
        return await back_up(self.ledger, self._place.mesh)

    def erase(self) -> None:
        """Forget it all: this node leaves the mesh.  Raises DiskFailed."""
        erase(self._ports.disk, self._place)
        for what in ("blobs", "traces"):
            erase_folder(self._ports.disk, self.beside(what))

    # ---------------------------------------------------------------- what the ledger asks

    def _founding(self) -> Found | None:
        """The first command of the mesh's record, at the node that founded the mesh."""
        standing, registry = self._mesh.standing, self._mesh.registry
        if not standing.identity.founder:
            return None
        me = registry.get(self._mesh.id)
        if me is None:
            return None
        keyring = standing.identity.keyring
        return Found(
            mesh=registry.mesh,
            mesh_name=standing.identity.mesh_name,
            ca_key=standing.identity.ca.der,
            node=fields_of(me),
            unix_ms=int(self._ports.clock.wall() * 1000),
            gossip_key=keyring.primary.id,
            keyring_generation=keyring.version,
            registry_version=registry.version,
            ca_certificate=standing.identity.ca_certificate_der,
        )

    def _missing(self, state: RecordState) -> Adopt | None:
        """What a signed member list says that the record does not know, rare as that is."""
        members, version = self._mesh.registry.current, state.nodes.mesh.registry_version
        if members.version < version or self._compared == (members, version):
            return None
        lacking = taken_over(members, state, self._mesh.standing.identity.keyring)
        if lacking is None:
            self._compared = (members, version)
        return lacking

    def _machine(self) -> Machine:
        power = self._ports.host.power()
        return Machine(
            wish=Wish(self._config.voter),
            on_mains=power.on_mains,
            portable=power.portable,
            uptime_s=self._ports.host.uptime_s(),
        )

    def _happened(self, events: Sequence[Event]) -> None:
        for event in events:
            log.debug("record", what=type(event).__name__, index=event.index)
        for call in self._on_events:
            call(events)

    async def _tell_machine(self, node: NodeId, message: MachineRequest) -> Message:
        del node, message
        await trio.lowlevel.checkpoint()
        own = self.ledger.own_machine()
        return MachineReply(
            wish=own.wish.value,
            on_mains=own.on_mains,
            portable=own.portable,
            uptime_s=own.uptime_s,
            sync_s=own.sync_s,
            runs=own.runs,
            unix_s=self._ports.clock.wall(),
            void=own.is_void,
            index=own.index,
        )


def _notes(found: Recovered | None) -> list[str]:
    """What a person should know for good."""
    if found is None:
        return []
    given_up = ", ".join(found.given_up)
    log.warning("the record was recovered here", last=found.last, given_up=given_up)
    return [
        f"The record was recovered at this node, from its entry {found.last:,} on and without "
        f"{given_up or 'others'}: what was acknowledged later than that was lost."
    ]


class _Members:
    """`ledger.electorate.Members`: the registry, gossip and the links."""

    def __init__(self, mesh: MeshSide, wall: Callable[[], float]) -> None:
        self._mesh = mesh
        self._wall = wall
        self._offsets_s: dict[NodeId, float] = {}
        """How far others' clocks are ahead of ours, as of when they were last asked."""

    def median_offset_s(self) -> float:
        """Of all clocks, ours among them."""
        members = set(self.members())
        offsets = [s for node, s in self._offsets_s.items() if node in members]
        return statistics.median_low([0.0, *offsets])

    def members(self) -> list[NodeId]:
        return [member.id for member in self._mesh.registry.members()]

    def standing(self, node: NodeId) -> tuple[VoterStanding, float]:
        if self._mesh.links.is_up(node):
            return VoterStanding.ALIVE, 0.0
        view = self._mesh.neighbours.agent.member(node)
        if view is None:
            return VoterStanding.FAILED, 0.0
        match view.state:
            case State.ALIVE | State.SUSPECT:
                return VoterStanding.ALIVE, 0.0
            case State.ASLEEP:
                return VoterStanding.ASLEEP, view.since_s
        return VoterStanding.FAILED, view.since_s  # also one that was stopped: it is a member

    async def machine(self, node: NodeId) -> Machine:
        reply = await self._mesh.links.request(node, MachineRequest())
        if not isinstance(reply, MachineReply):
            raise ProtocolError(f"{type(reply).__name__} is no answer to MachineRequest")
        if reply.unix_s:
            self._offsets_s[node] = reply.unix_s - self._wall()
        known = reply.wish in Wish.__members__.values()
        return Machine(
            wish=Wish(reply.wish) if known else Wish.AUTO,
            on_mains=reply.on_mains,
            portable=reply.portable,
            uptime_s=reply.uptime_s,
            sync_s=reply.sync_s,
            runs=reply.runs,
            is_void=reply.void,
            index=reply.index,
        )
