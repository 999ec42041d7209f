"""Snapshots: taken, sent in parts, put together, installed.  Pure.

Hazards H10, H11: stock rewrites its journal in place and cuts it in another step than it writes the
dump.  Here a snapshot is durable first; what goes to the log is one record that names it.
Hazard H13: stock stores the voters of now, which may never be committed.  Here: those of the
snapshot's own place.
Stock also sends a whole dump in one go, installs one that is older than what it has, and clears the
log behind it.  Here parts wait for answers, nothing goes back, and what follows the snapshot stays.

No state is in memory whole: what is sent is read from the disk part by part, what arrives is
written aside part by part, and the machine builds it from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final
from zlib import crc32

from meshd import limits
from meshd.consensus.entries import Point, Snapshot
from meshd.consensus.interface import CallerMistake, Nonsense
from meshd.consensus.kernel_wire import Peer
from meshd.consensus.messages import SnapshotAnswer, SnapshotPart
from meshd.consensus.snapshot_parts import PartToSend, Piece, Taken
from meshd.consensus.voter_list import require_voters

if TYPE_CHECKING:
    from meshd.consensus.kernel import Kernel
    from meshd.consensus.sending import Progress
    from meshd.consensus.serving import Subscriber

_RESEND_FACTOR_MAX: Final = 64


class Transfer:
    """A snapshot on its way to one follower."""

    __slots__ = ("held", "patience", "progressed_at", "sent", "snapshot")

    def __init__(self, snapshot: Snapshot, now: float) -> None:
        self.snapshot = snapshot
        self.sent = 0
        self.held = 0
        """Bytes that the follower says it has."""
        self.progressed_at = now
        self.patience = 2
        """Heartbeats without an answer before parts are sent again; doubles, since the link may be
        slow rather than forgetful, and what is repeated makes it slower."""


class _Arriving:
    """A snapshot of which parts are here."""

    __slots__ = ("first", "held", "peer")

    def __init__(self, peer: Peer, first: SnapshotPart) -> None:
        self.peer = peer
        self.first = first
        self.held = 0
        """Bytes that were handed out to be written."""

    @property
    def is_whole(self) -> bool:
        """It is being made durable, and the machine prepares its state."""
        return self.held == self.first.size

    def is_of(self, peer: Peer, part: SnapshotPart) -> bool:
        """What is whole is so whoever sent it: a place in the log names one state."""
        mine = self.first
        return (
            (self.peer == peer or self.is_whole)
            and (mine.index, mine.snapshot_term, mine.size, mine.voters)
            == (part.index, part.snapshot_term, part.size, part.voters)
        )  # fmt: skip


class Snapshots:
    """The snapshots of one node."""

    def __init__(self, kernel: Kernel, current: Snapshot | None) -> None:
        self._kernel = kernel
        self.current = current
        self.pieces: list[Piece] = []
        """Arrived since the last outbox."""
        self._prepared: Snapshot | None = None
        self._arriving: _Arriving | None = None

    # --- one's own

    def take(self) -> Taken | None:
        kernel, log = self._kernel, self._kernel.log
        applied = kernel.stock.applied
        term = log.term_at(applied)
        if applied <= log.base.index or term is None:
            return None
        return Taken(
            point=Point(term=term, index=applied),
            voters=log.voters_at(applied),
            parts=kernel.applying.capture(),
        )

    def compact(self, snapshot: Snapshot) -> None:
        """Drop what the snapshot stands for, but keep in memory what followers may still need."""
        kernel, log = self._kernel, self._kernel.log
        index = snapshot.point.index
        if index <= log.base.index:
            return  # meanwhile a newer one was installed
        if index > kernel.stock.applied or log.term_at(index) != snapshot.point.term:
            raise CallerMistake(f"A snapshot at {index} is not of this log.")
        self.current = snapshot
        log.compact(snapshot.point, self._floor(index))

    def in_use(self) -> set[Point]:
        """Those that must stay on disk."""
        sent = (progress.transfer for progress in self._takers())
        used = {transfer.snapshot.point for transfer in sent if transfer is not None}
        return used | ({self.current.point} if self.current is not None else set())

    def _floor(self, index: int) -> int:
        """Some entries behind the snapshot stay, and those after one that is being sent."""
        log = self._kernel.log
        floor = max(log.floor, index - self._kernel.settings.trailing)
        for progress in self._takers():
            if progress.transfer is not None:
                floor = min(floor, progress.transfer.snapshot.point.index)
        floor = max(floor, log.floor)
        if log.bytes_between(floor, index) > limits.RAFT_TRAILING_BYTES:
            return index
        return floor

    def _takers(self) -> Iterator[Progress | Subscriber]:
        yield from self._kernel.sending.progress.values()
        yield from self._kernel.serving.subscribers.values()

    # --- to a follower

    def still_needed(self, progress: Progress) -> bool:
        """Whether a follower that lacks entries behind the floor still lacks them."""
        transfer = progress.transfer
        return progress.match < self._kernel.log.floor or (
            transfer is not None and progress.match < transfer.snapshot.point.index
        )

    def send(self, progress: Progress | Subscriber, due: bool) -> bool:
        """Parts as far as the window goes; if there are none, one without data, to be heard.

        Returns whether anything was sent.
        """
        kernel = self._kernel
        if self.current is None:
            return False
        transfer = progress.transfer
        if transfer is None or transfer.snapshot.point.index < kernel.log.floor:
            transfer = progress.transfer = Transfer(self.current, kernel.now)
        size = transfer.snapshot.size_bytes
        chunk = kernel.settings.chunk_bytes
        waited_s = kernel.now - transfer.progressed_at
        if waited_s >= transfer.patience * kernel.settings.heartbeat_s:
            transfer.sent = transfer.held
            transfer.progressed_at = kernel.now
            transfer.patience = min(2 * transfer.patience, _RESEND_FACTOR_MAX)
        sent = 0
        while transfer.sent < size and (
            transfer.sent - transfer.held < limits.RAFT_CHUNKS_IN_FLIGHT * chunk
        ):
            self._send_part(progress, transfer, chunk)
            sent += 1
        if due and not sent:
            self._send_part(progress, transfer, 0)
        return due or sent > 0

    def _send_part(
        self, progress: Progress | Subscriber, transfer: Transfer, max_bytes: int
    ) -> None:
        kernel, snapshot = self._kernel, transfer.snapshot
        size_bytes = min(max_bytes, snapshot.size_bytes - transfer.sent)
        part = SnapshotPart(
            term=kernel.stock.term,
            round=0 if progress.stream else kernel.sending.round,
            index=snapshot.point.index,
            snapshot_term=snapshot.point.term,
            voters=snapshot.voters,
            size=snapshot.size_bytes,
            offset=transfer.sent,
            data=b"",
            crc32=0,  # of nothing
            stream=progress.stream,
        )
        if size_bytes:
            kernel.wire.parts.append(PartToSend(progress.peer.id, part, size_bytes))
        elif progress.stream:
            kernel.wire.tell(progress.peer.id, part)
        else:
            kernel.wire.tell_early(progress.peer.id, part)
        transfer.sent += size_bytes

    def on_answer(self, peer: Peer, answer: SnapshotAnswer) -> None:
        """Raises Nonsense for bytes that were never sent."""
        kernel = self._kernel
        if answer.stream:
            subscriber = kernel.serving.answering(peer, answer.stream)
            if subscriber is not None:
                self._note_held(subscriber, answer)
            return
        progress = kernel.sending.answering(peer, answer.term, answer.round)
        if progress is not None:
            self._note_held(progress, answer)
            kernel.sending.note_round(progress, answer.round)

    def _note_held(self, progress: Progress | Subscriber, answer: SnapshotAnswer) -> None:
        transfer = progress.transfer
        if transfer is None or transfer.snapshot.point.index != answer.index:
            return
        if answer.held > transfer.snapshot.size_bytes:
            raise Nonsense(
                f"{progress.peer.id} has {answer.held} bytes of a snapshot that is smaller."
            )
        if answer.held > transfer.held:
            transfer.progressed_at = self._kernel.now
            transfer.patience = 2
        transfer.held = answer.held
        transfer.sent = max(transfer.sent, transfer.held)

    # --- from a leader, or from the voter that is followed

    def on_part(self, peer: Peer, part: SnapshotPart) -> None:
        """Raises Nonsense, before anything is changed, for a part whose checksum is wrong."""
        kernel = self._kernel
        if part.stream:
            if not kernel.following.is_from_source(peer, part.stream):
                return
        elif part.term < kernel.stock.term:
            kernel.receiving.refuse_old_leader(peer)
            return
        if crc32(part.data) != part.crc32:
            raise Nonsense(f"A part of a snapshot from {peer.id} has a wrong checksum.")
        if part.stream:
            kernel.following.heard(part.term)
        else:
            kernel.receiving.on_leader_word(peer, part.term, part.round)
        if part.index <= kernel.stock.commit:
            self._arriving = None  # never back
            self._say_installed(peer, part)
            return
        held = self._take_in(peer, part)
        kernel.wire.tell(
            peer.id,
            SnapshotAnswer(
                term=part.term, round=part.round, index=part.index, held=held, stream=part.stream
            ),
        )

    def _take_in(self, peer: Peer, part: SnapshotPart) -> int:
        """How much of that snapshot is here with this part."""
        arriving = self._arriving
        if arriving is None or not (arriving.is_whole or arriving.is_of(peer, part)):
            arriving = self._arriving = _Arriving(peer, part)
        elif not arriving.is_of(peer, part):
            return 0  # until the one that is whole is installed, or is no good
        is_next = part.offset == arriving.held and (part.data or part.size == 0)
        if is_next and len(self.pieces) < limits.RAFT_CHUNKS_IN_FLIGHT:
            arriving.held += len(part.data)
            self.pieces.append(
                Piece(
                    point=Point(term=part.snapshot_term, index=part.index),
                    voters=require_voters(part.voters),
                    size_bytes=part.size,
                    offset=part.offset,
                    data=part.data,
                )
            )
        return arriving.held

    def _say_installed(self, peer: Peer, part: SnapshotPart) -> None:
        if part.stream:
            self._kernel.following.installed()
        else:
            self._kernel.receiving.installed(peer, part.round)

    def link_lost(self, peer: Peer) -> None:
        arriving = self._arriving
        if arriving is not None and arriving.peer == peer and not arriving.is_whole:
            self._arriving = None

    def prepare(self, snapshot: Snapshot, state: Iterable[bytes]) -> Iterator[None]:
        self._prepared = None
        yield from self._kernel.applying.prepare(state, snapshot.point.index)
        self._prepared = snapshot

    def install(self, snapshot: Snapshot) -> None:
        kernel, log, index = self._kernel, self._kernel.log, snapshot.point.index
        prepared, arrived = self._prepared, self._arriving
        self._prepared = None
        if arrived is not None and arrived.first.index == index:
            self._arriving = None
        if prepared is not snapshot or index <= kernel.stock.commit:
            return  # never back: the log came that far meanwhile
        kernel.applying.become()
        self.current = snapshot
        log.install(snapshot)
        kernel.stock.commit = index
        kernel.stock.applied = index
        kernel.proposals.skipped_to(index)
        if arrived is not None and arrived.first.stream:
            kernel.following.installed()
        elif arrived is not None and kernel.stock.leader == arrived.peer:
            kernel.receiving.installed_now(arrived.peer)

    def abandon(self) -> None:
        self._arriving = self._prepared = None
        self.pieces.clear()
