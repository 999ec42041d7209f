"""What workers outside ask for and say: claim, renew, complete, fail, release (trio shell)."""

from __future__ import annotations

from functools import partial

import msgspec
import trio

from meshd import limits, logs
from meshd.errors import MeshdError
from meshd.jobs.blob_plan import is_blob
from meshd.jobs.contents import Content, body_of, store
from meshd.jobs.holding import LEASE_MS, Bodies, keep_lease
from meshd.jobs.orders import ClaimOrder, Held, check_workers_queue
from meshd.jobs.service import JobService, id_named
from meshd.jobs.views import JobView, as_json, pack, view_of
from meshd.ledger.ledger import Ledger
from meshd.record import commands_jobs as commands
from meshd.record.job_rows import JobRow, job_name

log = logs.get("jobs")

AWAY_S = 5.0
"""Until a job whose payload cannot be had is offered again."""


class Workers:
    """The queues of the mesh, from this node, for those who work on what is in them."""

    def __init__(self, ledger: Ledger, jobs: JobService, bodies: Bodies) -> None:
        self._ledger = ledger
        self._jobs = jobs
        self._bodies = bodies

    async def claim(self, queue: str, order: ClaimOrder) -> list[JobView]:
        """The first jobs of a queue, payloads and all; waits for one if told to.

        Nothing is written while there is nothing to claim.  Raises Refused, RecordRefused,
        NotWritten, MaybeWritten.
        """
        check_workers_queue(queue)
        give_up_at = trio.current_time() + order.wait_s
        lanes = [(queue, "", ""), (queue, "", self._ledger.me)]
        while True:
            changed = self._jobs.change()
            if self._ledger.state.jobs.live.best(lanes) is not None:
                claimed = await self._ledger.execute(
                    commands.ClaimNext(
                        queue=queue,
                        lease_ms=int(order.lease_s * 1000),
                        most=order.most,
                        worker=order.worker,
                    )
                )
                rows = [self._ledger.state.jobs.live.get(job) for job in claimed["jobs"]]
                give_by = trio.current_time() + order.lease_s / 2
                given = [
                    await self._give(row, give_by)
                    for row in rows
                    # Its lease may be over by the time that this node hears of it.
                    if row is not None and _is_under(row, claimed["fence"])
                ]
                found = [view for view in given if view is not None]
                if found:
                    return found
            with trio.move_on_at(give_up_at) as scope:
                await changed.wait()
            if scope.cancelled_caught:
                return []

    async def _give(self, row: JobRow, give_by: float) -> JobView | None:
        """A job as its worker gets it; None if it was given back, since its payload is away."""
        body: bytes | None = None
        with trio.move_on_at(give_by):
            body = await body_of(row.request, self._bodies)
        if body is not None:
            view = view_of(row, self._jobs.name_of)
            return msgspec.structs.replace(view, request=as_json(body))
        assert row.claim is not None
        pause_ms = int(AWAY_S * 1000)
        back = commands.Release(job=row.id, fence=row.claim.fence, pause_ms=pause_ms)
        try:
            await self._ledger.execute(back)
        except MeshdError as error:
            # Other jobs of this claim may be whole; of this one the lease ends.
            log.info("a job was not given back", job=job_name(row.id), why=str(error))
        return None

    async def renew(self, held: Held) -> None:
        """The worker is still at it."""
        lease_ms = int(held.lease_s * 1000)
        await self._ledger.execute(
            commands.Renew(job=id_named(held.job), fence=held.fence, lease_ms=lease_ms)
        )

    async def complete(self, held: Held) -> None:
        """It is done, and this is the result.  Raises TooLarge and BlobNotStored too."""
        job, result = id_named(held.job), pack(held.result) if held.result is not None else b""
        content = await self._stored(job, held.fence, result)
        await self._ledger.execute(
            commands.Complete(
                job=job,
                fence=held.fence,
                digest=content.digest,
                size_bytes=content.size_bytes,
                inline=content.inline,
            )
        )

    async def _stored(self, job: int, fence: int, result: bytes) -> Content:
        """A large result takes its time on a slow link: the job stays the worker's meanwhile."""
        if not is_blob(len(result)) or len(result) > limits.BLOB_BYTES:
            return await store(result, self._bodies)
        asked_at = trio.current_time()
        await self._ledger.execute(commands.Renew(job=job, fence=fence, lease_ms=LEASE_MS))
        stored: Content | MeshdError
        async with trio.open_nursery() as nursery:
            # Should it be lost all the same, the record says so to `Complete`.
            keep = partial(keep_lease, asked_at=asked_at, lost=lambda why: None)
            nursery.start_soon(keep, self._ledger, job, fence)
            try:
                stored = await store(result, self._bodies)
            except MeshdError as error:
                stored = error
            nursery.cancel_scope.cancel()
        if isinstance(stored, MeshdError):
            raise stored
        return stored

    async def fail(self, held: Held) -> None:
        """It did not work: again after a pause, or, if `final`, never."""
        await self._ledger.execute(
            commands.Fail(
                job=id_named(held.job),
                fence=held.fence,
                reason=held.reason[: limits.NAME_CHARS],
                final=held.final,
                pause_ms=int(held.pause_s * 1000),
            )
        )

    async def release(self, held: Held) -> None:
        """Given back undone."""
        await self._ledger.execute(
            commands.Release(
                job=id_named(held.job), fence=held.fence, pause_ms=int(held.pause_s * 1000)
            )
        )


def _is_under(row: JobRow, fence: int) -> bool:
    """Whether that claim is the one under which it is held."""
    return row.claim is not None and row.claim.fence == fence
