"""From what applying the log brought about to rows of the histories.

    finishing = Finishing(history, requests)
    record.on_events(finishing.happened)            # at once, each time commands were applied
    await finishing.settle()                        # before the log is cut off

What is applied twice (a restart replays the log behind the last snapshot; a ledger whose disk
failed begins anew within a process) is written once: a row's number is its place in the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Final

from meshd.jobs import trace_rows
from meshd.jobs.blob_plan import is_blob
from meshd.jobs.blobs import Blobs
from meshd.jobs.finished import Attempt, FinishedJob
from meshd.jobs.history import History
from meshd.record.events import Event, JobFinished, Traced
from meshd.record.job_rows import AttemptEnd, AttemptRow, JobState, job_name

MOVED: Final = "another node went on with it"
_ENDS: Final = {
    AttemptEnd.FAILED: "failed",
    AttemptEnd.EXPIRED: "lease expired",
    AttemptEnd.RELEASED: "given back",
    AttemptEnd.NODE_REMOVED: "node removed",
    AttemptEnd.MOVED: MOVED,
}
ENDED: Final = {reason: end.name.lower() for end, reason in _ENDS.items() if reason != "failed"}
"""From an attempt's reason as it is kept to how it ended, where that was no failure."""


def finished_of(event: JobFinished) -> FinishedJob:
    """The row of a job that is over.  Nodes are ids: names change."""
    row, claim = event.row, event.row.claim
    attempts = [_attempt(attempt) for attempt in row.attempts]
    last = row.attempts[-1] if row.attempts else None
    node, started_ms = (last.node, last.claimed_unix_ms) if last else ("", None)
    if claim is not None:
        node, started_ms = claim.node, claim.claimed_unix_ms
        if event.runs:
            attempts += [Attempt(run.node, run.failure, run.way) for run in event.runs]
        else:
            attempts.append(Attempt(node, "" if event.state is JobState.DONE else event.reason))
    return FinishedJob(
        id=job_name(row.id),
        state=event.state.name.lower(),
        accepted_ms=row.accepted_unix_ms,
        finished_ms=event.finished_unix_ms,
        started_ms=started_ms,
        queue=row.queue,
        model=row.request.model,
        node=node,
        entry=row.entry,
        key_scope=row.keys[0][0] if row.keys else None,
        attempts=tuple(attempts),
        request_digest=row.request.digest.hex(),
        result_digest=event.digest.hex(),
        error=event.reason,
        request_size_bytes=row.request.size_bytes,
        result=event.inline,
        result_size_bytes=event.size_bytes,
        status=event.status,
        run_ms=event.run_ms,
        path=row.request.path,
    )


def _attempt(attempt: AttemptRow) -> Attempt:
    return Attempt(attempt.node, attempt.reason or _ENDS[attempt.end])


async def result_of(job: FinishedJob, blobs: Blobs) -> bytes | None:
    """What came out of a finished job; None if it is kept no longer, or nobody has it now."""
    if not is_blob(job.result_size_bytes):
        return job.result
    return await blobs.get(bytes.fromhex(job.result_digest))


class Finishing:
    """Hands what is over to its history, each entry once and whole."""

    def __init__(self, history: History, requests: History) -> None:
        """`history` is of jobs, `requests` of what was answered without one."""
        self._history = history
        self._requests = requests
        self.counters: Counter[str] = Counter()

    def happened(self, events: Sequence[Event]) -> None:
        """Events as `RecordMachine.take_events` gives them: in order, all of an entry at once.

        No wait, no I/O.  What was added in this life already is left out.
        """
        for index, group in groupby(events, key=lambda event: event.index):
            told = list(group)
            jobs = [finished_of(event) for event in told if isinstance(event, JobFinished)]
            if jobs and index > self._history.last_index:
                self._history.add(index, jobs)
            traces = [event for event in told if isinstance(event, Traced)]
            if traces and index > self._requests.last_index:
                self._trace(index, traces)

    def _trace(self, index: int, traces: Sequence[Traced]) -> None:
        """Their rows are read by the history's own thread: a replay has very many of them."""
        rows = [partial(trace_rows.read, row, event.by) for event in traces for row in event.rows]
        self._requests.add(index, rows)
        self.counters["traces_left_out"] += sum(event.left_out for event in traces)

    async def settle(self) -> None:
        """Until what happened so far needs the log no more.

        To be awaited by whoever cuts the log off, after the events of all that was applied were
        handed to `happened` and before the entries that brought them about are deleted: in
        `Driver._snapshot_if_due`, that is `self._stepped()` and then this, between
        `take_snapshot` and `store.save`.  A replay that is longer than
        `limits.HISTORY_PENDING_ROWS` should await it now and then too, or its oldest rows are
        dropped for want of room.  Returns at once while a history is stopped: nothing in the
        daemon waits for that disk.
        """
        await self._history.settle()
        await self._requests.settle()
