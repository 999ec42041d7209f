"""The one interface of the replicated log: all that anybody above it may know.  Pure.

A `Core` is a state machine.  Time is handed in with every call and never goes back; randomness came
with the constructor; nothing is sent, written or waited for in here.  Whoever drives it does, over
and over:

    for each message that arrived:   core.on_message(peer, message, now)
    core.step(now)
    outbox = core.take_outbox()
    send outbox.early                                # append_entries only
    write outbox.pieces aside                        # no sync: a snapshot that is arriving
    if outbox.must_sync:
        store outbox.records; one sync for all of them
        core.stored()
    send outbox.late, hand over outbox.outcomes
    read and send outbox.parts, in their time
    sleep until core.next_wake(), a message, a proposal or a change of a link

That order is the whole argument for durability (DESIGN.md): a vote or an acknowledgement never
leaves before the record that it speaks of is on disk.  If storing fails, do not call `stored` and
drop the outbox and the core: a disk that failed once is not asked again.

Between `take_outbox` and `stored`, all calls but `take_outbox` are allowed.

A state is large, so no call handles one whole.  Beside the calls above, each in its own time:

    taken = core.take_snapshot()                     # marks the state: no work
    make taken.parts durable                         # in a thread
    core.compact(snapshot, now)

    the last of outbox.pieces is written:            # a leader's snapshot has arrived
    make it durable
    for _ in core.prepare(snapshot, its state): ...  # in slices, beside the state that there is
    core.install(snapshot, now)                      # or core.abandon(now)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from meshd import limits
from meshd.consensus.entries import Point, Record, Snapshot
from meshd.consensus.history import Checked
from meshd.consensus.messages import Message
from meshd.consensus.outcomes import Outcome
from meshd.consensus.snapshot_parts import PartToSend, Piece, Taken
from meshd.errors import LimitExceeded, MeshdError, ProtocolError
from meshd.ids import NodeId

# --- what goes wrong


class Nonsense(ProtocolError):
    """A message that no sound node sends.  Nothing was changed by it."""


class OtherRecord(Nonsense):
    """A log that lacks what is committed here: one of the two records was begun anew."""


class NotEligible(ProtocolError):
    """A message of the log from a node that may not take part in it.  Nothing was changed."""


class CommandTooLarge(LimitExceeded):
    """A command over `limits.RAFT_COMMAND_BYTES`.  Put large things into blobs."""


class CoreStopped(MeshdError):
    """This core does nothing any more, and the text says why; start a new one or call a person.

    The state machine failed on a committed command (trying again would do the same, leaving the
    command out would make this node's state its own), or an invariant does not hold.
    """


class CallerMistake(MeshdError):
    """The driver broke the order of calls."""


# --- what a core is given


class StateMachine(Protocol):
    """What is replicated.  Equal commands in equal order must give equal states and results.

    A command that makes no sense has a result that says so; an exception stops the node.
    """

    def apply(self, index: int, command: bytes) -> bytes:
        """Carry out a committed command; `index` is its place in the log, and grows."""

    def why_not(self, command: bytes) -> str | None:
        """Why a command must not get into the log, as a sentence: every node would stop at it.

        None for all others, also for those that will be refused when they are applied.
        """

    def capture(self) -> Iterator[bytes]:
        """The state as of the last `apply`, at once; the items are what is work.

        They may be asked for while commands go on being applied, in any thread; each takes a
        millisecond or less.
        """

    def prepare(self, state: Iterable[bytes]) -> Iterator[None]:
        """Build what was captured, beside the present state; some ms between two items.

        The pieces need not be those that `capture` gave.  Raises ProtocolError for a state that is
        damaged: nothing is changed then.
        """

    def become(self) -> None:
        """Have the state that was prepared last, forgetting what was."""


class Chance(Protocol):
    """Where randomness comes from: `random.Random`, seeded in tests."""

    def random(self) -> float:
        """From 0 to 1, without 1."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds, and sizes of what is kept and sent.

    All voters should agree on the times within a factor of two.  `heartbeat_s` is at most a third
    of `election_min_s`, and that at least ten times the round trip and the slowest sync.
    """

    heartbeat_s: float = 0.25
    election_min_s: float = 0.8
    election_max_s: float = 1.6
    sign_s: float = 5.0
    """A voter that has nothing to tell those who follow it without a vote says so this often."""
    batch_bytes: int = limits.RAFT_BATCH_BYTES
    window_bytes: int = limits.RAFT_WINDOW_BYTES
    """Sent to one follower and not acknowledged yet, at most (plus one batch)."""
    chunk_bytes: int = limits.RAFT_CHUNK_BYTES
    queue: int = limits.RAFT_QUEUE
    queue_bytes: int = limits.RAFT_QUEUE_BYTES
    uncommitted_bytes: int = limits.RAFT_UNCOMMITTED_BYTES
    per_step: int = limits.RAFT_PER_STEP
    """Commands taken into the log, and commands applied, in one step."""
    trailing: int = msgspec.field(default_factory=lambda: limits.RAFT_TRAILING)
    """Entries kept in memory behind a snapshot, for followers that are a little behind.  (Read when
    it is made: whoever simulates lowers the limit, and then snapshots are sent.)"""

    def __post_init__(self) -> None:
        """Raise ValueError for times with which no leader would last."""
        if not 0 < 3 * self.heartbeat_s < self.election_min_s < self.election_max_s:
            raise ValueError(
                f"Heartbeats every {self.heartbeat_s} s are too rare for elections after"
                f" {self.election_min_s} to {self.election_max_s} s without one: at least three"
                " have to fit into the shortest."
            )

    @property
    def quorum_s(self) -> float:
        """A leader that a majority did not answer for so long steps down.

        Less than `election_min_s`, for which no follower that heard the leader votes for another:
        so a leader that is cut off stops before there is a second one.
        """
        return 0.9 * self.election_min_s


LAN = Settings()
WAN = Settings(heartbeat_s=0.5, election_min_s=1.6, election_max_s=3.2)
"""For voters up to 150 ms apart."""


# --- what comes out


class Outgoing(msgspec.Struct, frozen=True):
    """A message for a peer."""

    to: NodeId
    message: Message


class Outbox(msgspec.Struct, frozen=True):
    """What a core wants done.  The order between and within the fields matters."""

    early: tuple[Outgoing, ...]
    """May leave before the sync: append_entries of a leader whose term is on disk already."""
    pieces: tuple[Piece, ...]
    """To be written before `late` leaves."""
    records: tuple[Record, ...]
    late: tuple[Outgoing, ...]
    """Only after the sync."""
    parts: tuple[PartToSend, ...]
    """Only after the sync, and in order; some may be left out, and are asked for again."""
    outcomes: tuple[Outcome, ...]
    """May be told at once: they rest on what was synced before, here and elsewhere."""

    @property
    def must_sync(self) -> bool:
        return bool(self.records)


class Role(StrEnum):
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


class PeerStatus(msgspec.Struct, frozen=True):
    """How far a voter or learner is, as its leader sees it."""

    voter: bool
    connected: bool
    match: int
    """Its log equals the leader's up to here, on its disk."""
    mode: str
    in_flight_bytes: int
    answered_s: float
    """The moment of the last question that it has answered, by the clock of `now`."""


class Status(msgspec.Struct, frozen=True):
    """For status pages and policies; a snapshot of the moment."""

    role: Role
    term: int
    leader: NodeId | None
    ready: bool
    """A leader that has committed an entry of its own term: it may change voters and read."""
    voters: tuple[NodeId, ...]
    """By the newest list in the log, committed or not; empty for a node that has yet to join."""
    learners: tuple[NodeId, ...]
    first: int
    """The oldest entry in memory is the one after this."""
    last: int
    commit: int
    applied: int
    queued: int
    transferring_to: NodeId | None
    peers: dict[NodeId, PeerStatus]
    """Of a leader only."""
    source: NodeId | None = None
    """The voter whose committed entries this node follows, if it needs one."""
    subscribers: dict[NodeId, int] = {}
    """Who follows those of this voter, and how far each is."""
    checked: Checked = Checked.PASSED
    heard_at: float = -math.inf
    """What was committed then is known here: when a leader last spoke to this node, itself or by
    the source; of a leader, when a majority last answered it.  -inf: never; inf: it is alone."""


class Core(Protocol):
    """One voter, learner or joining node.  See the module's text for the order of calls.

    Every call but `take_outbox`, `stored`, `next_wake` and `status` may raise CoreStopped.
    """

    def connected(self, peer: NodeId, now: float) -> None:
        """There is a link to `peer`, and none before it is in use any more."""

    def disconnected(self, peer: NodeId, now: float) -> None:
        """The link to `peer` is gone, with all that was not delivered.  If it was the leader, an
        election starts at once; those who still hear it will not vote."""

    def on_message(self, peer: NodeId, message: Message, now: float) -> None:
        """A message from `peer`, who is who it says.  Raises Nonsense or NotEligible."""

    def step(self, now: float) -> None:
        """Do what is due.  Bounded: `next_wake` says if there is more to do at once."""

    def take_outbox(self) -> Outbox:
        """What is to be done.  Raises CallerMistake while an earlier one is not stored."""

    def stored(self) -> None:
        """The records of the last outbox are durable."""

    def next_wake(self) -> float:
        """When to call `step` if nothing happens; in the past if there is more to do now."""

    def propose(self, command: bytes, now: float, timeout_s: float) -> int:
        """Have a command committed, by the leader wherever it is.  Returns the id of its outcome.

        Raises CommandTooLarge.  Within `timeout_s` there is an outcome: Committed, Refused or
        Unknown.  It is never tried twice.
        """

    def read_index(self, now: float, timeout_s: float) -> int:
        """Ask for a linearizable read.  The outcome is Readable or Refused (then ask again)."""

    def change_voters(self, voters: Sequence[NodeId], now: float, timeout_s: float) -> int:
        """Have another list of voters, which differs from the present one by one node.

        Refused but at a leader that is ready, for one that removes itself (transfer first), while
        another change is under way, and for a newcomer that does not answer now or is behind.
        """

    def set_learners(self, learners: Sequence[NodeId], now: float) -> None:
        """Who gets the log from this node while it leads, since it may get a vote.  Not in the log.

        All others follow a voter of their choice.  Voters among them are left out, and those
        beyond `limits.RAFT_LEARNERS`.
        """

    def regain_vote(self, now: float) -> None:
        """A vote that this node gets from here on is good, whatever it promised before."""

    def transfer(self, to: NodeId, now: float) -> None:
        """Hand over leadership.  New proposals wait meanwhile; after `election_max_s` without
        success they go on.  Raises Refused as an error (`TransferRefused`)."""

    def take_snapshot(self) -> Taken | None:
        """The state as of now, or None if there is nothing new.  Store it, then `compact`."""

    def compact(self, snapshot: Snapshot, now: float) -> None:
        """A snapshot of this node's own is durable: drop the log that it stands for."""

    def snapshots_in_use(self) -> set[Point]:
        """The newest, and those of which parts are being sent: they must stay on disk."""

    def prepare(self, snapshot: Snapshot, state: Iterable[bytes]) -> Iterator[None]:
        """Build the state of a leader's snapshot, which is durable; some ms between two items.

        Meanwhile the state that there is can be used, and goes on.  Raises ProtocolError for one
        that is damaged (then `abandon`), CoreStopped for one that this machine does not take.
        """

    def install(self, snapshot: Snapshot, now: float) -> None:
        """Have the state that was prepared; nothing happens if the log came that far meanwhile."""

    def abandon(self, now: float) -> None:
        """The leader's snapshot that arrives, or has, cannot be kept or is no good: ask again."""

    def status(self) -> Status: ...

    @property
    def is_ready(self) -> bool:
        """It leads, and has committed an entry of its own term: `Status.ready`, for next to
        nothing."""

    @property
    def checked(self) -> Checked:
        """Whether this node may promise; a core that is BEHIND does nothing any more."""

    @property
    def why_behind(self) -> str:
        """Who remembers what; for a person."""


class TransferRefused(MeshdError):
    """Leadership cannot be handed over; the text says why."""
