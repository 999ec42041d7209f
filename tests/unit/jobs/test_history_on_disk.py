"""The history on a real disk: kill -9 in the middle of batches, damage, a disk without room."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshd.jobs import Filter, History, HistoryState
from meshd.jobs.history_rows import row_number
from meshd.machine.databases import RealDatabases
from tests.unit.jobs.samples import finished

CHILD = """
import sys
from pathlib import Path
import trio
from meshd.jobs import History
from meshd.machine.databases import RealDatabases
from tests.unit.jobs.samples import finished

async def main():
    history = History(RealDatabases(), Path(sys.argv[1]), now_ms=lambda: 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(history.run)
        for index in range(1, 1_000_000):
            history.add(index, [finished(index * 10 + place) for place in range(3)])
            if index % 50 == 0:
                await history.settle()
                print(index, flush=True)

trio.run(main)
"""
"""Applies a log from its beginning, and says what is settled."""


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[History]:
    history = History(RealDatabases(), path, now_ms=lambda: 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(history.run)
        yield history
        nursery.cancel_scope.cancel()


def rows(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [row for (row,) in connection.execute("SELECT row FROM jobs ORDER BY row")]
    finally:
        connection.close()


def killed_after(path: Path, batches: int, seconds: float) -> int:
    """Let a child apply the log, and kill it; the last index that it said is settled."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    last = 0
    for _ in range(batches):
        last = int(child.stdout.readline())
    time.sleep(seconds)  # anywhere in the next batches
    os.kill(child.pid, signal.SIGKILL)
    said = child.stdout.read().splitlines()
    child.wait()
    whole = [line for line in said if line]
    # A killed child may have written half of a number.
    return max([last, *(int(line) for line in whole[:-1])])


@pytest.mark.parametrize("seed", range(3))
def test_after_kill_9_what_was_settled_is_there_and_a_replay_doubles_nothing(
    tmp_path: Path, seed: int
) -> None:
    path = tmp_path / "history.db"
    dice = random.Random(seed)
    settled = 0
    for _ in range(2):
        settled = max(settled, killed_after(path, dice.randint(1, 20), dice.random() * 0.03))
        found = rows(path)
        # A beginning of the log: whole entries without a gap, at least as far as was said.
        count = len(found) // 3
        expected = [row_number(index, place) for index in range(1, count + 1) for place in range(3)]
        assert found == expected
        assert count >= settled


async def test_its_file_is_private_and_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "jobs" / "history.db"
    async with running(path) as history:
        history.add(1, [finished(1)])
        await history.settle()
        for entry in os.scandir(path.parent):
            assert stat.S_IMODE(entry.stat().st_mode) == 0o600, entry.name


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    async with running(path) as history:
        history.add(7, [finished(1), finished(2)])
        await history.settle()
    async with running(path) as history:
        found = await history.find(Filter())
        assert [job.id for job in found.jobs] == ["job-000002", "job-000001"]
        assert history.standing.rows == 2


async def test_a_damaged_file_is_set_aside_and_the_history_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.write_bytes(b"what a program with a bug has left here" * 500)
    async with running(path) as history:
        history.add(1, [finished(1)])
        await history.settle()
        assert history.standing.state is HistoryState.OPEN
        assert history.standing.set_aside == str(tmp_path / "history.db.damaged")
    assert rows(path) == [row_number(1, 0)]
    assert (tmp_path / "history.db.damaged").read_bytes().startswith(b"what a program")


async def test_damage_in_the_middle_is_found_while_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    async with running(path) as history:
        for index in range(1, 100):
            history.add(index, [finished(index * 100 + place) for place in range(20)])
        await history.settle()
    data = bytearray(path.read_bytes())
    data[8 * 4096 :] = os.urandom(len(data) - 8 * 4096)
    path.write_bytes(data)
    async with running(path) as history:
        history.add(100, [finished(place) for place in range(500)])
        await history.settle()
        assert history.standing.set_aside
        assert history.standing.rows == 500
    assert len(rows(path)) == 500
