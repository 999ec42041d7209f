"""What the command line asks and orders about jobs, over the control socket (trio shell)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from meshd import control, limits
from meshd.errors import Refused
from meshd.jobs.orders import Order
from meshd.jobs.request_views import RequestsPage, RequestView
from meshd.jobs.requests import Requests
from meshd.jobs.service import JobService
from meshd.jobs.views import JobsPage, JobView

WAIT_S = 30.0
"""For a job to be over, within one order; the command line asks again."""


class JobOrders:
    """The same services as behind `/mesh/v1/jobs` and `/mesh/v1/requests`.  Raises as they do."""

    def __init__(
        self, jobs: JobService, requests: Requests, unknown: Callable[[str], list[str] | None]
    ) -> None:
        """`unknown`: names near that of a model which no node has now; None: some node has it."""
        self._jobs = jobs
        self._unknown = unknown
        self._requests = requests

    def routes(self) -> dict[tuple[str, str], Callable[[bytes], Awaitable[Any]]]:
        """For the table of `AdminApi`."""
        return {
            ("POST", "/control/jobs"): self._page,
            ("POST", "/control/jobs/show"): self._show,
            ("POST", "/control/jobs/cancel"): self._cancel,
            ("POST", "/control/jobs/retry"): self._retry,
            ("POST", "/control/jobs/submit"): self._submit,
            ("POST", "/control/requests"): self._requests_page,
            ("POST", "/control/requests/show"): self._request,
        }

    async def _page(self, body: bytes) -> JobsPage:
        query = msgspec.json.decode(body or b"{}", type=control.JobsQuery)
        _check_limit(query.limit)
        return await self._jobs.page(
            state=query.state,
            queue=query.queue,
            model=query.model,
            node=query.node,
            after="",
            most=query.limit,
        )

    async def _show(self, body: bytes) -> JobView:
        query = msgspec.json.decode(body, type=control.JobQuery)
        return await self._jobs.until_over(query.id, min(query.wait_s, WAIT_S))

    async def _cancel(self, body: bytes) -> JobView:
        return await self._jobs.cancel(msgspec.json.decode(body, type=control.JobQuery).id)

    async def _retry(self, body: bytes) -> JobView:
        return await self._jobs.retry(msgspec.json.decode(body, type=control.JobQuery).id)

    async def _submit(self, body: bytes) -> control.JobMade:
        order = msgspec.json.decode(body, type=Order)
        made = await self._jobs.submit(order)
        return msgspec.convert({**made, "note": self._note(order)}, control.JobMade)

    def _note(self, order: Order) -> str:
        """A job may wait for a model that comes later; mostly its name is misspelt."""
        model = order.request.body["model"] if order.request is not None else ""
        near = self._unknown(model) if model else None
        if near is None:
            return ""
        meant = f"; there is {', '.join(near)}" if near else ""
        return f"no node of the mesh has the model {model} now, so the job waits for one{meant}"

    async def _requests_page(self, body: bytes) -> RequestsPage:
        query = msgspec.json.decode(body or b"{}", type=control.RequestsQuery)
        _check_limit(query.limit)
        return await self._requests.page(
            state=query.state, model=query.model, node=query.node, after="", most=query.limit
        )

    async def _request(self, body: bytes) -> RequestView:
        return await self._requests.get(msgspec.json.decode(body, type=control.JobQuery).id)


def _check_limit(limit: int) -> None:
    if not 0 < limit <= limits.JOBS_PAGE:
        raise Refused(f"the limit must be from 1 to {limits.JOBS_PAGE}")
