"""The kernel: pysyncobj, mended, behind `interface.Core`.  Pure.

What a kernel consists of, and what each part is about, is in DESIGN.md of this package.  Here are
the calls from outside: each hands its time to everything below, each leaves the parts in agreement
with the log, and an error that nobody meant ends the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from meshd import limits
from meshd.consensus.applying import Applying
from meshd.consensus.configuration import Configuration
from meshd.consensus.elections import Elections
from meshd.consensus.entries import Append, EntryKind, Point, Snapshot, Stored
from meshd.consensus.following import Following
from meshd.consensus.handover import Handover
from meshd.consensus.history import Checked, History
from meshd.consensus.interface import (
    LAN,
    CallerMistake,
    Chance,
    CoreStopped,
    Nonsense,
    NotEligible,
    Outbox,
    Settings,
    StateMachine,
    Status,
)
from meshd.consensus.kernel_call import Call
from meshd.consensus.kernel_log import Log
from meshd.consensus.kernel_mail import handler_of
from meshd.consensus.kernel_seams import Turn
from meshd.consensus.kernel_status import status_of
from meshd.consensus.kernel_stock import LEADER, Stock
from meshd.consensus.kernel_wire import Peer, Wire
from meshd.consensus.messages import (
    Message,
    PreVoteAnswer,
    Recall,
    RecallAnswer,
    VoteAnswer,
)
from meshd.consensus.outcomes import Outcome, Refused, Why
from meshd.consensus.proposals import Proposals
from meshd.consensus.reads import Reads
from meshd.consensus.receiving import Receiving
from meshd.consensus.relaying import Relaying
from meshd.consensus.rollback import Memory, Rollback
from meshd.consensus.sending import Sending
from meshd.consensus.serving import Serving
from meshd.consensus.snapshot_parts import Taken
from meshd.consensus.snapshots import Snapshots
from meshd.consensus.voter_list import pack_voters
from meshd.errors import MeshdError
from meshd.ids import NodeId

_TERM_LEAP: Final = 2**32
"""No node is so many terms ahead: each takes an election.  (Terms must not run out.)"""
_A_MOMENT_S: Final = 0.001
_RELAYED_IDS: Final = 2**52
"""Ids of what is passed on for others begin there, beyond all of this node's own."""

_FOR_VOTERS: Final = (VoteAnswer, PreVoteAnswer)
"""What counts only if it comes from a voter (H5)."""
_ABOUT_THE_PAST: Final = (Recall, RecallAnswer)
"""What is heard and answered also by a node that may not promise yet."""


class Kernel:
    """One node of the replicated log.  Implements `interface.Core`.

    `stored` is what the journal held; `machine` has the state of the snapshot in it, or is at its
    beginning where there is none, and is brought up to date from there.
    `eligible` says who may take part in the log at all, besides the voters that the log names: a
    voter that was away may have to listen to a leader that it does not know yet.  `vote_is_void`
    says that promises of this node are lost with an earlier journal: see `regain_vote`.  With a
    `history` it first asks the others whether the journal is whole (rollback.py).
    """

    def __init__(
        self,
        me: NodeId,
        stored: Stored,
        machine: StateMachine,
        *,
        chance: Chance,
        now: float,
        eligible: Callable[[NodeId], bool],
        settings: Settings = LAN,
        vote_is_void: bool = False,
        history: History | None = None,
    ) -> None:
        self.me = me
        self.settings = settings
        self.chance = chance
        self.now = now
        self.outcomes: list[Outcome] = []
        self.learners: tuple[NodeId, ...] = ()
        self._eligible = eligible
        self._stopped: CoreStopped | None = None
        self._last_id = 0
        self._peers: dict[NodeId, Peer] = {}
        self._nudged = True
        """Something happened since the last step that a step may have to do with."""
        self._to_store = False
        first_id = int(chance.random() * 2**32) << 20
        """H18: the ids of each life begin somewhere else."""

        self.log = Log(stored)
        self.wire = Wire()
        self.memory = Memory(self, history)
        self.rollback = Rollback(self, stored, history)
        self.applying = Applying(machine)
        self.configuration = Configuration(self)
        self.configuration.vote_is_void = vote_is_void
        self.elections = Elections(self)
        self.receiving = Receiving(self)
        self.sending = Sending(self)
        self.snapshots = Snapshots(self, stored.snapshot)
        self.handover = Handover(self)
        self.proposals = Proposals(self)
        self.reads = Reads(self, first_id)
        self.serving = Serving(self)
        self.following = Following(self, first_id)
        self.relaying = Relaying(self, first_id + _RELAYED_IDS)
        with Turn(chance, now):
            self.stock = Stock(self)
            self.stock.reply_counter = first_id
            if self.configuration.voters == (me,):
                self.stock.deadline = now  # a sole voter has nobody to wait for
        self._was: tuple[int, Peer | None] = (self.stock.role, None)

    # --- links and messages

    def connected(self, peer: NodeId, now: float) -> None:
        with Call(self, now):
            if peer in self.wire.connected:  # then nothing told that the one before is gone
                self._link_is_gone(self.peer(peer))
            self.wire.connected.add(peer)
            self._link_changed(self.peer(peer))
            self.memory.connected(peer)
            self.rollback.connected(self.peer(peer))

    def disconnected(self, peer: NodeId, now: float) -> None:
        with Call(self, now):
            self._link_is_gone(self.peer(peer))

    def _link_changed(self, peer: Peer) -> None:
        self.sending.link_changed(peer)
        self.serving.link_changed(peer)
        self.following.link_changed(peer)

    def _link_is_gone(self, peer: Peer) -> None:
        self.wire.forget(peer.id)
        self._link_changed(peer)
        self.snapshots.link_lost(peer)
        self.elections.link_lost(peer)
        self.reads.link_lost(peer)
        self.rollback.link_lost(peer)

    def on_message(self, peer: NodeId, message: Message, now: float) -> None:
        with Call(self, now):
            is_voter = peer in self.configuration.voters
            if peer == self.me or not (is_voter or self._eligible(peer)):
                raise NotEligible(
                    f"{peer} has no part in the log, and sent {type(message).__name__}."
                )
            if getattr(message, "term", 0) > self.stock.term + _TERM_LEAP:
                raise Nonsense(f"{peer} is in term {getattr(message, 'term', 0)}.")
            self.memory.note(peer, message)
            if self.rollback.is_over or isinstance(message, _ABOUT_THE_PAST):
                self.handle(self.peer(peer), message)
            else:
                self.rollback.hold(self.peer(peer), message)

    def handle(self, peer: Peer, message: Message) -> None:
        """Do what a message asks for, whose sender may speak."""
        if peer.id in self.configuration.voters or not isinstance(message, _FOR_VOTERS):
            handler_of(self, message)(peer, message)

    # --- doing

    def step(self, now: float) -> None:
        with Call(self, now):
            self.proposals.expire()
            self.rollback.step()
            self.elections.begin_step()
            self.proposals.feed()
            self.stock._onTick(0)
            self.elections.end_step()
            self.agree()
            self.handover.step()
            if self.rollback.is_over:
                self.following.step()
            self.reads.step()
            if self.stock.role == LEADER:
                self.sending.send()
            self.serving.send()
        self._nudged = self.stock.commit > self.stock.applied or (
            self.sending.more and self.stock.role == LEADER
        )

    def take_outbox(self) -> Outbox:
        self._require_alive()
        if self._to_store:
            raise CallerMistake("The last outbox is not stored yet.")
        records = self.log.take_records()
        pieces, self.snapshots.pieces = tuple(self.snapshots.pieces), []
        early, self.wire.early = tuple(self.wire.early), []
        late = self.wire.take_late()
        parts, self.wire.parts = tuple(self.wire.parts), []
        outcomes, self.outcomes = tuple(self.outcomes), []
        if not all(isinstance(record, Append) for record in records):
            # A leader's term must be on disk before anybody hears of it: it might lead in the same
            # term again after a crash, and put other entries in the same places.
            early, late = (), late + early
        outbox = Outbox(early, pieces, records, late, parts, outcomes)
        self._to_store = outbox.must_sync
        return outbox

    def stored(self) -> None:
        self._require_alive()
        before = self.log.durable
        self._to_store = False
        self.log.stored()
        if self.log.durable > before and self.stock.role == LEADER:
            self._nudged = True

    def next_wake(self) -> float:
        if self._stopped is not None:
            return math.inf
        if self._nudged:
            return -math.inf
        wake_at = min(
            self.elections.wake_at,
            self.proposals.wake_at,
            self.reads.wake_at,
            self.following.wake_at if self.rollback.is_over else math.inf,
            self.serving.wake_at,
            self.rollback.wake_at,
        )
        if self.stock.role == LEADER:
            wake_at = min(
                wake_at, self.sending.heartbeat_at, self.handover.wake_at, self._quorum_ends_at()
            )
        return wake_at

    def _quorum_ends_at(self) -> float:
        """When stock's check-quorum would make this leader step down, if nothing came."""
        answered = sorted((self.stock.answered[peer] for peer in self.stock.others), reverse=True)
        needed = len(self.configuration.voters) // 2
        if needed == 0:
            return math.inf
        return answered[needed - 1] + self.settings.quorum_s + _A_MOMENT_S

    # --- wishes

    def propose(self, command: bytes, now: float, timeout_s: float) -> int:
        self.begin_call(now)  # alone: nothing is decided in here, and there are thousands a second
        self.proposals.add(self._new_id(), EntryKind.COMMAND, command, now + timeout_s)
        return self._last_id

    def read_index(self, now: float, timeout_s: float) -> int:
        with Call(self, now):
            self.reads.ask(self._new_id(), now + timeout_s)
            return self._last_id

    def change_voters(self, voters: Sequence[NodeId], now: float, timeout_s: float) -> int:
        with Call(self, now):
            wish = self._new_id()
            why_not = self.configuration.why_not(voters)
            if why_not is not None:
                self.outcomes.append(Refused(wish, Why.DENIED, f"The voters stay: {why_not}."))
            else:
                self.proposals.add(wish, EntryKind.VOTERS, pack_voters(voters), now + timeout_s)
            return wish

    def set_learners(self, learners: Sequence[NodeId], now: float) -> None:
        with Call(self, now):
            wanted = [n for n in learners if n not in self.configuration.voters and n != self.me]
            self.learners = tuple(wanted[: limits.RAFT_LEARNERS])
            if self.stock.role == LEADER:
                self.sending.refresh_peers()

    def regain_vote(self, now: float) -> None:
        """A vote that this node gets from here on is good, whatever it promised before.

        To be called once the others have agreed on a list of voters without this node.
        """
        with Call(self, now):
            self.configuration.vote_is_void = False
            self.stock.spend_vote()

    def transfer(self, to: NodeId, now: float) -> None:
        with Call(self, now):
            self.handover.begin(to)

    def take_snapshot(self) -> Taken | None:
        self._require_alive()
        return self.snapshots.take()

    def compact(self, snapshot: Snapshot, now: float) -> None:
        with Call(self, now):
            self.snapshots.compact(snapshot)

    def snapshots_in_use(self) -> set[Point]:
        return self.snapshots.in_use()

    def prepare(self, snapshot: Snapshot, state: Iterable[bytes]) -> Iterator[None]:
        self._require_alive()
        try:
            yield from self.snapshots.prepare(snapshot, state)
        except CoreStopped as stopped:
            self._stopped = stopped
            raise

    def install(self, snapshot: Snapshot, now: float) -> None:
        with Call(self, now):
            self.snapshots.install(snapshot)

    def abandon(self, now: float) -> None:
        with Call(self, now):
            self.snapshots.abandon()

    # --- looking

    def status(self) -> Status:
        return status_of(self)

    @property
    def checked(self) -> Checked:
        return self.rollback.checked

    @property
    def why_behind(self) -> str:
        return self.rollback.why_behind

    # --- for the parts

    def begin_call(self, now: float) -> None:
        """Somebody calls from outside (kernel_call.py)."""
        self._require_alive()
        self.now = max(self.now, now)
        self._nudged = True

    def failed(self, error: BaseException) -> None:
        """A call raised that: this kernel's end, unless it was meant for the caller."""
        if isinstance(error, CoreStopped):
            self._stopped = error
        elif not isinstance(error, MeshdError):
            self._stopped = CoreStopped(f"The kernel failed: {error!r}.")

    @property
    def is_ready(self) -> bool:
        """It leads, and an entry of its own term is committed (so it knows what is)."""
        noop = self.stock.noop_index
        return self.stock.role == LEADER and noop is not None and self.stock.commit >= noop

    def peer(self, node: NodeId) -> Peer:
        peer = self._peers.get(node)
        if peer is None:
            peer = self._peers[node] = Peer(node)
        return peer

    def adopt_term(self, term: int) -> None:
        """Somebody is in a later term: so is this node, and whatever it was, it follows now."""
        self.stock.set_term(term)
        self.agree()

    def agree(self) -> None:
        """Bring the parts in line with what stock and the log say now."""
        self.configuration.refresh()
        role, leader = now_is = (self.stock.role, self.stock.leader)
        if now_is == self._was:
            return
        was_role, was_leader = self._was
        self._was = now_is
        if was_role == LEADER and role != LEADER:
            self.handover.end()
            self.stock.deadline = self.now + self.stock.election_timeout_s()
        if leader != was_leader:
            self.reads.leader_changed()
            self.relaying.leader_changed()

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _require_alive(self) -> None:
        if self._stopped is not None:
            raise CoreStopped(str(self._stopped))
