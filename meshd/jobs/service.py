"""Jobs for people and programs: what the HTTP API and the command line ask for (trio shell).

Everything that changes something is a command of this node's session, so it takes effect once;
everything that is read is read from the state as it is here (`barrier` first, for a read that must
not be stale).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import trio

from meshd import limits
from meshd.errors import MeshdError, Refused
from meshd.ids import NodeId
from meshd.jobs.blob_plan import is_blob
from meshd.jobs.contents import body_of, store
from meshd.jobs.duties import WRITE_S, Duties
from meshd.jobs.finished import FinishedJob
from meshd.jobs.finishing import ENDED, finished_of
from meshd.jobs.history import History
from meshd.jobs.history_rows import Filter
from meshd.jobs.holding import Bodies
from meshd.jobs.orders import RUN_QUEUE, Order, check_queue, check_workers_queue
from meshd.jobs.views import (
    OVER,
    Attempt,
    JobsPage,
    JobView,
    as_json,
    holder_of,
    pack,
    state_named,
    view_of,
)
from meshd.jobs.webhook_form import WebhookRules
from meshd.ledger.ledger import Ledger
from meshd.modelnames import normalise
from meshd.record import commands_jobs as commands
from meshd.record.events import Event, JobFinished
from meshd.record.job_rows import JOBS_PER_COMMAND, JobRow, JobState, job_name, parse_job_name


class NoSuchJob(Refused):
    """There is none, or none any more."""


class NotRead(MeshdError):
    """This node has just started, and does not know yet what the record holds."""


class JobService:
    """The jobs of the mesh, from this node."""

    def __init__(
        self,
        ledger: Ledger,
        name_of: Callable[[NodeId], str],
        node_called: Callable[[str], NodeId],
        history: History,
        bodies: Bodies,
        duties: Duties,
        webhooks: WebhookRules,
        elsewhere: Callable[[int], Awaitable[FinishedJob | None]],
    ) -> None:
        """`node_called` finds a node by name or id, or raises NoSuchNode.

        `history` is this node's, of jobs that are over, and `elsewhere` asks other nodes of theirs;
        `bodies` has their larger results.
        """
        self._ledger = ledger
        self.name_of = name_of
        self._node_called = node_called
        self._history = history
        self._bodies = bodies
        self._duties = duties
        self._webhooks = webhooks
        self._elsewhere = elsewhere
        self._recent: OrderedDict[int, JobFinished] = OrderedDict()
        self._changed = trio.Event()

    # ---------------------------------------------------------------- what others tell

    def happened(self, events: Sequence[Event]) -> None:
        """Events that were just applied here, in order."""
        for event in events:
            if isinstance(event, JobFinished):
                self._recent[event.row.id] = event
                self._recent.move_to_end(event.row.id)
                while len(self._recent) > limits.JOBS_RECENT:
                    self._recent.popitem(last=False)
        self._changed.set()
        self._changed = trio.Event()

    def change(self) -> trio.Event:
        """Set when something more is applied here.  Take it before looking, then wait for it."""
        return self._changed

    async def finished(self, name: str) -> FinishedJob | None:
        """A job that is over, if that is not long ago or a history has it, here or elsewhere.

        Raises NoSuchJob for what is no name of one, Refused if the history cannot be read.
        """
        found = await self.finished_here(name)
        if found is not None or not self._may_be_over(id_named(name)):
            return found
        return await self._elsewhere(id_named(name))

    async def finished_here(self, name: str) -> FinishedJob | None:
        """The same, and raises the same, of what this node knows itself."""
        event = self._recent.get(id_named(name))
        if event is not None and self._ledger.state.jobs.live.get(event.row.id) is None:
            return finished_of(event)
        return await self._history.get(name)

    def _may_be_over(self, job: int) -> bool:
        """Whether it may have been over before this node had heard of it: see `endings`."""
        state = self._ledger.state
        lives = state.jobs.live.get(job) is not None or state.jobs.dead.get(job) is not None
        return not lives and job // JOBS_PER_COMMAND <= state.index

    async def barrier(self) -> int:
        """Make what is read next hold all that was acknowledged before this call."""
        return await self._ledger.read_barrier()

    async def now_unix_ms(self) -> int:
        """For what counts from now: see `Duties.now_unix_ms`."""
        return await self._duties.now_unix_ms()

    # ---------------------------------------------------------------- reading

    @property
    def index(self) -> int:
        """How much of the record the state here holds."""
        return self._ledger.state.index

    @property
    def age_s(self) -> float | None:
        """What was acknowledged so long ago, anywhere, is in it; None: that cannot be told."""
        driver = self._ledger.driver
        heard_at = driver.status().heard_at if driver is not None else -math.inf
        return None if heard_at == -math.inf else max(0.0, trio.current_time() - heard_at)

    async def whole(self, name: str) -> JobView:
        """One job as `get` gives it, and its request too if that is not in the log."""
        view = await self.get(name)
        jobs, job = self._ledger.state.jobs, id_named(name)
        row = jobs.live.get(job) or jobs.dead.get(job)
        if row is None or not view.request_size_bytes:
            return view
        body = await body_of(row.request, self._bodies)
        return view if body is None else msgspec.structs.replace(view, request=as_json(body))

    async def get(self, name: str) -> JobView:
        """One job, and of its request what is in the log.  Raises NoSuchJob, NotRead."""
        view, size_bytes, digest = await self._find(name)
        return await self._with_result(view, size_bytes, digest)

    async def outline(self, name: str) -> JobView:
        """The same without a result that is not in the log."""
        return (await self._find(name))[0]

    async def _find(self, name: str) -> tuple[JobView, int, bytes]:
        """A job, and size and digest of its result."""
        job = id_named(name)
        event, lives = self._recent.get(job), self._ledger.state.jobs.live.get(job) is not None
        if event is not None and not lives:
            return self._view_of_end(event), event.size_bytes, event.digest
        if (known := self.now(job)) is not None:
            return known, 0, b""
        old = await self.finished(name)
        if old is None and not self._ledger.state.nodes.is_founded:
            raise NotRead("this node has not heard yet what the record holds; ask again soon")
        if old is None:
            raise NoSuchJob(f"there is no job {name}, or it is not remembered any more")
        view = self._with_webhook(job, _view_of_old(old, self.name_of))
        return view, old.result_size_bytes, bytes.fromhex(old.result_digest)

    def _with_webhook(self, job: int, view: JobView) -> JobView:
        """With what became of its webhook, as long as the record says so."""
        notice = self._ledger.state.jobs.notices.get(job)
        if notice is None:
            return view
        became = f"given up: {notice.given_up}" if notice.given_up else "to be told"
        return msgspec.structs.replace(view, webhook=became)

    async def _with_result(self, view: JobView, size_bytes: int, digest: bytes) -> JobView:
        """With a result that is not in the log, if anybody who keeps it can be asked now."""
        if not is_blob(size_bytes):
            return view
        data = await self._bodies.get(digest)
        if data is None:
            return msgspec.structs.replace(view, result_is_away=True)
        return msgspec.structs.replace(view, result=as_json(data))

    def now(self, job: int) -> JobView | None:
        """One job, as far as memory knows."""
        jobs = self._ledger.state.jobs
        if (row := jobs.live.get(job)) is not None:
            return view_of(row, self.name_of)
        if (event := self._recent.get(job)) is not None:
            return self._view_of_end(event)
        if (row := jobs.dead.get(job)) is not None:
            return view_of(row, self.name_of, state=JobState.DEAD)
        return None

    async def until_over(self, name: str, wait_s: float) -> JobView:
        """One job, when it is over or that time has passed.  Raises as `get`."""
        give_up_at = trio.current_time() + wait_s
        while True:
            changed = self._changed
            view = await self.get(name)
            if view.state in OVER:
                return view
            with trio.move_on_at(give_up_at) as scope:
                await changed.wait()
            if scope.cancelled_caught:
                return view

    async def page(
        self, *, state: str, queue: str, model: str, node: str, after: str, most: int
    ) -> JobsPage:
        """Jobs that live, or those in that state; `node` is who has or last had them.

        What lives or is kept as dead, in the order of the ids; what is over, the newest first, as
        far as the history here goes, and without results that are not in the log.
        """
        wanted = state_named(state) if state else None
        model = normalise(model) if model else ""
        at = self._node_called(node) if node else ""
        if wanted in (JobState.DONE, JobState.FAILED, JobState.CANCELLED):
            where = Filter(
                state=state.lower(), queue=queue or None, model=model or None, node=at or None
            )
            page = await self._history.find(where, cursor=after, count=most)
            return JobsPage([_view_of_old(old, self.name_of) for old in page.jobs], page.next)
        jobs = self._ledger.state.jobs
        start = id_named(after) if after else 0

        def fits(row: JobRow) -> bool:
            return (
                (not queue or row.queue == queue)
                and (not model or row.request.model == model)
                and (not at or holder_of(row) == at)
            )

        if wanted is JobState.DEAD:
            dead = [row for row in jobs.dead.rows() if row.id > start and fits(row)]
            found = [view_of(row, self.name_of, state=JobState.DEAD) for row in dead[:most]]
        else:
            living = jobs.live.page(
                start, most, lambda row: fits(row) and wanted in (None, row.state)
            )
            found = [view_of(row, self.name_of) for row in living]
        return JobsPage(found, found[-1].id if len(found) == most else "")

    # ---------------------------------------------------------------- putting in

    async def submit(self, order: Order, key: commands.KeyFields | None = None) -> dict[str, Any]:
        """Put a job into its queue; `id`, `jobs` (how many), `state`, and whether it is `new`.

        With a key that is known, nothing is put in: it is told what was, and what became of it.

        Raises Refused, RecordRefused, TooLarge, BlobNotStored, NotWritten, MaybeWritten.
        """
        path, model, data = _asked(order)
        if order.queue:
            check_queue(order.queue)
        if order.webhook:
            self._webhooks.target(order.webhook)
        content = await store(data, self._bodies)
        request = commands.RequestFields(
            digest=content.digest,
            size_bytes=content.size_bytes,
            inline=content.inline,
            path=path,
            model=model,
        )
        now_ms = await self.now_unix_ms()
        result = await self._ledger.execute(
            commands.Submit(
                queue=order.queue or RUN_QUEUE,
                request=request,
                priority=order.priority,
                not_before_unix_ms=now_ms + int(order.delay_s * 1000) if order.delay_s else 0,
                deadline_unix_ms=now_ms + int(order.deadline_s * 1000) if order.deadline_s else 0,
                max_attempts=order.max_attempts,
                dedupe=order.dedupe_key,
                to_all=order.to.all,
                to_label=order.to.label,
                to_node=order.to.node,
                webhook=order.webhook,
                key=key,
            ),
            timeout_s=WRITE_S,
        )
        return {
            "id": job_name(result["job"]),
            "jobs": result["jobs"],
            # A key that stands for several jobs does not say what became of each.
            "state": JobState(result["state"] or JobState.QUEUED).name.lower(),
            "new": result["new"],
        }

    async def cancel(self, name: str) -> JobView:
        """Cancel it, and stop whoever runs it.  Raises NoSuchJob and as `submit`."""
        job = id_named(name)
        await self._ledger.execute(commands.Cancel(job=job))
        return await self.get(name)

    async def retry(self, name: str) -> JobView:
        """Put a dead job into its queue again."""
        await self._ledger.execute(commands.Retry(job=id_named(name)))
        return await self.get(name)

    # ---------------------------------------------------------------- small things

    def _view_of_end(self, event: JobFinished) -> JobView:
        view = view_of(event.row, self.name_of, state=event.state)
        view = self._with_webhook(event.row.id, view)
        return msgspec.structs.replace(
            view,
            attempts=[*view.attempts, *_runs_before_the_last(event, self.name_of)],
            way=event.runs[-1].way if event.runs else "",
            finished_unix_s=event.finished_unix_ms / 1000,
            status=event.status,
            reason=event.reason,
            result=as_json(event.inline),
            request=None,
        )


def _runs_before_the_last(event: JobFinished, name_of: Callable[[NodeId], str]) -> list[Attempt]:
    """Those on engines that did not end the job."""
    return [
        Attempt(name_of(NodeId(run.node)), "failed", run.failure, run.way)
        for run in event.runs[:-1]
    ]


def _asked(order: Order) -> tuple[str, str, bytes]:
    """Path, model and body of a request, or "", "" and the payload.  Raises Refused."""
    if (order.request is None) == (order.payload is msgspec.UNSET):
        raise Refused("a job has either a request (for a model) or a payload (for workers)")
    if order.request is None:
        if not order.queue:
            raise Refused("a job for workers needs a queue")
        check_workers_queue(order.queue)
        return "", "", pack(order.payload)
    model = order.request.body.get("model")
    if not isinstance(model, str) or not model:
        raise Refused("request.body.model must name a model")
    body = {**order.request.body, "stream": False}
    return order.request.path, normalise(model), pack(body)


def id_named(name: str) -> int:
    """A job's number.  Raises NoSuchJob for what is no name of one."""
    job = parse_job_name(name)
    if job is None:
        raise NoSuchJob(f"{name[:64]!r} is no id of a job")
    return job


def _view_of_old(old: FinishedJob, name_of: Callable[[NodeId], str]) -> JobView:
    return JobView(
        id=old.id,
        state=old.state,
        accepted_unix_s=old.accepted_ms / 1000,
        queue=old.queue,
        model=old.model,
        node=name_of(NodeId(old.node)) if old.node else "",
        finished_unix_s=old.finished_ms / 1000,
        # The last one is how the job itself ended.
        attempts=[
            Attempt(
                name_of(NodeId(tried.node)),
                ENDED.get(tried.reason, "failed"),
                tried.reason,
                tried.way,
            )
            for tried in old.attempts[:-1]
        ],
        way=old.attempts[-1].way if old.attempts else "",
        status=old.status,
        reason=old.error,
        result=as_json(old.result),
    )
