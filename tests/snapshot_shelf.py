"""Snapshots of one node as a driver handles them, kept in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from meshd.consensus.entries import Point, Snapshot
from meshd.consensus.interface import StateMachine
from meshd.consensus.messages import SnapshotPart
from meshd.consensus.snapshot_parts import PartToSend, Piece, Taken
from meshd.ids import NodeId


class Shelf:
    """What is durable, and what is arriving."""

    def __init__(self) -> None:
        self.states: dict[Point, bytes] = {}
        self.durable: dict[Point, Snapshot] = {}
        self._arriving = bytearray()

    def save(self, taken: Taken) -> Snapshot:
        """Make durable what a core has marked."""
        return self._put(taken.point, taken.voters, b"".join(taken.parts))

    def take_in(self, pieces: Sequence[Piece]) -> Snapshot | None:
        """Write what arrived.  If it is whole, it is durable, and to be installed."""
        for piece in pieces:
            if piece.offset == 0:
                self._arriving = bytearray()
            assert len(self._arriving) == piece.offset, "a piece is missing"
            self._arriving += piece.data
        if pieces and pieces[-1].is_last:
            return self._put(pieces[-1].point, pieces[-1].voters, bytes(self._arriving))
        return None

    def read(self, wanted: PartToSend) -> SnapshotPart:
        """What is to be sent."""
        at = wanted.part.offset
        return wanted.with_data(self.states[wanted.point][at : at + wanted.size_bytes])

    def state(self, point: Point) -> Iterator[bytes]:
        """In pieces."""
        yield self.states[point]

    def keep(self, points: Iterable[Point]) -> None:
        """All others go."""
        wanted = set(points)
        for point in [point for point in self.durable if point not in wanted]:
            del self.durable[point], self.states[point]

    def bring_up(self, machine: StateMachine, snapshot: Snapshot | None) -> None:
        """The machine of a node that starts, at the state of its snapshot."""
        if snapshot is not None:
            for _ in machine.prepare(self.state(snapshot.point)):
                pass
            machine.become()

    def _put(self, point: Point, voters: tuple[NodeId, ...], state: bytes) -> Snapshot:
        self.states[point] = state
        self.durable[point] = Snapshot(point, voters, len(state))
        return self.durable[point]
