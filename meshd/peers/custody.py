"""Custody of the CA's key: given by voters to voters, on disk, gone with the vote (trio shell).

The key goes over control links alone, which are encrypted and between members, and nowhere else:
into no log, neither the record's nor this program's, and into no snapshot.  Whoever gives it first
learns from a majority of the voters that the asker is one of them (`custody_rules.may_have`).  What
a node does about its own copy is decided there too, on a record that is known to be up to date.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio

from meshd import limits, logs
from meshd.beat import beat_after
from meshd.consensus.interface import Status
from meshd.errors import MeshdError, ProtocolError, Refused
from meshd.identity.authority import SERIAL_BYTES, Authority
from meshd.identity.keys import KEY_SEED_BYTES, KeyDamaged, PrivateKey, PublicKey
from meshd.identity.mesh_identity import FormerCa
from meshd.ids import NodeId, short
from meshd.peers.custody_rules import (
    Declare,
    Drop,
    DropNext,
    Duty,
    Fetch,
    Holding,
    Learn,
    Repeat,
    Rotate,
    Votes,
    duty,
    may_have,
    trouble,
)
from meshd.peers.entering import Standing
from meshd.peers.links import ControlLinks
from meshd.peers.switchboard import Switchboard
from meshd.ports import Clock, Entropy
from meshd.record.commands_registry import Command, HoldCa, RotateCa
from meshd.record.events import CaChanged, Event, NodeRemoved
from meshd.record.results import Code, RecordRefused
from meshd.record.state import RecordState
from meshd.wire.control import Message
from meshd.wire.control_mesh import CaKeyReply, CaKeyRequest

log = logs.get("custody")

LOOK_S = 2.0
"""Between two looks at the record, which cost next to nothing where nothing is to be done."""
RETRY_S = 5.0
"""After something failed: a holder that is away, a record without a majority, a full disk."""
STUCK_S = 30.0
"""From then on a person is told of what failed."""


class Record(Protocol):
    """What is needed of the record; `ledger.Ledger` has it."""

    @property
    def state(self) -> RecordState:
        """As of the last command applied here."""
        ...

    @property
    def status(self) -> Status | None:
        """Of the log here; None while it does not run."""
        ...

    async def read_barrier(self) -> int:
        """Wait until `state` holds all that was acknowledged before.  Raises MeshdError."""
        ...

    async def execute(self, command: Command) -> dict[str, Any]:
        """Have a command carried out.  Raises MeshdError."""
        ...


class Custody:
    """What one node has of the CA's key.  `Standing.identity.authority` is always what it says."""

    def __init__(
        self,
        standing: Standing,
        links: ControlLinks,
        switchboard: Switchboard,
        record: Record,
        *,
        clock: Clock,
        entropy: Entropy,
        ca_changed: Callable[[], None],
    ) -> None:
        """`ca_changed` is called when the mesh has another CA (`standing.identity`).

        Raises CaKeyDamaged.
        """
        self._standing = standing
        self._clock, self._entropy = clock, entropy
        self._ca_changed = ca_changed
        self._me: NodeId = standing.key.public.node
        self._links = links
        self._record = record
        self._files = standing.store.ca_keys(standing.identity.mesh)
        self._counters = switchboard.counters
        self._complaints = logs.PerSource(log, trio.current_time)
        self._asked_at: dict[NodeId, float] = {}
        """When each member last asked for the key."""
        self._answered_at: dict[NodeId, float] = {}
        """When each member last answered, or did not, whom this node had asked."""
        self._failing: tuple[float, str] | None = None
        """From when on nothing could be done, and why; None: the last step was taken."""
        self._nudge = trio.Event()
        switchboard.answer(CaKeyRequest, self._asked)
        switchboard.on_linked(lambda node: self._nudge.set())

    def authority(self) -> Authority | None:
        """The CA, if this node has its key now."""
        return self._standing.identity.authority

    def problems(self, name_of: Callable[[NodeId], str]) -> list[str]:
        """What a person should know of the key and who has it."""
        state, votes = self._record.state, self._votes()
        if votes is None:
            return []
        nodes = state.nodes
        found = trouble(self._holding(), nodes.mesh, nodes.rows(), votes, name_of)
        if not found and self._failing is not None and votes.leader is not None:
            since, why = self._failing
            if trio.current_time() - since >= STUCK_S:
                found = f"The key of the mesh's CA is not where it should be: {why}"
        return [found] if found else []

    def happened(self, events: Sequence[Event]) -> None:
        """Something was applied."""
        if any(isinstance(event, CaChanged | NodeRemoved) for event in events):
            self._nudge.set()

    async def run(self) -> None:
        """Do what is to be done about the key, until cancelled."""
        while True:
            try:
                did_something = await self._look()
            except (MeshdError, OSError) as error:
                since, said = self._failing or (trio.current_time(), "")
                if str(error) != said:  # it may be so for as long as the others are away
                    log.info("the CA's key stays where it is for now", why=str(error))
                self._failing = since, str(error)
                await trio.sleep(RETRY_S)
                continue
            self._failing = None
            if not did_something:
                with trio.move_on_at(beat_after(trio.current_time(), LOOK_S)):
                    await self._nudge.wait()
                self._nudge = trio.Event()

    # ---------------------------------------------------------------- this node's copy

    async def _look(self) -> bool:
        """Take one step, if there is one to take; whether there was."""
        if self._duty() is None:
            return False
        # Nothing is deleted or believed on an old record: a node that comes back, or that is
        # just reading its log anew, has one.
        await self._record.read_barrier()
        step = self._duty()
        if step is None:
            return False
        await self._take(step)
        return True

    def _duty(self) -> Duty | None:
        nodes, votes = self._record.state.nodes, self._votes()
        if votes is None:
            return None
        return duty(self._holding(), nodes.mesh, nodes.rows(), votes)

    def _votes(self) -> Votes | None:
        """None while there is no record here."""
        status = self._record.status
        if status is None or not self._record.state.nodes.is_founded:
            return None
        return Votes(status.voters, status.leader, self._links.up())

    def _holding(self) -> Holding:
        identity = self._standing.identity
        return Holding(
            self._me,
            identity.ca.der,
            key=_public(self._files.key),
            next=_public(self._files.next),
            former=tuple(key.der for key in identity.former_keys()),
            certificates=tuple(former.certificate_der for former in identity.former_cas),
        )

    async def _take(self, step: Duty) -> None:
        match step:
            case Learn():
                self._learn()
            case Repeat(generation):
                await self._repeat(generation)
            case Rotate(generation):
                await self._rotate(generation)
            case Fetch(holders):
                await self._fetch(holders)
            case Declare(holds):
                await self._record.execute(HoldCa(node=self._me, holds=holds))
            case Drop():
                self._files.drop()
                self._use()
                log.info("the CA's key was deleted here")
            case DropNext():
                self._files.drop_next()

    # ---------------------------------------------------------------- another CA

    async def _rotate(self, generation: int) -> None:
        """Make the next key, or take the one made before, keep it, and have the record take it."""
        authority = self._standing.identity.authority
        assert authority is not None, "who has the CA's key is the CA"
        if self._files.next is None:
            self._files.prepare(PrivateKey.from_random(self._entropy.token(KEY_SEED_BYTES)))
        key = self._files.next
        assert key is not None, "it was prepared"
        serials = (self._entropy.token(SERIAL_BYTES), self._entropy.token(SERIAL_BYTES))
        succession = authority.hand_over(key, serials=serials, now_unix_s=self._clock.wall())
        if await self._put(key.public, generation, *succession):
            log.warning("the mesh has another CA key: a node that had the former one was removed")

    async def _repeat(self, generation: int) -> None:
        """Have the record take the CA that followed the one it has, as this node knows it."""
        identity, on_record = self._standing.identity, self._record.state.nodes.mesh.ca_key
        after, certificate = identity.ca, identity.ca_certificate_der
        for former, key in zip(identity.former_cas, identity.former_keys(), strict=True):
            if key.der == on_record:
                if await self._put(after, generation, certificate, former.link_der):
                    log.warning("the record was back at a former CA; it has the next one again")
                return
            after, certificate = key, former.certificate_der

    async def _put(self, key: PublicKey, generation: int, certificate: bytes, link: bytes) -> bool:
        """Have the record take a CA key; False if another was first.  Raises MeshdError."""
        command = RotateCa(
            node=self._me,
            ca_key=key.der,
            generation=generation,
            certificate=certificate,
            link=link,
        )
        try:
            await self._record.execute(command)
        except RecordRefused as refusal:
            if refusal.code is not Code.OLD_GENERATION:
                raise
            log.info("another node was first with a CA key")
            return False
        return True

    def _learn(self) -> None:
        """Go by the CA on record.  Raises MeshdError, and nothing has changed."""
        mesh, standing = self._record.state.nodes.mesh, self._standing
        if _public(self._files.next) == mesh.ca_key:
            self._files.promote()
        former = tuple(FormerCa(ca.certificate, ca.link) for ca in mesh.former_cas)
        if standing.identity.ca.der != mesh.ca_key or standing.identity.former_cas != former:
            identity = standing.identity.succeeded(mesh.ca_certificate, former)
            if identity.ca.der != mesh.ca_key or identity.mesh != standing.identity.mesh:
                raise ProtocolError("the CA's certificate on record is not that of its key")
            standing.store.save_cas(identity)
            standing.identity = identity
            log.info("the mesh has another CA", generation=mesh.ca_generation)
        self._use()
        self._ca_changed()

    # ---------------------------------------------------------------- the key, from others

    def _use(self) -> None:
        """Have `authority` be what the files and the CA's certificate make of it."""
        identity, key = self._standing.identity, self._files.key
        if key is not None and key.public == identity.ca:
            identity.authority = Authority(key, identity.ca_certificate_der)
        else:
            identity.authority = None

    async def _fetch(self, holders: tuple[NodeId, ...]) -> None:
        """Raises MeshdError when none of them gives it."""
        linked = [node for node in holders if self._links.is_up(node)]
        for node in linked:
            try:
                key = await self._ask(node)
            except MeshdError as error:
                log.info("no CA key from there", node=short(node), why=str(error))
                continue
            self._files.keep(key)
            self._use()
            log.info("the CA's key is here now", given_by=short(node))
            return
        raise Refused(
            "none of the nodes that have the CA's key gives it: "
            + ", ".join(short(node) for node in holders)
        )

    async def _ask(self, node: NodeId) -> PrivateKey:
        """Raises MeshdError; for another key than the mesh's, too.

        Not sooner than it may be asked again: where one that had the key leaves, a new voter gets
        the key, and the one that takes its place a moment later.
        """
        answered_at = self._answered_at.get(node, -math.inf)
        await trio.sleep_until(answered_at + limits.CA_KEY_ASK_S)
        try:
            reply = await self._links.request(node, CaKeyRequest())
        finally:
            self._note(self._answered_at, node)
        if not isinstance(reply, CaKeyReply):
            raise ProtocolError(f"{type(reply).__name__} is no answer to CaKeyRequest")
        try:
            key = PrivateKey.from_pkcs8(reply.key)
        except KeyDamaged as error:
            self._counters["ca_key_wrong"] += 1
            raise ProtocolError(f"what it gave is no key: {error}") from None
        if key.public.der != self._record.state.nodes.mesh.ca_key:
            self._counters["ca_key_wrong"] += 1
            raise ProtocolError("what it gave is not the key that the record names")
        return key

    # ---------------------------------------------------------------- others

    async def _asked(self, node: NodeId, message: CaKeyRequest) -> Message:
        try:
            key = await self._give_to(node)
        except MeshdError as error:
            self._counters["ca_key_refused"] += 1
            self._complaints.warning("the CA's key was not given", short(node), why=str(error))
            raise
        self._counters["ca_key_given"] += 1
        log.info("the CA's key was given to a voter", node=short(node))
        return CaKeyReply(key=key.pkcs8())

    async def _give_to(self, node: NodeId) -> PrivateKey:
        """The key for that node.  Raises MeshdError if it may not have it, or it is not here."""
        self._check_pace(node)
        self._check_may_have(node)  # before others are bothered, and after they have been heard
        await self._record.read_barrier()
        self._check_may_have(node)
        key = self._files.key
        if key is None or key.public.der != self._record.state.nodes.mesh.ca_key:
            raise Refused("the CA's key is not at this node")
        return key

    def _check_pace(self, node: NodeId) -> None:
        asked_at = self._asked_at.get(node, -math.inf)
        if trio.current_time() - asked_at < limits.CA_KEY_ASK_S:
            raise Refused(f"the CA's key is given once in {limits.CA_KEY_ASK_S:g} s")
        self._note(self._asked_at, node)

    @staticmethod
    def _note(times: dict[NodeId, float], node: NodeId) -> None:
        """That it was now; those that do not matter any more are forgotten."""
        now = trio.current_time()
        for other in [n for n, at in times.items() if now - at >= limits.CA_KEY_ASK_S]:
            del times[other]
        times[node] = now

    def _check_may_have(self, node: NodeId) -> None:
        state, status = self._record.state, self._record.status
        voters = status.voters if status is not None else ()
        if not may_have(node, state.nodes.rows(), voters):
            raise Refused("the CA's key is for voters, and the record does not name you as one")


def _public(key: PrivateKey | None) -> bytes | None:
    return key.public.der if key is not None else None
