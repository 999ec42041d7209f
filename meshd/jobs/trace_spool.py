"""Batches of traces that could not be written into the record yet, on this node's disk (shell).

One file a batch, called by its number: the oldest goes first, what was written down is deleted, and
nothing has to be rewritten in between.  Bounded: past that the oldest is dropped, and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import PurePath
from typing import TypeVar

import msgspec
import trio

from meshd import limits, logs
from meshd.errors import DiskFailed
from meshd.jobs.trace_rows import Batch
from meshd.ports import Disk

log = logs.get("jobs")
T = TypeVar("T")

_SUFFIX = ".traces"
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)


class TraceSpool:
    """What waits.  A disk that fails costs traces, and nothing else."""

    def __init__(self, disk: Disk, folder: PurePath) -> None:
        self._disk = disk
        self._folder = folder
        self._numbers: deque[int] = deque()
        self._newest: Batch | None = None
        """As it is on the disk, while nobody was told of it: it may still grow."""
        self._is_failing = False
        self.left_out = 0
        """Requests that were dropped, and that the next batch has to count."""

    def __len__(self) -> int:
        return len(self._numbers)

    async def open(self) -> None:
        """Find what an earlier start has left."""
        try:
            names = await self._blocking(lambda: self._disk.names(self._folder))
        except DiskFailed as error:
            self._complain(error)
            return
        found = [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]
        self._numbers.extend(sorted(int(number) for number in found if number.isdecimal()))

    async def put(self, number: int, more: Batch, *, may_grow: bool) -> None:
        """Keep a batch; numbers only go up.  `may_grow`: it was never proposed under its number.

        It becomes a part of the newest one if both may grow and there is room.
        """
        both = self._newest.with_more(more) if self._newest is not None and may_grow else None
        if both is not None:
            number = self._numbers[-1]
        batch = both or more
        data = _encoder.encode(batch)
        try:
            await self._blocking(lambda: self._disk.write(self._path(number), data, private=True))
        except DiskFailed as error:
            self._complain(error)
            self.left_out += more.requests
            return
        self._is_failing = False
        self._newest = batch if may_grow else None
        if both is None:
            self._numbers.append(number)
        while len(self._numbers) > limits.TRACE_SPOOL_BATCHES:
            oldest = await self._read(self._numbers[0])
            self.left_out += oldest.requests if oldest is not None else 0
            await self.done()

    async def first(self) -> tuple[int, Batch] | None:
        """The oldest one, to be proposed: it grows no more.  None: there is none."""
        while self._numbers:
            number = self._numbers[0]
            if len(self._numbers) == 1:
                self._newest = None
            batch = await self._read(number)
            if batch is not None:
                return number, batch
            await self.done()
        return None

    async def done(self) -> None:
        """The oldest one is written down, or nobody wants it."""
        number = self._numbers.popleft()
        if not self._numbers:
            self._newest = None
        try:
            await self._blocking(lambda: self._disk.delete(self._path(number)))
        except DiskFailed as error:
            self._complain(error)  # it is found again at the next start, and known then

    async def _read(self, number: int) -> Batch | None:
        """None for what cannot be read, which is said."""
        try:
            data = await self._blocking(lambda: self._disk.read(self._path(number)))
            return _decoder.decode(data or b"")
        except DiskFailed as error:
            self._complain(error)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            log.warning("traces of requests are damaged and left out", file=self._path(number).name)
        return None

    def _complain(self, error: DiskFailed) -> None:
        """Once, until it works again."""
        if not self._is_failing:
            log.warning("traces of requests cannot be kept; all else goes on", why=str(error))
        self._is_failing = True

    def _path(self, number: int) -> PurePath:
        return self._folder / f"{number:016}{_SUFFIX}"

    async def _blocking(self, call: Callable[[], T]) -> T:
        return call() if self._disk.is_quick else await trio.to_thread.run_sync(call)
