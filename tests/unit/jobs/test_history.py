"""The history behind apply: batches, retention, and everything that a disk can do to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.errors import Refused
from meshd.jobs import Filter, FinishedJob, History, HistoryState, history_rows
from meshd.testing.database import MemoryDatabases
from tests.unit.jobs.samples import finished

PATH = PurePosixPath("/data/history.db")


class Bench:
    """One machine's databases, and histories of daemons that come and go on it."""

    def __init__(self, **settings: Any) -> None:
        self.databases = MemoryDatabases()
        self.settings = settings
        self.now_ms = 0
        self.index = 0
        self.history = self.fresh()
        self.scope = trio.CancelScope()

    def fresh(self) -> History:
        return History(self.databases, PATH, now_ms=lambda: self.now_ms, **self.settings)

    def add(self, *numbers: int, **fields: Any) -> None:
        self.index += 1
        self.history.add(self.index, [finished(number, **fields) for number in numbers])

    def written(self) -> list[str]:
        rows = self.databases.files[PATH].execute("SELECT id FROM jobs ORDER BY row").fetchall()
        return [job.removeprefix("job-").lstrip("0") or "0" for (job,) in rows]

    async def run(self) -> None:
        with trio.CancelScope() as self.scope:
            await self.history.run()


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Bench]:
    bench = Bench(**settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        yield bench
        bench.scope.cancel()


async def test_what_was_added_is_found_at_once_the_newest_first(autojump_clock: MockClock) -> None:
    async with running() as bench:
        bench.add(1, 2)
        bench.add(3)
        page = await bench.history.find(Filter())
        assert [job.id for job in page.jobs] == ["job-000003", "job-000002", "job-000001"]
        assert await bench.history.get("job-000002") == finished(2)
        assert await bench.history.get("job-000009") is None
        assert trio.current_time() < 0.01


async def test_adding_does_no_io_and_a_batch_waits_for_others(autojump_clock: MockClock) -> None:
    async with running() as bench:
        await trio.sleep(5)
        bench.add(1)
        assert bench.written() == []
        await trio.sleep(0.9)
        bench.add(2)
        assert bench.history.standing.pending == 2
        assert bench.written() == []
        await trio.sleep(0.2)
        assert bench.written() == ["1", "2"]
        assert bench.history.standing.pending == 0


async def test_under_load_there_is_one_batch_a_second(autojump_clock: MockClock) -> None:
    """Each is a sync of the disk."""
    async with running() as bench:
        counts = []
        for number in range(50):
            bench.add(number)
            await trio.sleep(0.1)
            counts.append(bench.history.standing.rows)
        assert 4 <= len(set(counts)) <= 7, counts


async def test_a_full_batch_does_not_wait(autojump_clock: MockClock) -> None:
    async with running() as bench:
        await trio.sleep(1)
        bench.add(*range(limits.HISTORY_BATCH_ROWS + 1))
        await trio.sleep(0.01)
        assert bench.history.standing.rows == limits.HISTORY_BATCH_ROWS


async def test_a_replay_writes_no_row_twice(autojump_clock: MockClock) -> None:
    bench = Bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        bench.add(1, 2)
        bench.add(3)
        await bench.history.settle()
        bench.scope.cancel()
    bench.history, bench.index = bench.fresh(), 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        bench.add(1, 2)
        bench.add(3)
        bench.add(4)
        await bench.history.settle()
        assert bench.written() == ["1", "2", "3", "4"]
        assert bench.history.standing.rows == 4
        bench.scope.cancel()


async def test_entries_come_in_their_order(autojump_clock: MockClock) -> None:
    history = Bench().history
    history.add(5, [])
    for index in (5, 4):
        with pytest.raises(ValueError, match=f"entry {index} was applied after entry 5"):
            history.add(index, [finished(1)])


async def test_what_is_pending_at_the_end_is_written(autojump_clock: MockClock) -> None:
    async with running() as bench:
        await trio.sleep(1)
        bench.add(1)
    assert bench.written() == ["1"]
    assert bench.history.standing.state is HistoryState.STOPPED
    with pytest.raises(Refused, match="This node is stopping"):
        await bench.history.find(Filter())


# --- retention


async def test_it_keeps_so_many_rows(autojump_clock: MockClock) -> None:
    async with running(max_rows=10) as bench:
        for number in range(1, 31):
            bench.add(number)
            await bench.history.settle()
        await trio.sleep(2)
        assert bench.written() == [str(number) for number in range(21, 31)]
        assert bench.history.standing.rows == 10


async def test_it_keeps_them_so_long_in_record_time_also_while_nothing_happens(
    autojump_clock: MockClock,
) -> None:
    async with running(max_age_s=60) as bench:
        bench.add(1, 50, 100)
        await trio.sleep(2)
        bench.now_ms = 100_000
        await trio.sleep(limits.HISTORY_TRIM_S)
        assert bench.written() == ["50", "100"]
        bench.now_ms = 10_000_000
        await trio.sleep(limits.HISTORY_TRIM_S)
        assert bench.written() == []
        assert bench.history.standing.rows == 0


async def test_a_lower_limit_is_kept_from_the_next_start_on(autojump_clock: MockClock) -> None:
    bench = Bench()
    for limit in (None, 3):
        bench.history = (
            bench.fresh()
            if limit is None
            else History(bench.databases, PATH, now_ms=lambda: 0, max_rows=limit)
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.run)
            if limit is None:
                bench.add(*range(1, 9))
                await bench.history.settle()
            await trio.sleep(1)
            bench.scope.cancel()
    assert bench.written() == ["6", "7", "8"]


# --- disks


async def test_a_full_disk_stops_it_and_room_lets_it_go_on(autojump_clock: MockClock) -> None:
    async with running() as bench:
        bench.add(1)
        await bench.history.settle()
        bench.databases.full = True
        bench.add(2)
        await bench.history.settle()
        standing = bench.history.standing
        assert standing.state is HistoryState.STOPPED
        assert "the disk is full" in standing.why
        assert standing.pending == 1
        # What is there can still be looked at, and nobody waits.
        assert [job.id for job in (await bench.history.find(Filter())).jobs] == ["job-000001"]
        await trio.sleep(3 * limits.HISTORY_RETRY_S)
        assert bench.history.standing.state is HistoryState.STOPPED
        bench.databases.full = False
        bench.add(3)
        await trio.sleep(limits.HISTORY_RETRY_S + 1)
        assert bench.written() == ["1", "2", "3"]
        assert bench.history.standing.state is HistoryState.OPEN
        assert bench.history.standing.why == ""


async def test_what_waits_for_a_full_disk_is_bounded_and_what_goes_is_counted(
    autojump_clock: MockClock,
) -> None:
    async with running() as bench:
        bench.databases.full = True
        many = limits.HISTORY_PENDING_ROWS + 7
        for number in range(many):
            bench.add(number)
        await trio.sleep(5)
        bench.add(many)
        assert bench.history.standing.pending == limits.HISTORY_PENDING_ROWS
        assert bench.history.standing.dropped == 8
        bench.databases.full = False
        await trio.sleep(limits.HISTORY_RETRY_S + 5)
        assert bench.history.standing.rows == limits.HISTORY_PENDING_ROWS
        assert bench.written()[0] == "8"
        assert bench.written()[-1] == str(many)


async def test_results_that_wait_for_a_full_disk_are_bounded_too(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HISTORY_PENDING_BYTES", 1_000_000)
    async with running() as bench:
        bench.databases.full = True
        result = bytes(limits.INLINE_BYTES)
        room = limits.HISTORY_PENDING_BYTES // len(result)
        assert room < limits.HISTORY_PENDING_ROWS
        for number in range(room + 5):
            bench.add(number, result=result)
        await trio.sleep(limits.HISTORY_RETRY_S * 3)
        assert bench.history.standing.dropped == 5
        bench.databases.full = False
        await trio.sleep(limits.HISTORY_RETRY_S + 30)
        assert bench.history.standing.rows == room
        for number in range(room + 5):
            bench.add(number, result=result)  # what was written has no part in the bound
        assert bench.history.standing.dropped == 10


async def test_a_place_is_kept_for_what_cannot_be_read(autojump_clock: MockClock) -> None:
    async with running() as bench:
        bench.history.add(1, [lambda: None, lambda: finished(1), lambda: None])
        bench.history.add(2, [lambda: None])
        await bench.history.settle()
        rows = bench.databases.files[PATH].execute("SELECT row FROM jobs").fetchall()
        assert rows == [(history_rows.row_number(1, 1),)]
        assert bench.history.last_index == 2


async def test_a_file_that_is_too_large_is_trimmed(autojump_clock: MockClock) -> None:
    async with running(max_bytes=10_000_000) as bench:
        result = bytes(limits.INLINE_BYTES)
        for number in range(3000):
            bench.add(number, result=result)
        await trio.sleep(limits.HISTORY_TRIM_S + 10)
        assert bench.history.standing.rows == 2000


async def test_a_file_that_cannot_be_opened_is_tried_again(autojump_clock: MockClock) -> None:
    bench = Bench()
    bench.databases.broken = "no such disk"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        bench.add(1)
        with pytest.raises(Refused, match=r"no history .* at this node: .*no such disk"):
            await bench.history.find(Filter())
        bench.databases.broken = ""
        await trio.sleep(limits.HISTORY_RETRY_S + 1)
        assert len((await bench.history.find(Filter())).jobs) == 1
        bench.scope.cancel()


async def test_a_damaged_file_is_set_aside_and_said(autojump_clock: MockClock) -> None:
    async with running() as bench:
        bench.add(1)
        await bench.history.settle()
        bench.databases.damaged.add(PATH)
        bench.add(2)
        await bench.history.settle()
        assert bench.history.standing.set_aside == "/data/history.db.damaged"
        assert bench.history.standing.state is HistoryState.OPEN
        assert bench.written() == ["2"]


async def test_damage_that_a_reader_finds_is_mended_too(autojump_clock: MockClock) -> None:
    async with running() as bench:
        bench.add(1)
        await trio.sleep(1)
        bench.databases.damaged.add(PATH)
        with pytest.raises(Refused, match="begins anew"):
            await bench.history.find(Filter())
        await trio.sleep(0.1)
        assert (await bench.history.find(Filter())).jobs == ()
        assert bench.history.standing.set_aside == "/data/history.db.damaged"


async def test_a_disk_that_damages_everything_gets_a_rest(autojump_clock: MockClock) -> None:
    class Cursed(MemoryDatabases):
        opened = 0

        def check(self, path: Any) -> None:
            self.opened += 1
            self.damaged.add(path)
            super().check(path)

    bench = Bench()
    cursed = Cursed()
    bench.history = History(cursed, PATH, now_ms=lambda: 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        await trio.sleep(10 * limits.HISTORY_RETRY_S)
        assert 5 <= cursed.opened <= 15
        assert bench.history.standing.state is HistoryState.STOPPED
        bench.scope.cancel()


async def test_a_file_of_a_later_version_stops_it_and_stays(autojump_clock: MockClock) -> None:
    bench = Bench()
    database = await bench.databases.open(PATH)
    await database.write(lambda sql: sql.execute("PRAGMA user_version = 99"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        bench.add(1)
        await trio.sleep(1)
        assert "by a later version of meshd" in bench.history.standing.why
        assert bench.history.standing.set_aside == ""
        bench.scope.cancel()


# --- those who ask


async def test_pages_are_bounded_whatever_is_asked_for(autojump_clock: MockClock) -> None:
    async with running() as bench:
        bench.add(*range(limits.HISTORY_PAGE_ROWS + 5))
        for asked, got in ((10**9, limits.HISTORY_PAGE_ROWS), (0, 1), (-3, 1), (4, 4)):
            assert len((await bench.history.find(Filter(), count=asked)).jobs) == got


async def test_filters_and_cursors_reach_the_table(autojump_clock: MockClock) -> None:
    async with running() as bench:
        for number in range(1, 10):
            bench.add(number, state="failed" if number % 2 else "done")
        found: list[FinishedJob] = []
        cursor = ""
        while True:
            page = await bench.history.find(Filter(state="failed"), cursor=cursor, count=2)
            found += page.jobs
            cursor = page.next
            if not cursor:
                break
        assert [job.id[-1] for job in found] == ["9", "7", "5", "3", "1"]


async def test_a_look_before_it_is_open_waits_for_that(autojump_clock: MockClock) -> None:
    bench = Bench()
    found: list[FinishedJob | None] = []

    async def look() -> None:
        found.append(await bench.history.get("job-000001"))

    async with trio.open_nursery() as nursery:
        bench.add(1)
        nursery.start_soon(look)
        await trio.sleep(1)
        assert not found
        nursery.start_soon(bench.run)
        await trio.sleep(1)
        bench.scope.cancel()
    assert found == [finished(1)]
