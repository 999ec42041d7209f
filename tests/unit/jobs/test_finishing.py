"""Rows of the history, from what the reducers tell; whatever is told twice is written once."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import PurePosixPath

import trio
from trio.testing import MockClock

from meshd import limits
from meshd.jobs import Attempt, Filter, FinishedJob, History, trace_rows
from meshd.jobs.finishing import Finishing, finished_of, result_of
from meshd.record.commands_jobs import Cancel, Expire, Fail, RequestFields
from meshd.record.commands_registry import Trace
from meshd.record.events import Event, JobFinished
from meshd.record.job_rows import job_name
from meshd.record.state import RecordState
from meshd.testing.database import MemoryDatabases
from tests.unit.jobs.blob_nodes import blob_nodes
from tests.unit.jobs.samples import ended, finished
from tests.unit.record.logs import START_MS, Log, id_of
from tests.unit.record.made import RESULT, accept, complete, submit, take

PATH = PurePosixPath("/data/history.db")
REQUESTS = PurePosixPath("/data/requests.db")


@asynccontextmanager
async def history_of(databases: MemoryDatabases) -> AsyncIterator[tuple[History, Finishing]]:
    async with trio.open_nursery() as nursery:
        jobs, requests = (
            History(databases, path, now_ms=lambda: START_MS) for path in (PATH, REQUESTS)
        )
        nursery.start_soon(jobs.run)
        nursery.start_soon(requests.run)
        yield jobs, Finishing(jobs, requests)
        nursery.cancel_scope.cancel()


def last(log: Log) -> FinishedJob:
    """The row of the job that was over last."""
    event = log.events[-1]
    assert isinstance(event, JobFinished)
    return finished_of(event)


# --- one row


def test_a_keyed_request_that_was_answered() -> None:
    log = Log("mini", "studio")
    job = log.by("mini", accept())
    log.tick(2000)
    log.by("mini", complete(job["job"], job["fence"], inline=b"result", run_ms=1234))
    assert last(log) == FinishedJob(
        id=job_name(job["job"]),
        state="done",
        accepted_ms=START_MS,
        started_ms=START_MS,
        finished_ms=START_MS + 2000,
        model="llama3",
        node=id_of("mini"),
        entry=id_of("mini"),
        key_scope="local",
        attempts=(Attempt(id_of("mini"), ""),),
        request_digest="00" * 32,
        request_size_bytes=300,
        result_digest=RESULT.hex(),
        result=b"result",
        result_size_bytes=6,
        status=200,
        run_ms=1234,
        path="/v1/chat/completions",
    )


def test_a_job_that_was_tried_until_it_was_dead() -> None:
    log = Log("mini", "studio")
    job = log.by("attic", submit(max_attempts=2))["job"]
    fence = log.by("mini", take())["fence"]
    log.do(Expire(job=job, fence=fence))
    log.tick(1000)
    fence = log.by("studio", take())["fence"]
    log.tick(1000)
    log.by("studio", Fail(job=job, fence=fence, reason="no such tool"))
    row = last(log)
    assert (row.state, row.error, row.queue) == ("dead", "no such tool", "bots")
    assert row.attempts == (
        Attempt(id_of("mini"), "lease expired"), Attempt(id_of("studio"), "no such tool"),
    )  # fmt: skip
    assert (row.node, row.entry) == (id_of("studio"), id_of("attic"))
    assert (row.started_ms, row.finished_ms) == (START_MS + 1000, START_MS + 2000)
    assert (row.result, row.result_digest, row.key_scope) == (b"", "", None)


def test_a_job_that_never_ran() -> None:
    log = Log("mini")
    log.by("mini", Cancel(job=log.by("mini", submit())["job"]))
    row = last(log)
    assert (row.state, row.node, row.started_ms, row.attempts) == ("cancelled", "", None, ())


def test_a_job_whose_error_is_the_answer() -> None:
    log = Log("mini")
    job = log.by("mini", accept())
    error = b'{"error":"no"}'
    log.by(
        "mini",
        Fail(
            job=job["job"], fence=job["fence"], reason="bad request", final=True, status=400,
            digest=hashlib.sha256(error).digest(), size_bytes=len(error), inline=error, run_ms=5,
        ),
    )  # fmt: skip
    row = last(log)
    assert (row.state, row.status, row.result, row.error) == ("failed", 400, error, "bad request")
    assert row.attempts == (Attempt(id_of("mini"), "bad request"),)


# --- into the history


def jobs_and_traces(log: Log) -> None:
    """A few of everything, several of them over by one command."""
    for number in range(5):
        job = log.by("mini", accept() if number == 0 else submit(deadline_unix_ms=START_MS + 9))
        if number == 0:
            log.by("mini", complete(job["job"], job["fence"], inline=b"result"))
    log.tick(10)
    traces = [trace_rows.pack(ended(n), START_MS / 1000) for n in (1, 2)]
    rows = (traces[0], b"of a later version", traces[1])
    log.by("studio", Trace(rows=rows, left_out=3))
    log.by("studio", Cancel(job=log.by("mini", submit())["job"]))


def replayed(log: Log) -> list[Event]:
    """What a node is told that applies the log from its beginning."""
    state = RecordState()
    for index, entry in enumerate(log.entries, 1):
        state.apply(index, entry)
    return state.take_events()


def ids(databases: MemoryDatabases) -> list[list[tuple[int, str]]]:
    """What is in each of the two."""
    rows = "SELECT row, id FROM jobs ORDER BY row"
    return [databases.files[path].execute(rows).fetchall() for path in (PATH, REQUESTS)]


def in_turns(events: Sequence[Event], most: int) -> list[list[Event]]:
    """As a driver hands them over: entries whole, several at a time."""
    turns: list[list[Event]] = [[]]
    for event in events:
        if len(turns[-1]) >= most and turns[-1][-1].index != event.index:
            turns.append([])
        turns[-1].append(event)
    return turns


async def test_all_that_is_over_is_in_the_history_once(autojump_clock: MockClock) -> None:
    log = Log("mini", "studio")
    jobs_and_traces(log)
    databases = MemoryDatabases()
    events = replayed(log)
    async with history_of(databases) as (history, finishing):
        finishing.happened(events)
        finishing.happened(events)  # a ledger that began anew within the process
        await finishing.settle()
        written = ids(databases)
        jobs, requests = written
        assert len(jobs) == len({row for row, _ in jobs}) == 1 + 4 + 1
        assert [name for _, name in requests] == ["req_1", "req_2"]
        assert finishing.counters["traces_left_out"] == 3
        done = await history.find(Filter(state="done", queue="", model="llama3"))
        assert done.jobs[0].result == b"result"
    for most in (1, 3, 1000):
        async with history_of(databases) as (_, finishing):
            for turn in in_turns(events, most):
                finishing.happened(turn)
            await finishing.settle()
            assert ids(databases) == written


async def test_a_node_that_crashed_at_any_entry_ends_up_with_the_same_rows(
    autojump_clock: MockClock,
) -> None:
    log = Log("mini", "studio")
    jobs_and_traces(log)
    events = replayed(log)
    whole = MemoryDatabases()
    async with history_of(whole) as (_, finishing):
        finishing.happened(events)
        await finishing.settle()
    for crash in range(1, len(log.entries)):
        databases = MemoryDatabases()
        async with history_of(databases) as (_, finishing):
            finishing.happened([event for event in events if event.index <= crash])
            await finishing.settle()
        async with history_of(databases) as (_, finishing):
            finishing.happened([event for event in events if event.index > crash // 2])
            await finishing.settle()
        assert ids(databases) == ids(whole)


async def test_a_result_is_in_the_history_or_a_blob(autojump_clock: MockClock) -> None:
    async with blob_nodes("abcd") as town:
        large = bytes(limits.INLINE_BYTES + 1)
        digest = await town["a"].runs.put(large)
        small = finished(1, result=b"out", result_size_bytes=3, result_digest="ff")
        blob = finished(2, result_digest=digest.hex(), result_size_bytes=len(large))
        gone = finished(3, result_digest="00" * 32, result_size_bytes=len(large))
        assert await result_of(small, town["d"].runs) == b"out"
        assert await result_of(blob, town["d"].runs) == large
        assert await result_of(gone, town["d"].runs) is None
        assert await result_of(finished(4), town["d"].runs) == b""


def test_what_a_job_asks_for_is_named_by_its_size() -> None:
    log = Log("mini")
    request = RequestFields(digest=b"\1" * 32, size_bytes=9000, path="/v1/embeddings", model="m")
    job = log.by("mini", accept(request=request))
    log.by("mini", complete(job["job"], job["fence"], size_bytes=70_000))
    row = last(log)
    assert (row.request_digest, row.request_size_bytes) == ("01" * 32, 9000)
    assert (row.result, row.result_size_bytes) == (b"", 70_000)
