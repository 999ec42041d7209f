"""Traces on their way: one batch a second, kept while there is no majority, each counted once."""

from __future__ import annotations

from pathlib import PurePosixPath
from random import Random

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from meshd import limits
from meshd.errors import MeshdError
from meshd.jobs import trace_rows
from meshd.jobs.traces import Traces
from meshd.ledger.session import MaybeWritten, NotWritten
from meshd.record.commands_registry import Trace
from meshd.record.events import Traced
from meshd.testing.disk import MemoryDisk
from tests.unit.jobs.samples import ended
from tests.unit.record.logs import Log

FOLDER = PurePosixPath("/data/traces")


class Entry:
    """A node with its disk, and a record that it may reach or not."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.log = Log()
        self.reaches = True
        self.is_told = True
        """Whether it learns what became of what it has written."""
        self.proposed_at: list[float] = []
        self.starts = 0
        self.asked = 0
        self.traces = self.scope = None  # type: Any

    async def write(self, command: Trace, timeout_s: float) -> object:
        self.proposed_at.append(trio.current_time())
        await trio.sleep(0.01)
        if self.reaches:
            self.log.by("attic", command)
        if self.reaches and self.is_told:
            return {}
        await trio.sleep(timeout_s)
        error: type[MeshdError] = MaybeWritten if self.reaches else NotWritten
        raise error("no majority")

    async def start(self, nursery: trio.Nursery) -> None:
        self.starts += 1
        self.traces = Traces(
            self.write, self.disk, FOLDER,
            start=self.starts, wall_unix_s=lambda: 1.79e9, randrange=Random(1).randrange,
        )  # fmt: skip
        self.scope = trio.CancelScope()

        async def run() -> None:
            with self.scope:
                await self.traces.run()

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()

    async def stop(self) -> None:
        self.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()

    def ask(self, count: int = 1) -> None:
        for _ in range(count):
            self.asked += 1
            self.traces.add(ended(self.asked))

    def told(self) -> list[str]:
        """The ids of all requests on record, in its order."""
        self.told_of = [event for event in self.log.events if isinstance(event, Traced)]
        rows = [trace_rows.read(row, event.by) for event in self.told_of for row in event.rows]
        return [row.id for row in rows if row is not None]

    @property
    def left_out(self) -> int:
        self.told()
        return sum(event.left_out for event in self.told_of)

    def names(self) -> list[str]:
        return [f"req_{n}" for n in range(1, self.asked + 1)]


@pytest.fixture
async def entry(nursery: trio.Nursery) -> Entry:
    made = Entry()
    await made.start(nursery)
    return made


async def test_what_comes_within_a_second_is_one_command_and_an_idle_node_writes_none(
    autojump_clock: MockClock,
    entry: Entry,
) -> None:
    await trio.sleep(3600)
    entry.ask()
    await trio.sleep(0.5)
    entry.ask(2)
    await trio.sleep(0.6)
    assert entry.told() == entry.names()
    assert len(entry.proposed_at) == 1
    await trio.sleep(3600)
    assert len(entry.proposed_at) == 1
    assert not entry.disk.files


async def test_there_is_at_most_one_command_a_second(
    autojump_clock: MockClock, entry: Entry
) -> None:
    for _ in range(100):
        entry.ask(3)
        await trio.sleep(0.1)
    await trio.sleep(3)
    assert entry.told() == entry.names()
    pauses = [b - a for a, b in zip(entry.proposed_at, entry.proposed_at[1:], strict=False)]
    assert min(pauses) >= limits.TRACE_BATCH_S


async def test_of_a_flood_there_is_a_sample_and_a_count(
    autojump_clock: MockClock, entry: Entry
) -> None:
    entry.ask(3 * limits.TRACES_FRESH)
    await trio.sleep(2)
    assert 100 < len(entry.told()) <= limits.TRACES_PER_COMMAND
    assert len(entry.told()) + entry.left_out == entry.asked


async def test_without_a_majority_they_wait_on_the_disk_and_are_told_once_in_order(
    autojump_clock: MockClock,
    entry: Entry,
) -> None:
    entry.reaches = False
    for _ in range(300):
        entry.ask(5)
        await trio.sleep(1)
    assert len(entry.disk.files) < 30  # those of several seconds are together
    assert all(path in entry.disk.private for path in entry.disk.files)
    entry.reaches = True
    await trio.sleep(60)
    assert entry.told() == entry.names()
    assert not entry.disk.files


async def test_what_may_have_been_written_is_proposed_again_and_counts_once(
    autojump_clock: MockClock, entry: Entry
) -> None:
    entry.is_told = False
    for _ in range(20):
        entry.ask()
        await trio.sleep(3)
    entry.is_told = True
    await trio.sleep(60)
    assert entry.told() == entry.names()


@pytest.mark.parametrize("reaches", [True, False])
@pytest.mark.parametrize("is_told", [True, False])
async def test_a_node_that_stops_and_starts_goes_on_where_it_was(
    autojump_clock: MockClock, entry: Entry, nursery: trio.Nursery, reaches: bool, is_told: bool
) -> None:
    chance = Random(f"{reaches} {is_told}")
    for _ in range(20):
        entry.reaches, entry.is_told = reaches, is_told
        entry.ask(chance.randrange(4))
        await trio.sleep(chance.random() * 8)
        entry.ask(chance.randrange(2))
        await entry.stop()
        entry.reaches = entry.is_told = True
        await entry.start(nursery)
    entry.ask()
    await trio.sleep(120)
    assert entry.told() == entry.names()
    assert not entry.disk.files


async def test_the_oldest_are_dropped_and_counted_when_too_many_wait(
    autojump_clock: MockClock, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TRACE_SPOOL_BATCHES", 5)
    entry.reaches = False
    for _ in range(20):
        entry.ask(100)
        await trio.sleep(5)
    assert len(entry.disk.files) <= 5
    entry.reaches = True
    await trio.sleep(60)
    entry.ask()
    await trio.sleep(10)
    told = entry.told()
    assert told == entry.names()[-len(told) :]
    assert 100 < len(told) < entry.asked
    assert len(told) + entry.left_out == entry.asked


async def test_a_full_disk_costs_traces_alone_and_says_so_once(
    autojump_clock: MockClock, entry: Entry
) -> None:
    entry.reaches = False
    entry.disk.capacity_bytes = 0
    with capture_logs() as logs:
        for _ in range(10):
            entry.ask(5)
            await trio.sleep(5)
    assert [line["log_level"] for line in logs].count("warning") == 1
    entry.disk.capacity_bytes = None
    entry.ask(5)
    await trio.sleep(20)
    entry.reaches = True
    await trio.sleep(60)
    entry.ask()
    await trio.sleep(5)
    assert len(entry.told()) + entry.left_out == entry.asked
    assert entry.told()[-6:] == entry.names()[-6:]


async def test_a_damaged_file_is_left_out_and_the_next_goes_on(
    autojump_clock: MockClock, entry: Entry, nursery: trio.Nursery
) -> None:
    entry.reaches = False
    entry.ask(2)
    await trio.sleep(6)
    await entry.stop()
    [path] = entry.disk.files
    entry.disk.write(path, b"\xc1 nothing", private=True)
    entry.disk.write(path.with_name("what is this"), b"", private=True)
    entry.reaches = True
    await entry.start(nursery)
    entry.ask()
    await trio.sleep(30)
    assert entry.told() == ["req_3"]
