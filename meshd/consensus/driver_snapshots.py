"""A driver's work with snapshots, beside its turns (trio shell): taken, sent, received, installed.

    taken ── packed and written by a thread, a part at a time ──> durable ──> compact
    parts to send ── read from the file when their turn comes ──> the link
    pieces that arrive ── written aside ──> durable ── built in slices ──> install

No state is in memory as bytes, and no step is longer than a part takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final, Protocol, TypeVar

import trio

from meshd import limits, logs
from meshd.consensus.entries import Point, Record, Snapshot
from meshd.consensus.interface import Core, CoreStopped, Outgoing
from meshd.consensus.snapshot_parts import PartToSend, Piece, Taken
from meshd.errors import DiskFailed, ProtocolError
from meshd.ids import NodeId

log = logs.get("record")

T = TypeVar("T")

_PARTS_WAITING: Final = limits.RAFT_CHUNKS_IN_FLIGHT * limits.RAFT_LEARNERS


class Writer(Protocol):
    """A snapshot that is being written aside; calls block (`journal.SnapshotWriter`)."""

    def write(self, piece: bytes) -> None: ...

    def commit(self) -> Snapshot: ...

    def abort(self) -> None: ...


class SnapshotStore(Protocol):
    """Where snapshots are kept; calls block (`journal.Snapshots`)."""

    def save(self, point: Point, voters: Iterable[NodeId], state: Iterable[bytes]) -> Snapshot: ...

    def begin(self, point: Point, voters: Iterable[NodeId]) -> Writer: ...

    def part(self, point: Point, offset: int, size_bytes: int) -> bytes | None: ...

    def state(self, point: Point) -> Iterator[bytes]: ...


class Store(Protocol):
    """Where a core's records and snapshots become durable; calls block (`journal.Journal`)."""

    @property
    def snapshots(self) -> SnapshotStore: ...

    def write(self, records: Sequence[Record]) -> None: ...

    def compact(self, keep: Collection[Point] = ()) -> object: ...


class Blocking(Protocol):
    """Make a call that may block, in a thread if that is worth it."""

    async def __call__(self, call: Callable[[], T], /) -> T: ...


class SnapshotWork:
    """What one driver does about snapshots; its tasks are children of the driver's nursery."""

    def __init__(
        self,
        core: Core,
        store: Store,
        *,
        blocking: Blocking,
        send: Callable[[Sequence[Outgoing]], None],
        settle: Callable[[], Awaitable[None]],
        kick: Callable[[], None],
    ) -> None:
        """`settle` is awaited before a part of the log goes; `kick` makes the driver take a turn,
        in which it calls `finished`."""
        self._core = core
        self._store = store
        self._blocking = blocking
        self._send = send
        self._settle = settle
        self._kick = kick
        self._is_saving = False
        self._saved: Snapshot | None = None
        """This node's own: on disk, and not yet told to the core."""
        self._built: Snapshot | None = None
        """The leader's: on disk and prepared, and not yet installed."""
        self._arriving: Writer | None = None
        self._whole: Writer | None = None
        """What arrived and is to be installed."""
        self._is_whole = trio.Event()
        self._to_send: deque[PartToSend] = deque(maxlen=_PARTS_WAITING)
        """What falls out is asked for again."""
        self._more_to_send = trio.Event()
        self._stopped: CoreStopped | None = None
        """In a task here; the driver ends by it."""

    @property
    def is_saving(self) -> bool:
        return self._is_saving

    # ---------------------------------------------------------------- one's own

    async def save(self, taken: Taken) -> None:
        """Pack and write it beside the turns: a leader that waited would send no heartbeats."""
        self._is_saving = True
        try:
            # What was applied was told, and is kept by whoever needs it before the log of it goes.
            await self._settle()
            snapshots = self._store.snapshots
            self._saved = await self._blocking(
                lambda: snapshots.save(taken.point, taken.voters, taken.parts)
            )
        except (DiskFailed, ProtocolError) as error:
            log.warning("the log is not shortened for now", why=str(error))
        finally:
            self._is_saving = False
            self._kick()

    def finished(self, now: float) -> bool:
        """Tell the core what became durable; whether there is something to be carried out by it.

        Raises CoreStopped.
        """
        if self._stopped is not None:
            raise self._stopped
        saved, self._saved = self._saved, None
        built, self._built = self._built, None
        if saved is not None:
            self._core.compact(saved, now)
        if built is not None:
            self._core.install(built, now)
        return saved is not None or built is not None

    # ---------------------------------------------------------------- to followers

    def queue(self, parts: Sequence[PartToSend]) -> None:
        """Have them read and sent."""
        if parts:
            self._to_send.extend(parts)
            self._more_to_send.set()

    async def send_parts(self) -> None:
        """Read and send what is queued, one after the other, until cancelled."""
        while True:
            while self._to_send:
                wanted = self._to_send.popleft()
                data = await self._read(wanted)
                if data is not None:
                    self._send([Outgoing(wanted.to, wanted.with_data(data))])
            self._more_to_send = trio.Event()
            await self._more_to_send.wait()

    async def _read(self, wanted: PartToSend) -> bytes | None:
        part = self._store.snapshots.part
        try:
            return await self._blocking(
                lambda: part(wanted.point, wanted.part.offset, wanted.size_bytes)
            )
        except DiskFailed as error:
            log.warning("a snapshot cannot be sent", why=str(error))
            return None

    # ---------------------------------------------------------------- from a leader

    async def take_in(self, pieces: Sequence[Piece]) -> None:
        """Write what arrived; when it is whole, `install_whole` goes on with it."""
        try:
            if await self._blocking(lambda: self._write(pieces)):
                if self._whole is not None:
                    self._whole.abort()  # overtaken before its turn came
                self._whole, self._arriving = self._arriving, None
                self._is_whole.set()
        except (DiskFailed, ProtocolError) as error:
            self._give_up(str(error))

    def _write(self, pieces: Sequence[Piece]) -> bool:
        """Whether the last piece of it was among them."""
        for piece in pieces:
            if piece.offset == 0:
                self._abort()
                self._arriving = self._store.snapshots.begin(piece.point, piece.voters)
            assert self._arriving is not None
            self._arriving.write(piece.data)
        return pieces[-1].is_last

    async def install_whole(self) -> None:
        """Make durable what is whole, and build its state, until cancelled."""
        while True:
            await self._is_whole.wait()
            self._is_whole = trio.Event()
            writer, self._whole = self._whole, None
            if writer is not None:
                await self._build(writer)

    async def _build(self, writer: Writer) -> None:
        """What is left after this is one short step of the next turn."""
        try:
            snapshot = await self._blocking(writer.commit)
            for _ in self._core.prepare(snapshot, self._store.snapshots.state(snapshot.point)):
                await trio.lowlevel.checkpoint()
            self._built = snapshot
        except (DiskFailed, ProtocolError) as error:
            self._give_up(str(error))
        except CoreStopped as error:
            self._stopped = error
        self._kick()

    def _give_up(self, why: str) -> None:
        log.warning("a snapshot of the record could not be taken from the leader", why=why)
        self._abort()
        with suppress(CoreStopped):  # then the next turn finds it so
            self._core.abandon(trio.current_time())

    def _abort(self) -> None:
        if self._arriving is not None:
            with suppress(DiskFailed):
                self._arriving.abort()
            self._arriving = None
