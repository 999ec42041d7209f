"""How jobs ended that were over before this node had heard of them (trio shell).

What is over leaves the record's state, and lives on in a history of each node.  A node that came
later, or caught up by a snapshot, was never told: it asks the others, and remembers nothing of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec
import trio

from meshd import limits, logs
from meshd.errors import MeshdError
from meshd.ids import NodeId, short
from meshd.jobs.blob_links import Ask
from meshd.jobs.blob_plan import is_blob
from meshd.jobs.finished import FinishedJob
from meshd.jobs.whom_to_ask import whom_to_ask
from meshd.peers.switchboard import Switchboard
from meshd.record.job_rows import job_name
from meshd.wire.control import Message
from meshd.wire.control_record import Ending, EndingRequest

log = logs.get("jobs")

Here = Callable[[str], Awaitable[FinishedJob | None]]
"""What this node itself knows of a job that is over; raises MeshdError."""


class Endings:
    """Asks other members, and answers them."""

    def __init__(
        self,
        ask: Ask,
        linked: Callable[[], Sequence[NodeId]],
        voters: Callable[[], Sequence[NodeId]],
        choose: Callable[[int], int],
    ) -> None:
        """`ask` and `linked` are `ControlLinks.request` and `.up`, `choose` is `randrange`."""
        self._ask, self._linked, self._voters, self._choose = ask, linked, voters, choose
        self._asking = trio.Semaphore(limits.ENDINGS_AT_ONCE)

    async def find(self, job: int) -> FinishedJob | None:
        """How it ended, from the first other node that knows; None: none that can be asked does,
        or not within `limits.ENDING_S`."""
        with trio.move_on_after(limits.ENDING_S):
            return await self._find(job)
        return None

    async def _find(self, job: int) -> FinishedJob | None:
        async with self._asking:
            for node in whom_to_ask(self._linked(), self._voters(), self._choose):
                try:
                    answer = await self._ask(node, EndingRequest(job=job), limits.ENDING_ANSWER_S)
                except MeshdError as error:
                    log.debug("not told how a job ended", node=short(node), why=str(error))
                    continue
                if isinstance(answer, Ending) and (found := _read(job, answer.row)) is not None:
                    return found
        return None

    def answer(self, board: Switchboard, here: Here) -> None:
        """Answer the others' questions."""

        async def tell(node: NodeId, message: EndingRequest) -> Message:
            del node
            found = await here(job_name(message.job))
            row = b"" if found is None else msgspec.msgpack.encode(found)
            return Ending(row=row if len(row) <= limits.ENDING_BYTES else b"")

        board.answer(EndingRequest, tell)


def _read(job: int, row: bytes) -> FinishedJob | None:
    if not row:
        return None
    try:
        found = msgspec.msgpack.decode(row, type=FinishedJob)
    except msgspec.MsgspecError as error:
        log.debug("how a job ended could not be read", job=job_name(job), why=str(error))
        return None
    return found if found.id == job_name(job) and not is_blob(len(found.result)) else None
