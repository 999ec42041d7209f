"""A history of what is over, at this node: written behind apply, into a local SQLite file.

    history = History(databases, path, now_ms=record_time)
    nursery.start_soon(history.run)
    history.add(index, finished)                    # from apply: no wait, no I/O
    page = await history.find(Filter(model="tiny"))

There are two, alike: of finished jobs, and of requests that were answered without one.  Those are
many more, and have a file of their own so that no job goes to make room for them.

Nothing waits for it, and nothing depends on it: if the disk is full, or the file cannot be used, it
stops, says so, and tries again; the daemon goes on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import TypeVar

import trio

from meshd import limits, logs
from meshd.errors import DatabaseDamaged, DiskFailed, Refused
from meshd.jobs import history_rows
from meshd.jobs.finished import Attempt, FinishedJob
from meshd.jobs.history_rows import Filter, Page, Row, row_number
from meshd.ports import Database, Databases, Transaction

__all__ = ["Attempt", "Filter", "FinishedJob", "History", "HistoryState", "Page", "Standing"]

log = logs.get("history")
T = TypeVar("T")

Unread = Callable[[], FinishedJob | None]
"""Reads a row; None if it cannot be read by this version."""
_Pending = tuple[int, FinishedJob | Unread]


class HistoryState(StrEnum):
    """How it is with the file."""

    OPENING = "opening"
    OPEN = "open"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Standing:
    """For `meshd status` and metrics."""

    state: HistoryState
    why: str
    """A sentence, while it is stopped."""
    rows: int
    """In the file."""
    pending: int
    """Finished and not yet written."""
    dropped: int
    """Finished and never written, since this start: there was no room to wait for the disk."""
    set_aside: str
    """Where the damaged file is that was replaced in this life; "" if none was."""


class History:
    """One node's history of one kind.  `run` it; all else may be called from any task."""

    def __init__(
        self,
        databases: Databases,
        path: PurePath,
        *,
        now_ms: Callable[[], int],
        max_rows: int = limits.HISTORY_ROWS,
        max_age_s: float = limits.HISTORY_AGE_S,
        max_bytes: int = limits.HISTORY_BYTES,
        what: str = "finished jobs",
    ) -> None:
        """`now_ms` is record time, against which a row's age is measured; `what` is in it."""
        self._what = f"history of {what}"
        self._databases = databases
        self._path = path
        self._now_ms = now_ms
        self._max_rows = max_rows
        self._max_age_ms = int(max_age_s * 1000)
        self._max_bytes = max_bytes
        self._database: Database | None = None
        self._state = HistoryState.OPENING
        self._why = ""
        self._rows = 0
        self._pending: deque[_Pending] = deque()
        self._pending_bytes = 0
        """Of their results."""
        self._batch: list[_Pending] = []
        """Being written."""
        self._batch_start = 0
        """Of all that were added, the number of its first."""
        self._added = 0
        self._dropped = 0
        self._set_aside = ""
        self._replaced_at = -math.inf
        self._last_index = -1
        self._is_damaged = False
        """A reader has found out."""
        self._is_urgent = False
        """Somebody waits for what is pending."""
        self._wake = trio.Event()
        self._turned = trio.Event()
        """Set, and replaced, when a batch was written or the state changed."""

    @property
    def standing(self) -> Standing:
        pending = len(self._batch) + len(self._pending)
        return Standing(self._state, self._why, self._rows, pending, self._dropped, self._set_aside)

    @property
    def last_index(self) -> int:
        """Of the last entry that was added in this life; -1: none."""
        return self._last_index

    def add(self, index: int, jobs: Sequence[FinishedJob | Unread]) -> None:
        """What the entry at `index` finished, in the order in which it did.

        All of an entry at once, and entries in their order: a row is recognised by that after a
        replay.  What is to be read is read when it is written, by another thread, and keeps its
        place if it cannot be.  Raises ValueError if they are not in order.
        """
        if index <= self._last_index:
            raise ValueError(f"entry {index} was applied after entry {self._last_index}")
        rows = [(row_number(index, place), job) for place, job in enumerate(jobs)]
        self._last_index = index
        self._pending.extend(rows)
        self._pending_bytes += sum(map(_kept_bytes, rows))
        self._added += len(rows)
        self._drop_surplus()
        if rows:
            self._wake.set()

    async def settle(self) -> None:
        """Until all that was added so far is on the medium, or the history is stopped.

        A log must not be cut off before this: what is not written is replayed from there.  It is
        also how a long replay leaves room: nothing is dropped if this is awaited in between.
        """
        await trio.lowlevel.checkpoint()
        until = self._added
        while self._settled < until and self._state is not HistoryState.STOPPED:
            self._is_urgent = True
            self._wake.set()
            await self._turned.wait()

    async def find(self, where: Filter, *, cursor: str = "", count: int = 100) -> Page:
        """The newest first, all that was applied before this call included (unless it is stopped).

        Raises Refused: for a cursor that is none, or if there is no history to look at.
        """
        count = max(1, min(count, limits.HISTORY_PAGE_ROWS))
        return await self._look(lambda sql: history_rows.find(sql, where, cursor, count))

    async def get(self, job: str) -> FinishedJob | None:
        """What became of it; None if it is not (or no longer) in the history.  Raises Refused."""
        return await self._look(lambda sql: history_rows.get(sql, job))

    async def run(self) -> None:
        """Open, write and trim, until cancelled; then what is pending is still written."""
        try:
            while True:
                try:
                    await self._serve()
                except DatabaseDamaged as error:
                    await self._replace(str(error))
                except (DiskFailed, Refused) as error:
                    self._stop(str(error))  # and leave it open: it may still be read
                    await trio.sleep(limits.HISTORY_RETRY_S)
                await self._close()
        finally:
            with trio.CancelScope(shield=True):
                await self._finish()

    # --- the writer

    async def _serve(self) -> None:
        """Write what comes; ends with an exception."""
        database = self._database = await self._databases.open(self._path)
        self._rows = await database.write(history_rows.prepare)
        if not self._pending:
            self._turn(HistoryState.OPEN)  # else it is the first batch that shows it
        look_at = trio.current_time()
        while True:
            if self._pending:
                await self._write_batch(database)
            if self._rows > self._max_rows or trio.current_time() >= look_at:
                if not await self._trim(database):
                    look_at = trio.current_time() + limits.HISTORY_TRIM_S
            else:
                with trio.move_on_at(look_at):
                    await self._until_a_batch_is_due()
            if self._is_damaged:
                raise DatabaseDamaged(f"{self._path} is damaged (found while it was read).")

    async def _until_a_batch_is_due(self) -> None:
        while not (self._pending or self._is_damaged):
            await self._woken()
        # Every batch is a sync of the disk, so it is worth a wait, unless somebody waits for it.
        with trio.move_on_after(limits.HISTORY_BATCH_S):
            while not (
                self._is_urgent
                or self._is_damaged
                or len(self._pending) >= limits.HISTORY_BATCH_ROWS
            ):
                await self._woken()

    async def _woken(self) -> None:
        await self._wake.wait()
        self._wake = trio.Event()

    async def _write_batch(self, database: Database) -> None:
        self._batch_start = self._added - len(self._pending)
        size = min(len(self._pending), limits.HISTORY_BATCH_ROWS)
        batch = self._batch = [self._next_pending() for _ in range(size)]
        try:
            self._rows += await database.write(lambda sql: history_rows.insert(sql, _read(batch)))
        except BaseException:  # also a cancel: what was not written still waits to be
            self._pending.extendleft(reversed(batch))
            self._pending_bytes += sum(map(_kept_bytes, batch))
            self._drop_surplus()
            raise
        finally:
            self._batch = []
        self._turn(HistoryState.OPEN)

    async def _trim(self, database: Database) -> int:
        surplus = self._rows - self._max_rows
        before_ms, max_bytes = self._now_ms() - self._max_age_ms, self._max_bytes
        gone = await database.write(
            lambda sql: history_rows.trim(sql, surplus, before_ms, max_bytes)
        )
        self._rows -= gone
        return gone

    async def _replace(self, why: str) -> None:
        """Begin anew, not again and again: a disk that damages everything gets a rest."""
        self._is_damaged = False
        self._turn(HistoryState.OPENING)
        await self._close()
        try:
            aside = await self._databases.set_aside(self._path)
        except DiskFailed as error:
            self._stop(f"{why} {error}")
            await trio.sleep(limits.HISTORY_RETRY_S)
            return
        self._set_aside = str(aside)
        log.warning(f"the {self._what} begins anew", why=why, old=str(aside))
        if trio.current_time() < self._replaced_at + limits.HISTORY_RETRY_S:
            self._stop(why)
            await trio.sleep(limits.HISTORY_RETRY_S)
        self._replaced_at = trio.current_time()

    async def _finish(self) -> None:
        if self._database is not None and self._state is HistoryState.OPEN:
            try:
                while self._pending:
                    await self._write_batch(self._database)
            except (DiskFailed, DatabaseDamaged) as error:
                log.warning("the last finished jobs were not written", why=str(error))
        await self._close()
        self._why = "This node is stopping."
        self._turn(HistoryState.STOPPED)

    async def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            await database.aclose()

    def _stop(self, why: str) -> None:
        if self._state is not HistoryState.STOPPED or why != self._why:
            log.warning(f"the {self._what} stops; all else goes on", why=why)
        self._why = why
        self._turn(HistoryState.STOPPED)

    def _turn(self, state: HistoryState) -> None:
        if state is HistoryState.OPEN and self._state is HistoryState.STOPPED:
            log.info(f"the {self._what} goes on", dropped=self._dropped)
            self._why = ""
        self._state = state
        self._is_urgent = False
        self._turned.set()
        self._turned = trio.Event()

    @property
    def _settled(self) -> int:
        """Of all that were added, how many in a row are written, or were dropped."""
        return self._batch_start if self._batch else self._added - len(self._pending)

    def _drop_surplus(self) -> None:
        while (
            len(self._pending) > limits.HISTORY_PENDING_ROWS
            or self._pending_bytes > limits.HISTORY_PENDING_BYTES
        ):
            self._next_pending()
            self._dropped += 1

    def _next_pending(self) -> _Pending:
        row = self._pending.popleft()
        self._pending_bytes -= _kept_bytes(row)
        return row

    # --- readers

    async def _look(self, work: Callable[[Transaction], T]) -> T:
        await self.settle()
        while self._state is HistoryState.OPENING:
            await self._turned.wait()
        if self._database is None:
            raise Refused(f"There is no {self._what} at this node: {self._why}")
        try:
            return await self._database.read(work)
        except DatabaseDamaged as error:
            self._is_damaged = True
            self._wake.set()
            raise Refused(f"The {self._what} begins anew: {error}") from error
        except DiskFailed as error:
            raise Refused(f"The {self._what} cannot be read: {error}") from error


def _kept_bytes(pending: _Pending) -> int:
    """What it holds besides what all hold."""
    return len(pending[1].result) if isinstance(pending[1], FinishedJob) else 0


def _read(batch: Sequence[_Pending]) -> list[Row]:
    rows = [(n, job if isinstance(job, FinishedJob) else job()) for n, job in batch]
    return [(number, job) for number, job in rows if job is not None]
