"""Requests that were answered without a job, as this node's history has them (trio shell)."""

from __future__ import annotations

from collections.abc import Callable

from meshd.errors import Refused
from meshd.ids import NodeId
from meshd.jobs.history import History
from meshd.jobs.history_rows import Filter
from meshd.jobs.request_views import RequestsPage, RequestView, request_view_of
from meshd.modelnames import normalise

STATES = ("done", "failed", "cancelled")


class NoSuchRequest(Refused):
    """None with that id is in the history here."""


class Requests:
    """Looks requests up."""

    def __init__(
        self,
        history: History,
        name_of: Callable[[NodeId], str],
        node_called: Callable[[str], NodeId],
        left_out: Callable[[], int],
    ) -> None:
        """`node_called` finds a node by name or id, or raises NoSuchNode.

        `left_out`: how many requests were only counted.
        """
        self._history = history
        self._name_of = name_of
        self._node_called = node_called
        self._left_out = left_out

    async def page(
        self, *, state: str, model: str, node: str, after: str, most: int
    ) -> RequestsPage:
        """The newest first; empty: any.  `node` is the one that answered.  Raises Refused."""
        if state and state not in STATES:
            raise Refused(f"{state!r} is no state of a request; there are {', '.join(STATES)}")
        where = Filter(
            state=state or None,
            model=normalise(model) if model else None,
            node=self._node_called(node) if node else None,
        )
        page = await self._history.find(where, cursor=after, count=most)
        found = [request_view_of(row, self._name_of) for row in page.jobs]
        return RequestsPage(found, page.next, self._left_out())

    async def get(self, request_id: str) -> RequestView:
        """One by its `x-request-id`.  Raises NoSuchRequest, Refused."""
        row = await self._history.get(request_id)
        if row is None:
            raise NoSuchRequest(
                f"no request {request_id[:64]!r} is known here: it is written down a second or two "
                "after its end, and of very many at once only some are"
            )
        return request_view_of(row, self._name_of)
