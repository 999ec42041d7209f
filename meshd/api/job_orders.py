"""What the command line asks and orders about jobs, over the control socket (trio shell)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from meshd import control, limits
from meshd.errors import Refused
from meshd.jobs.orders import Order
from meshd.jobs.service import JobService
from meshd.jobs.views import JobsPage, JobView

WAIT_S = 30.0
"""For a job to be over, within one order; the command line asks again."""


class JobOrders:
    """The same `JobService` as behind `/mesh/v1/jobs`.  Raises as that does."""

    def __init__(self, jobs: JobService) -> None:
        self._jobs = jobs

    def routes(self) -> dict[tuple[str, str], Callable[[bytes], Awaitable[Any]]]:
        """For the table of `AdminApi`."""
        return {
            ("POST", "/control/jobs"): self._page,
            ("POST", "/control/jobs/show"): self._show,
            ("POST", "/control/jobs/cancel"): self._cancel,
            ("POST", "/control/jobs/retry"): self._retry,
            ("POST", "/control/jobs/submit"): self._submit,
        }

    async def _page(self, body: bytes) -> JobsPage:
        query = msgspec.json.decode(body or b"{}", type=control.JobsQuery)
        if not 0 < query.limit <= limits.JOBS_PAGE:
            raise Refused(f"the limit must be from 1 to {limits.JOBS_PAGE}")
        return await self._jobs.page(
            state=query.state, queue=query.queue, model=query.model, after="", most=query.limit
        )

    async def _show(self, body: bytes) -> JobView:
        query = msgspec.json.decode(body, type=control.JobQuery)
        return await self._jobs.until_over(query.id, min(query.wait_s, WAIT_S))

    async def _cancel(self, body: bytes) -> JobView:
        return await self._jobs.cancel(msgspec.json.decode(body, type=control.JobQuery).id)

    async def _retry(self, body: bytes) -> JobView:
        return await self._jobs.retry(msgspec.json.decode(body, type=control.JobQuery).id)

    async def _submit(self, body: bytes) -> control.JobMade:
        made = await self._jobs.submit(msgspec.json.decode(body, type=Order))
        return msgspec.convert(made, control.JobMade)
