"""Both kinds of database keep the port's promises; the real one also on a real disk."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from meshd.errors import DatabaseDamaged, DiskFailed
from meshd.machine.databases import RealDatabases
from meshd.ports import Databases, Transaction
from meshd.testing.database import MemoryDatabases

MAKE = "CREATE TABLE IF NOT EXISTS t (x)"


@pytest.fixture(params=[RealDatabases, MemoryDatabases])
def databases(request: pytest.FixtureRequest) -> Databases:
    made: Databases = request.param()
    return made


def add(*values: int) -> Callable[[Transaction], int]:
    def work(sql: Transaction) -> int:
        sql.execute(MAKE)
        return sql.execute_many("INSERT INTO t VALUES (?)", [(value,) for value in values])

    return work


def values(sql: Transaction) -> list[int]:
    return [x for (x,) in sql.execute("SELECT x FROM t ORDER BY x")]


async def test_what_was_written_is_read_and_is_there_when_opened_again(
    databases: Databases, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "x.db"
    database = await databases.open(path)
    assert await database.write(add(1, 2)) == 2
    assert await database.read(values) == [1, 2]
    await database.aclose()
    again = await databases.open(path)
    assert await again.read(values) == [1, 2]
    await again.aclose()


async def test_all_of_it_is_done_or_nothing(databases: Databases, tmp_path: Path) -> None:
    database = await databases.open(tmp_path / "x.db")
    await database.write(add(1))

    def fails(sql: Transaction) -> None:
        add(2)(sql)
        raise KeyError("on the way")

    with pytest.raises(KeyError):
        await database.write(fails)
    assert await database.read(values) == [1]
    assert await database.write(add(3)) == 1
    await database.aclose()


async def test_a_mistake_in_the_sql_is_ours_and_no_disk_failure(
    databases: Databases, tmp_path: Path
) -> None:
    database = await databases.open(tmp_path / "x.db")
    with pytest.raises(sqlite3.OperationalError):
        await database.read(lambda sql: sql.execute("SELECT nonsense"))
    await database.aclose()


async def test_what_is_closed_says_so(databases: Databases, tmp_path: Path) -> None:
    database = await databases.open(tmp_path / "x.db")
    await database.aclose()
    await database.aclose()
    with pytest.raises(DiskFailed, match="it was closed"):
        await database.read(values)
    with pytest.raises(DiskFailed, match="it was closed"):
        await database.write(add(1))


async def test_what_was_set_aside_is_replaced_by_an_empty_one(
    databases: Databases, tmp_path: Path
) -> None:
    path = tmp_path / "x.db"
    for value in (1, 2):
        database = await databases.open(path)
        await database.write(add(value))
        await database.aclose()
        aside = await databases.set_aside(path)
        assert aside == tmp_path / "x.db.damaged"
    old = await databases.open(aside)
    assert await old.read(values) == [2]  # in place of the first
    await old.aclose()
    database = await databases.open(path)
    await database.write(add())
    assert await database.read(values) == []
    await database.aclose()


async def test_nothing_to_set_aside_is_no_error(databases: Databases, tmp_path: Path) -> None:
    await databases.set_aside(tmp_path / "x.db")
    assert os.listdir(tmp_path) == []


# --- in memory


async def test_in_memory_a_full_disk_keeps_what_was_there() -> None:
    databases = MemoryDatabases()
    database = await databases.open(Path("/x.db"))
    await database.write(add(1))
    databases.full = True
    with pytest.raises(DiskFailed) as failed:
        await database.write(add(2))
    assert failed.value.errno == errno.ENOSPC
    assert await database.read(values) == [1]
    databases.full = False
    await database.write(add(3))
    assert await database.read(values) == [1, 3]


# --- on a real disk


async def real(path: Path) -> None:
    """A file with a thousand rows, closed."""
    database = await RealDatabases().open(path)
    await database.write(add(*range(1000)))
    await database.aclose()


async def test_its_files_are_private_from_the_first_byte(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        database = await RealDatabases().open(tmp_path / "jobs" / "x.db")
    finally:
        os.umask(umask)
    await database.write(add(1))
    modes = {
        entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in (tmp_path / "jobs").iterdir()
    }
    assert modes == {"x.db": 0o600, "x.db-wal": 0o600, "x.db-shm": 0o600}
    assert stat.S_IMODE((tmp_path / "jobs").stat().st_mode) == 0o700
    await database.aclose()
    assert [entry.name for entry in (tmp_path / "jobs").iterdir()] == ["x.db"]


async def test_a_file_that_was_open_to_others_is_not_any_more(tmp_path: Path) -> None:
    await real(tmp_path / "x.db")
    (tmp_path / "x.db").chmod(0o644)
    await real(tmp_path / "x.db")
    assert stat.S_IMODE((tmp_path / "x.db").stat().st_mode) == 0o600


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DiskFailed):
        await RealDatabases().open(tmp_path / "x.db")
    assert not (tmp_path / "elsewhere").exists()


async def test_no_work_is_done_on_the_loop_and_a_reader_waits_for_no_writer(
    tmp_path: Path,
) -> None:
    database = await RealDatabases().open(tmp_path / "x.db")
    await database.write(add(1))
    may_end = threading.Event()
    in_there = trio.Event()
    token = trio.lowlevel.current_trio_token()
    threads = []

    def slow(sql: Transaction) -> None:
        add(2)(sql)
        threads.append(threading.current_thread())
        token.run_sync_soon(in_there.set)
        assert may_end.wait(30)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.write, slow)
        await in_there.wait()
        assert await database.read(values) == [1]
        may_end.set()
    assert await database.read(values) == [1, 2]
    assert threads != [threading.current_thread()]
    await database.aclose()


async def test_a_reader_cannot_write(tmp_path: Path) -> None:
    database = await RealDatabases().open(tmp_path / "x.db")
    with pytest.raises(DiskFailed) as failed:
        await database.read(lambda sql: sql.execute(MAKE))
    assert failed.value.errno == errno.EROFS
    await database.aclose()


async def test_what_is_no_database_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"this is no database, whatever its name says" * 99)
    with pytest.raises(DatabaseDamaged, match=r"x\.db is damaged"):
        await RealDatabases().open(tmp_path / "x.db")


async def test_damage_within_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    await real(path)
    data = bytearray(path.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    database = await RealDatabases().open(path)
    with pytest.raises(DatabaseDamaged):
        await database.read(values)
    with pytest.raises(DatabaseDamaged):
        await database.write(add(1))
    await database.aclose()


async def test_a_file_that_was_cut_off_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    await real(path)
    os.truncate(path, 6000)
    with pytest.raises(DatabaseDamaged):
        await (await RealDatabases().open(path)).read(values)


async def test_a_full_file_refuses_and_keeps_what_was_there(tmp_path: Path) -> None:
    """SQLite's own limit of pages: it fails as a full disk does."""
    database = await RealDatabases().open(tmp_path / "x.db")
    await database.write(add(1))

    def into_a_full_one(sql: Transaction) -> None:
        ((pages,),) = sql.execute("PRAGMA page_count")
        sql.execute(f"PRAGMA max_page_count = {pages}")
        add(*range(10_000))(sql)

    with pytest.raises(DiskFailed) as failed:
        await database.write(into_a_full_one)
    assert failed.value.errno == errno.ENOSPC
    assert "the disk is full; free some space" in str(failed.value)
    assert await database.read(values) == [1]
    await database.write(lambda sql: sql.execute("PRAGMA max_page_count = 100000"))
    assert await database.write(add(2)) == 1
    await database.aclose()


async def test_another_program_that_keeps_it_is_named(tmp_path: Path) -> None:
    database = await RealDatabases().open(tmp_path / "x.db")
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DiskFailed, match="another program has it open"):
        await database.write(add(1))
    other.close()
    await database.aclose()


async def test_a_place_where_no_file_can_be_is_said(tmp_path: Path) -> None:
    await real(tmp_path / "x.db")
    with pytest.raises(DiskFailed, match="Not a directory"):
        await RealDatabases().open(tmp_path / "x.db" / "y.db")
