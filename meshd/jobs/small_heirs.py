"""What a node that leaves for good must not take with it: small answers of keys (trio).

They are no blobs but rows of the histories of all who heard of the end.  Who caught up by a
snapshot never did; if too few voters know of one, it is stored with them under its digest, where a
repeat of its key finds it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Final

import trio

from meshd import limits
from meshd.errors import MeshdError
from meshd.ids import NodeId
from meshd.jobs.blob_links import Ask
from meshd.jobs.blob_plan import majority
from meshd.jobs.blobs import Blobs
from meshd.jobs.finished import FinishedJob
from meshd.jobs.handing_over import HandingOver
from meshd.record.job_rows import job_name
from meshd.wire.control_record import Ending, EndingRequest

Answered = tuple[int, bytes]
"""A job whose key is on record, and the digest of its answer."""

_AT_A_TIME: Final = 4


class SmallHeirs:
    """Finds those that only this node can tell, and stores them with the voters."""

    def __init__(
        self,
        blobs: Blobs,
        ask: Ask,
        voters: Callable[[], Sequence[NodeId]],
        here: Callable[[str], Awaitable[FinishedJob | None]],
    ) -> None:
        """`ask` is `ControlLinks.request`; `here` tells what this node knows of a job."""
        self._blobs, self._ask, self._voters, self._here = blobs, ask, voters, here

    async def hand_over(self, answered: Iterator[Collection[Answered]]) -> None:
        """Each of them can be told without this node; a question to each of a majority of voters.

        Ends with the first that cannot be stored.  Raises NotHandedOver.
        """
        rows: list[Answered] = []
        for some in answered:
            rows += some
            await trio.lowlevel.checkpoint()
        handing = HandingOver(len(rows))
        await handing.each(rows, self._hand_over, _AT_A_TIME)
        handing.check()

    async def _hand_over(self, row: Answered) -> None:
        job, digest = row
        if not await self._is_known(job):
            await self._store(job, digest)

    async def _is_known(self, job: int) -> bool:
        """Whether a majority of the voters has it in its history."""
        voters = self._voters()
        known = 0
        for voter in voters:
            try:
                told = await self._ask(voter, EndingRequest(job=job), limits.ENDING_ANSWER_S)
            except MeshdError:
                continue  # who cannot be asked does not count
            known += isinstance(told, Ending) and bool(told.row)
            if known >= majority(len(voters)):
                return True
        return False

    async def _store(self, job: int, digest: bytes) -> None:
        over = await self._here(job_name(job))
        data = over.result if over is not None else b""
        data = data or await self._blobs.store.read(digest) or b""
        if data:  # else this node does not know it either
            await self._blobs.put(data)
