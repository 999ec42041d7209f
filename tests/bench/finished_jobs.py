"""A million finished jobs: `python -m tests.bench.finished_jobs [ROWS]`; a table of times.

Run by hand: it takes a minute or two and half a gigabyte in the folder for temporary files.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from meshd.jobs import Attempt, Filter, FinishedJob, History
from meshd.machine.databases import RealDatabases

DICE = random.Random(1)
DAY_MS = 24 * 3600 * 1000
AN_ENTRY = 20


def job(number: int) -> FinishedJob:
    """As they come: mostly done, on one of five nodes, one of eight models."""
    failed = DICE.random() < 0.01
    node = f"node{DICE.randrange(5)}" + "x" * 21
    return FinishedJob(
        id=f"{DICE.getrandbits(128):032x}",
        state=DICE.choice(["failed", "cancelled", "dead"]) if failed else "done",
        queue=DICE.choice(["", "", "", "bots", "batch"]),
        model=f"llama3.{DICE.randrange(8)}:latest",
        node=node,
        entry=node,
        key_scope="local" if DICE.random() < 0.3 else None,
        attempts=(Attempt(node, "it broke"),) if failed else (Attempt(node, ""),),
        accepted_ms=number * 1000,
        started_ms=number * 1000 + 20,
        finished_ms=number * 1000 + 900,
        request_digest=f"{DICE.getrandbits(256):064x}",
        result_digest=f"{DICE.getrandbits(256):064x}",
        prompt_tokens=200,
        completion_tokens=300,
        error="the engine said no" if failed else "",
    )


class Lag:
    """How late the loop is, looked at every millisecond."""

    def __init__(self) -> None:
        self.late_s: list[float] = []

    async def run(self) -> None:
        while True:
            due = trio.current_time() + 0.001
            await trio.sleep_until(due)
            self.late_s.append(trio.current_time() - due)

    def take(self) -> str:
        late, self.late_s = sorted(self.late_s), []
        if not late:
            return "-"
        return f"p99 {late[int(len(late) * 0.99)] * 1e3:.1f}, worst {late[-1] * 1e3:.1f} ms"


async def timed(what: str, work: Callable[[], Awaitable[object]], times: int = 20) -> None:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - began) * 1e3)
    print(f"  {what:44} p50 {statistics.median(taken):8.2f} ms   worst {max(taken):8.2f} ms")


async def fill(history: History, rows: int, lag: Lag) -> None:
    taken, index = 0.0, 0
    for start in range(0, rows, 10_000):
        jobs = [job(number) for number in range(start, min(start + 10_000, rows))]
        began = time.perf_counter()
        for first in range(0, len(jobs), AN_ENTRY):
            index += 1
            history.add(index, jobs[first : first + AN_ENTRY])
        made = time.perf_counter()
        await trio.sleep(0.01)  # what making them has cost the loop is not the history's
        lag.late_s.clear()
        began += time.perf_counter() - made
        await history.settle()
        taken += time.perf_counter() - began
        if (start // 10_000) % 25 == 24:
            print(f"  {start + len(jobs):9,} rows, {(start + len(jobs)) / taken:9,.0f} rows/s")
    print(f"  loop while the last 10,000 were written: {lag.take()}")


async def main(rows: int) -> None:
    databases = RealDatabases()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        lag = Lag()
        history = History(databases, path, now_ms=lambda: rows * 1000, max_age_s=10**9)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lag.run)
            await trio.sleep(2)
            print(f"loop with nothing to do: {lag.take()}")
            nursery.start_soon(history.run)
            print(f"writing {rows:,} rows")
            await fill(history, rows, lag)
            nursery.cancel_scope.cancel()
        print_size(folder, rows)

        history = History(
            databases, path, now_ms=lambda: rows * 1000, max_rows=rows, max_age_s=10**9
        )
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(history.run)
            nursery.start_soon(lag.run)
            last = (await history.find(Filter(), count=1)).jobs[0]
            print(f"opened, first page: {(time.perf_counter() - began) * 1e3:.0f} ms")
            await ask(history, last, rows)
            print(f"  loop meanwhile: {lag.take()}")
            await grow(history, rows)
            print(f"  loop meanwhile: {lag.take()}")
            nursery.cancel_scope.cancel()


def print_size(folder: str, rows: int) -> None:
    size = sum(file.stat().st_size for file in Path(folder).iterdir())
    print(f"  {size / 1e6:,.0f} MB, {size / rows:,.0f} bytes a row")


async def ask(history: History, last: FinishedJob, rows: int) -> None:
    print("a page of 100")
    for what, where in (
        ("all", Filter()),
        ("done", Filter(state="done")),
        ("failed (0.3 %)", Filter(state="failed")),
        ("one model", Filter(model=last.model)),
        ("failed, one model, one node", Filter(state="failed", model=last.model, node=last.node)),
        ("a model and a queue", Filter(model=last.model, queue="batch")),
        ("nothing matches, one filter", Filter(model="none")),
        ("nothing matches, two common filters", Filter(state="done", queue="none")),
        ("since an hour ago, failed", Filter(state="failed", since_ms=rows * 1000 - 3_600_000)),
        ("done, of a node that had none", Filter(state="done", node="none", queue="")),
    ):
        await timed(what, lambda where=where: history.find(where))  # type: ignore[misc]
    middle = f"{rows * 500 + 900}-{10**17}"
    await timed("from the middle on", lambda: history.find(Filter(), cursor=middle))
    await timed("one job by its id", lambda: history.get(last.id))
    await timed("a job that is not there", lambda: history.get("none"))


async def grow(history: History, rows: int) -> None:
    print("at the limit of rows: each batch is written, and as many old ones go")
    index = rows

    async def batch() -> None:
        nonlocal index
        index += 1
        history.add(index, [job(rows + place) for place in range(AN_ENTRY)])
        await history.settle()

    await timed(f"{AN_ENTRY} more rows, synced", batch, times=200)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
