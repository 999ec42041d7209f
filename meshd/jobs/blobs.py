"""Bodies and results that are too large for the log: on the disks of a majority of the voters.

    digest = await blobs.put(body)      # before the command that names it is proposed
    body = await blobs.get(digest)      # anywhere

Each voter looks now and then at what the record names and gets what it lacks, at a bounded rate; so
a blob is where it should be also after a voter was replaced, or came back with an older disk.  What
nothing has named for a day goes (trio shell).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

import trio

from meshd import limits, logs
from meshd.errors import DiskFailed, LimitExceeded, MeshdError
from meshd.ids import NodeId, short
from meshd.jobs.blob_links import Ask, Courier
from meshd.jobs.blob_plan import digest_of, put_s
from meshd.jobs.blob_spread import BlobNotStored, Spread
from meshd.jobs.blob_store import BlobStore
from meshd.jobs.whom_to_ask import whom_to_ask
from meshd.ledger.ledger import Ledger
from meshd.peers.switchboard import Switchboard
from meshd.ports import Disk
from meshd.wire.control import Message
from meshd.wire.control_record import BlobData, BlobHeld, BlobPart, BlobRequest

__all__ = ["BlobNotStored", "BlobStanding", "Blobs", "Record", "record_of"]

log = logs.get("blobs")

REOPEN_S: Final = 30.0
"""After the folder could not be read."""
TEND_S: Final = 10.0
"""How often it is looked whether there is something to look at."""
HEAL_PAUSE_S: Final = 0.05
"""Between two blobs that are missing here, at the least."""
_TRIES: Final = 4
_RETRY_S: Final = 0.1
_INLINE_BYTES: Final = 256 * limits.KIB


@dataclass(frozen=True, slots=True)
class BlobStanding:
    """For `meshd record status` and metrics."""

    problem: str
    """Why blobs cannot be kept here, as a sentence; "" while they can."""
    count: int
    size_bytes: int
    missing: int
    """Named by the record, to be here, and not here at the last look."""


@dataclass(frozen=True, slots=True)
class Record:
    """What blobs want to know of the record; `Ledger` has all of it."""

    voters: Callable[[], Sequence[NodeId]]
    """By the newest list in the log; none while the record does not run here."""
    index: Callable[[], int]
    """Of the last applied command."""
    now_ms: Callable[[], int]
    """By the record clock."""
    named: Callable[[], Iterator[Collection[bytes]]]
    """The digests that may still be asked for: `RecordState.blobs`."""
    barrier: Callable[[], Awaitable[object]]
    """Until all that was acknowledged before is applied here; raises MeshdError."""


def record_of(ledger: Ledger) -> Record:
    """What blobs want to know of it, from a ledger."""

    def voters() -> Sequence[NodeId]:
        return ledger.driver.status().voters if ledger.driver is not None else ()

    return Record(
        voters=voters,
        index=lambda: ledger.state.index,
        now_ms=lambda: ledger.state.clock.now_unix_ms,
        named=lambda: ledger.state.blobs(),
        barrier=ledger.read_barrier,
    )


class Blobs:
    """One node's part in keeping blobs.  `run` it; all else may be called from any task."""

    def __init__(
        self,
        disk: Disk,
        folder: PurePath,
        me: NodeId,
        record: Record,
        *,
        linked: Callable[[], Sequence[NodeId]],
        ask: Ask,
        choose: Callable[[int], int],
        store: BlobStore | None = None,
    ) -> None:
        """`linked` and `ask` are `ControlLinks.up` and `.request`, `choose` is `randrange`."""
        self._me = me
        self._record = record
        self._linked = linked
        self._choose = choose
        self._disk = disk
        self.store = store or BlobStore(disk, folder)
        self._courier = Courier(ask)
        self._nursery: trio.Nursery | None = None
        self._problem = ""
        self._opened = trio.Event()
        """Set too while the folder cannot be read: nobody waits for that."""
        self._fetches = trio.Semaphore(limits.BLOB_FETCHES)
        self._trailing_bytes = 0
        self._missing = 0
        self._coming = trio.Event()
        self.counters: Counter[str] = self.store.counters

    @property
    def standing(self) -> BlobStanding:
        store = self.store
        return BlobStanding(self._problem, len(store.held), store.size_bytes, self._missing)

    # ---------------------------------------------------------------- what others use

    async def put(self, data: bytes) -> bytes:
        """Store it on a majority of the voters; its digest.

        Durable when this returns, for `limits.BLOB_GRACE_S`, and for as long as the record names it
        if a command does within that time.  Raises BlobNotStored, LimitExceeded.
        """
        if not 0 < len(data) <= limits.BLOB_BYTES:
            raise LimitExceeded(
                f"A body or result of {len(data)} bytes is over the limit of {limits.BLOB_BYTES}."
            )
        digest = await self._digest(data)
        voters = list(self._record.voters())
        spread = Spread(digest, data, voters)
        if self._nursery is None or not voters:
            raise spread.failure("the record does not run at this node yet")
        linked = {self._me, *self._linked()}
        if len(linked.intersection(voters)) < spread.needed:
            spread.missing = {voter: "no link" for voter in voters if voter not in linked}
            raise spread.failure()
        spread.scope.deadline = trio.current_time() + put_s(len(data))
        self._nursery.start_soon(self._spread, spread)
        try:
            await spread.settled.wait()
        finally:
            if not spread.is_stored:
                spread.scope.cancel()
        if not spread.is_stored:
            raise spread.failure()
        return digest

    async def get(self, digest: bytes) -> bytes | None:
        """The blob, from this disk or another's; None if nobody who can be asked has it."""
        if self._nursery is not None:
            await self._opened.wait()
        data = await self._own(digest)
        if data is not None:
            return data
        async with self._fetches:
            data = await self._own(digest)  # somebody else may have got it meanwhile
            if data is not None:
                return data
            data = await self._fetch(digest)
            if data is not None and self._me in self._record.voters() and not self._problem:
                try:
                    await self.store.write(digest, data)
                except MeshdError as error:
                    log.warning("a blob could not be kept", why=str(error))
        return data

    async def needed(self) -> dict[bytes, int]:
        """What is on this disk and may be asked for, or was stored so lately that a command may
        be about to name it: digests, and sizes in bytes."""
        if self._nursery is not None:
            await self._opened.wait()
        named, _ = await self._named()
        fresh_from = trio.current_time() - limits.BLOB_GRACE_S
        return {
            digest: blob.size_bytes
            for digest, blob in self.store.held.items()
            if digest in named or blob.stored_at >= fresh_from
        }

    def answer(self, board: Switchboard) -> None:
        """Answer the others' questions about blobs."""
        board.answer(BlobPart, self.take_part)
        board.answer(BlobRequest, self.give_part)

    async def take_part(self, node: NodeId, message: BlobPart) -> Message:
        """A node sends a part of a blob, to be kept.  Raises MeshdError, which it is told."""
        await self._ready()
        upto, whole = await self.store.take_part(
            node, message.digest, message.size_bytes, message.offset, message.data
        )
        self._coming.set()
        return BlobHeld(upto=upto, whole=whole)

    async def give_part(self, node: NodeId, message: BlobRequest) -> Message:
        """A node wants a part of a blob."""
        del node
        await self._ready()
        size, part = await self.store.read_part(message.digest, message.offset)
        return BlobData(size_bytes=size, data=part)

    async def run(self) -> None:
        """Keep blobs here, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._sweep)
            try:
                await self._open()
                await self._tend()
            finally:
                self._nursery = None

    # ---------------------------------------------------------------- storing

    async def _spread(self, spread: Spread) -> None:
        """Store it at all voters; go on after a majority has it, within bounds."""
        trailing = 0
        try:
            with spread.scope:
                async with trio.open_nursery() as nursery:
                    for voter in spread.voters:
                        nursery.start_soon(self._store_at, spread, voter)
                    await spread.settled.wait()
                    trailing = len(spread.data) * len(spread.missing)
                    self._trailing_bytes += trailing
                    if self._trailing_bytes > limits.BLOBS_TRAILING_BYTES:
                        spread.scope.cancel()  # those voters see that they lack it, and get it
        finally:
            self._trailing_bytes -= trailing
            spread.settled.set()

    async def _store_at(self, spread: Spread, voter: NodeId) -> None:
        for attempt in range(_TRIES):
            try:
                if voter == self._me:
                    await self._ready()
                    await self.store.write(spread.digest, spread.data)
                else:
                    await self._courier.send(voter, spread.digest, spread.data)
            except MeshdError as error:
                spread.failed(voter, str(error), last=attempt == _TRIES - 1)
            else:
                spread.stored(voter)
                return
            await trio.sleep(_RETRY_S * 2**attempt)

    # ---------------------------------------------------------------- getting

    async def _own(self, digest: bytes) -> bytes | None:
        try:
            return await self.store.read(digest)
        except DiskFailed as error:
            log.warning("a blob could not be read", why=str(error))
            return None

    async def _fetch(self, digest: bytes) -> bytes | None:
        """From the first other node that has it: voters, then some of the others."""
        for node in self._whom_to_ask():
            try:
                data = await self._courier.fetch(node, digest)
            except MeshdError as error:
                log.debug("a blob was not got", node=short(node), why=str(error))
                continue
            if data is None:
                continue
            if await self._digest(data) == digest:
                return data
            self.counters["blobs_wrong"] += 1
            log.warning("a node has a damaged blob", node=short(node), blob=digest.hex())
        return None

    def _whom_to_ask(self) -> Iterator[NodeId]:
        linked = [node for node in self._linked() if node != self._me]
        return whom_to_ask(linked, self._record.voters(), self._choose)

    # ---------------------------------------------------------------- keeping

    async def _open(self) -> None:
        while True:
            try:
                await self.store.open()
            except DiskFailed as error:
                self._problem = str(error)
                log.error("blobs cannot be kept here; trying again", why=str(error))
                self._opened.set()
                await trio.sleep(REOPEN_S)
            else:
                self._problem = ""
                self._opened.set()
                return

    async def _ready(self) -> None:
        await self._opened.wait()
        self._check_problem()

    def _check_problem(self) -> None:
        if self._problem:
            raise MeshdError(f"this node keeps no blobs now: {self._problem}")

    async def _sweep(self) -> None:
        """Forget what came of blobs whose senders went away."""
        while True:
            await self._coming.wait()
            while self.store.is_any_coming:
                await trio.sleep(limits.BLOB_STALL_S)
                await self.store.forget_stalled()
            self._coming = trio.Event()

    async def _tend(self) -> None:
        """Look when something has changed: at once for the voters, else now and then."""
        looked_at, seen = -math.inf, (-1, frozenset[NodeId]())
        while True:
            now, index, voters = trio.current_time(), self._record.index(), self._voters()
            due_s = limits.BLOB_MISSING_S if self._missing else limits.BLOB_LOOK_S
            changed = index != seen[0] or self._missing
            if voters != seen[1] or (changed and now - looked_at >= due_s):
                looked_at, seen = now, (index, voters)
                try:
                    await self._look()
                except MeshdError as error:
                    # Without voters the record does not run here yet: so begins every start.
                    tell = log.info if voters else log.debug
                    tell("blobs could not be looked through", why=str(error))
            await trio.sleep(TEND_S)

    async def _look(self) -> None:
        """Get what is missing here, and let go of what nothing names."""
        named, missing = await self._named()
        if self._me not in self._voters():
            missing.clear()
        self._missing = len(missing)
        for digest in sorted(missing):
            data = await self.get(digest)
            self._missing -= digest in self.store.held
            size = 0 if data is None else len(data)
            await trio.sleep(max(HEAL_PAUSE_S, size / limits.BLOB_HEAL_BYTES_PER_S))
        await self._let_go(named)

    async def _named(self) -> tuple[set[bytes], set[bytes]]:
        """What the record names: of that which is here, and of that which is not."""
        here: set[bytes] = set()
        missing: set[bytes] = set()
        for some in self._record.named():
            for digest in some:
                (here if digest in self.store.held else missing).add(digest)
            await trio.lowlevel.checkpoint()
        return here, missing

    async def _let_go(self, named: set[bytes]) -> None:
        held = self.store.held.keys()
        if held <= named:
            await self.store.looked((), self._record.now_ms())
            return
        # What this node has not heard of yet may name something: nothing goes on old knowledge.
        await self._record.barrier()
        named, _ = await self._named()
        now_ms = self._record.now_ms()
        await self.store.looked([digest for digest in held if digest not in named], now_ms)
        gone = await self.store.collect(now_ms)
        if gone:
            self.counters["blobs_collected"] += gone
            log.info("blobs that nothing has named for a day are deleted", count=gone)

    # ---------------------------------------------------------------- small things

    def _voters(self) -> frozenset[NodeId]:
        return frozenset(self._record.voters())

    async def _digest(self, data: bytes) -> bytes:
        if len(data) <= _INLINE_BYTES or self._disk.is_quick:
            return digest_of(data)
        return await trio.to_thread.run_sync(digest_of, data)
