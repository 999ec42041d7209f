"""The table: what is written is found, by every filter, page by page; the old end is trimmed."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator

import pytest

from meshd import limits
from meshd.errors import Refused
from meshd.jobs import Attempt, Filter, FinishedJob, history_rows
from meshd.jobs.history_rows import row_number
from meshd.machine.databases import Sql
from meshd.ports import Transaction
from tests.unit.jobs.samples import finished

MUCH = 2**40
DICE = random.Random(7)
STATES = ["done", "done", "done", "failed", "cancelled", "dead"]


@pytest.fixture
def sql() -> Iterator[Transaction]:
    connection = sqlite3.connect(":memory:")
    made = Sql(connection)
    assert history_rows.prepare(made) == 0
    yield made
    connection.close()


def many(count: int) -> list[tuple[int, FinishedJob]]:
    """Several of one entry, in one millisecond, and times that go back a little."""
    rows = []
    for i in range(count):
        job = finished(
            i,
            state=DICE.choice(STATES),
            model=DICE.choice(["tiny", "small"]),
            node=DICE.choice("abc"),
            queue=DICE.choice(["", "bots"]),
            finished_ms=1000 + i // 5 * 10 - DICE.choice([0, 0, 0, 25]),
        )
        rows.append((row_number(100 + i // 3, i % 3), job))
    return rows


def test_every_field_comes_back(sql: Transaction) -> None:
    job = FinishedJob(
        id="j",
        state="dead",
        queue="bots",
        model="tiny:latest",
        node="a",
        entry="b",
        key_scope="local",
        attempts=(Attempt("a", "it said: “nein”"), Attempt("c", "")),
        accepted_ms=1,
        started_ms=2,
        finished_ms=3,
        request_digest="r" * 64,
        result_digest="s" * 64,
        prompt_tokens=4,
        completion_tokens=5,
        error="why",
        request_size_bytes=6,
        result=b"\0\xff" + bytes(limits.INLINE_BYTES - 2),
        result_size_bytes=limits.INLINE_BYTES,
        status=200,
        run_ms=7,
        path="/api/chat",
        streamed=True,
        first_token_ms=5,
        api_key="0a1b2c3d",
    )
    plain = FinishedJob(id="k", state="done", accepted_ms=1, finished_ms=4)
    assert history_rows.insert(sql, [(1, job), (2, plain)]) == 2
    assert history_rows.get(sql, "j") == job
    assert history_rows.get(sql, "k") == plain
    assert history_rows.get(sql, "l") is None


def test_a_row_that_is_there_is_not_written_again(sql: Transaction) -> None:
    rows = many(50)
    assert history_rows.insert(sql, rows[:30]) == 30
    assert history_rows.insert(sql, rows) == 20
    assert history_rows.insert(sql, rows) == 0
    assert history_rows.prepare(sql) == 50


def test_a_job_that_was_finished_twice_is_there_twice_and_the_last_is_told(
    sql: Transaction,
) -> None:
    """Dead, retried, done: two entries, two rows."""
    dead, done = finished(1, state="dead"), finished(1, state="done")
    history_rows.insert(sql, [(row_number(5, 0), dead), (row_number(9, 0), done)])
    assert history_rows.get(sql, dead.id) == done
    assert len(history_rows.find(sql, Filter(), "", 10).jobs) == 2


@pytest.mark.parametrize("seed", range(40))
def test_what_is_found_is_what_a_look_at_all_rows_finds(sql: Transaction, seed: int) -> None:
    """Whatever is asked, whatever the page size; each row once, the newest first."""
    dice = random.Random(seed)
    rows = many(200)
    history_rows.insert(sql, rows)
    where = Filter(
        state=dice.choice([None, "done", "failed", "nonsense"]),
        model=dice.choice([None, None, "tiny"]),
        node=dice.choice([None, None, "a"]),
        queue=dice.choice([None, None, "", "bots"]),
        since_ms=dice.choice([None, 1100, 1395, 9999]),
    )
    expected = sorted(
        (
            (job.finished_ms, number, job)
            for number, job in rows
            if all(
                getattr(where, name) in (None, getattr(job, name))
                for name in ("state", "model", "node", "queue")
            )
            and job.finished_ms >= (where.since_ms or 0)
        ),
        reverse=True,
    )
    size = dice.choice([1, 7, 200])
    pages, cursor = [], ""
    while True:
        page = history_rows.find(sql, where, cursor, size)
        pages.append(page)
        cursor = page.next
        if not cursor:
            break
    assert [job for page in pages for job in page.jobs] == [job for *_, job in expected]
    assert all(len(page.jobs) == size for page in pages[:-1])
    assert pages[-1].jobs or not expected


def test_a_cursor_goes_on_behind_its_row_whatever_has_come_or_gone_since(
    sql: Transaction,
) -> None:
    rows = many(30)
    history_rows.insert(sql, rows)
    first = history_rows.find(sql, Filter(), "", 10)
    before = history_rows.find(sql, Filter(), first.next, 100).jobs
    history_rows.insert(sql, [(row_number(900, 0), finished(900, finished_ms=99_999))])
    assert history_rows.find(sql, Filter(), first.next, 100).jobs == before
    sql.execute("DELETE FROM jobs WHERE id = ?", (first.jobs[-1].id,))
    assert history_rows.find(sql, Filter(), first.next, 100).jobs == before


@pytest.mark.parametrize(
    "cursor", ["x", "1", "1-", "-1", "1-2-3", "1-x", "1e3-4", "1-" + "9" * 40, "١-٢", "' OR 1"]
)
def test_what_is_no_cursor_is_refused(sql: Transaction, cursor: str) -> None:
    with pytest.raises(Refused, match="That is no cursor"):
        history_rows.find(sql, Filter(), cursor, 10)


@pytest.mark.parametrize("since_ms", [0, -5, 2**63, 10**30])
def test_any_time_may_be_asked_for(sql: Transaction, since_ms: int) -> None:
    history_rows.insert(sql, many(3))
    found = history_rows.find(sql, Filter(since_ms=since_ms), "", 10)
    assert len(found.jobs) == (3 if since_ms <= 0 else 0)


def test_no_look_goes_through_the_whole_table(sql: Transaction) -> None:
    """Each goes by an index, in its order, without sorting."""
    looked: list[str] = []

    class Explained:
        def execute(self, statement: str, values: object = ()) -> list[tuple[object, ...]]:
            for row in sql.execute(f"EXPLAIN QUERY PLAN {statement}", values):  # type: ignore[arg-type]
                looked.append(str(row[3]))
            return []

    wheres = [Filter(), Filter(since_ms=5), Filter(state="done"), Filter(state="failed")]
    wheres += [Filter(model="m"), Filter(node="n"), Filter(queue="q", state="done", since_ms=4)]
    for where in wheres:
        for cursor in ("", "5-6"):
            history_rows.find(Explained(), where, cursor, 10)  # type: ignore[arg-type]
    history_rows.get(Explained(), "j")  # type: ignore[arg-type]
    assert len(looked) == 2 * len(wheres) + 1
    assert not [line for line in looked if "TEMP B-TREE" in line]
    scans = [line for line in looked if "SCAN" in line]
    assert scans == ["SCAN jobs USING INDEX by_time"]  # all of them, the newest first, a page
    assert "SEARCH jobs USING INDEX by_queue (queue=? AND finished_ms>?)" in looked
    assert "SEARCH jobs USING INDEX by_state (state=? AND finished_ms<?)" in looked


def test_the_oldest_go_when_there_are_too_many(sql: Transaction) -> None:
    rows = many(50)
    history_rows.insert(sql, rows)
    assert history_rows.trim(sql, 20, 0, MUCH) == 20
    left = sql.execute("SELECT row FROM jobs ORDER BY row")
    assert [number for (number,) in left] == [number for number, _ in rows[20:]]


def test_what_is_too_old_goes_whatever_its_number(sql: Transaction) -> None:
    rows = many(50)
    history_rows.insert(sql, rows)
    old = sum(job.finished_ms < 1050 for _, job in rows)
    assert 0 < old < 50
    assert history_rows.trim(sql, 0, 1050, MUCH) == old
    assert history_rows.trim(sql, 0, 1050, MUCH) == 0
    ((first,),) = sql.execute("SELECT min(finished_ms) FROM jobs")
    assert first >= 1050


def test_a_trim_is_bounded(sql: Transaction) -> None:
    rows = [(i, finished(i, finished_ms=i)) for i in range(limits.HISTORY_TRIM_ROWS + 500)]
    history_rows.insert(sql, rows)
    assert history_rows.trim(sql, len(rows), 10**9, MUCH) == limits.HISTORY_TRIM_ROWS
    assert history_rows.trim(sql, 100, 10**9, MUCH) == 500


def test_the_oldest_go_when_the_file_is_too_large(sql: Transaction) -> None:
    rows = [
        (i, finished(i, result=bytes(4000), result_size_bytes=4000))
        for i in range(limits.HISTORY_TRIM_ROWS + 500)
    ]
    history_rows.insert(sql, rows)
    assert history_rows.trim(sql, 0, 0, 10_000_000) == 0
    assert history_rows.trim(sql, 0, 0, 4_000_000) == limits.HISTORY_TRIM_ROWS
    assert history_rows.trim(sql, 0, 0, 4_000_000) == 0
    ((first,),) = sql.execute("SELECT min(row) FROM jobs")
    assert first == limits.HISTORY_TRIM_ROWS


def test_nothing_that_an_engine_said_keeps_a_row_from_being_written(sql: Transaction) -> None:
    job = finished(
        1,
        error="half a pair: \ud800, and a zero: \0" + "x" * 10_000,
        attempts=tuple(Attempt("a", "y" * 10_000) for _ in range(100)),
        completion_tokens=2**64 - 1,
        accepted_ms=2**70,
        result=bytes(limits.INLINE_BYTES + 1),
        entry="\ud800",
    )
    history_rows.insert(sql, [(1, job)])
    found = history_rows.get(sql, job.id)
    assert found is not None
    assert found.error.startswith("half a pair: ?, and a zero: \0xxx")
    assert len(found.error) == limits.HISTORY_TEXT_CHARS
    assert len(found.attempts) == limits.HISTORY_ATTEMPTS
    assert found.completion_tokens == found.accepted_ms == 2**63 - 1
    assert (found.result, found.entry) == (b"", "?")


def test_an_entry_that_finishes_too_many_is_refused() -> None:
    assert row_number(3, 65_535) < row_number(4, 0)
    with pytest.raises(ValueError, match="more than 65536"):
        row_number(3, 65_536)


FORM_1 = (
    """CREATE TABLE jobs (
        row INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        state TEXT NOT NULL,
        accepted_ms INTEGER NOT NULL,
        finished_ms INTEGER NOT NULL,
        started_ms INTEGER,
        queue TEXT NOT NULL,
        model TEXT NOT NULL,
        node TEXT NOT NULL,
        entry TEXT NOT NULL,
        key_scope TEXT,
        attempts TEXT NOT NULL,
        request_digest TEXT NOT NULL,
        result_digest TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        error TEXT NOT NULL
    )""",
    "CREATE INDEX by_id ON jobs (id)",
    "CREATE INDEX by_time ON jobs (finished_ms)",
    "CREATE INDEX by_state ON jobs (state, finished_ms)",
    "CREATE INDEX by_queue ON jobs (queue, finished_ms)",
    "CREATE INDEX by_node ON jobs (node, finished_ms)",
    "CREATE INDEX by_model ON jobs (model, finished_ms)",
    """INSERT INTO jobs VALUES (5, 'j1', 'done', 1, 2, NULL, '', 'tiny', 'a', 'b', NULL, '[]',
        'aa', 'bb', 3, 4, '')""",
    "PRAGMA user_version = 1",
)


FORM_2 = (
    *FORM_1,
    "ALTER TABLE jobs ADD COLUMN request_size_bytes INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN result BLOB NOT NULL DEFAULT x''",
    "ALTER TABLE jobs ADD COLUMN result_size_bytes INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN status INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN run_ms INTEGER NOT NULL DEFAULT 0",
    "PRAGMA user_version = 2",
)


@pytest.mark.parametrize("form", [FORM_1, FORM_2])
def test_a_file_of_a_version_before_is_read_and_written_to(form: tuple[str, ...]) -> None:
    connection = sqlite3.connect(":memory:")
    for statement in form:
        connection.execute(statement)
    for _ in range(2):
        assert history_rows.prepare(Sql(connection)) == 1
    sql = Sql(connection)
    old = FinishedJob(
        id="j1", state="done", accepted_ms=1, finished_ms=2, model="tiny", node="a", entry="b",
        request_digest="aa", result_digest="bb", prompt_tokens=3, completion_tokens=4,
    )  # fmt: skip
    new = finished(7, result=b"out", result_size_bytes=3, status=200, run_ms=9)
    history_rows.insert(sql, [(6, new)])
    assert history_rows.find(sql, Filter(), "", 10).jobs == (new, old)
    fresh = sqlite3.connect(":memory:")
    history_rows.prepare(Sql(fresh))
    schema = "SELECT name, sql FROM sqlite_schema ORDER BY name"
    names = [name for name, _ in connection.execute(schema)]
    assert names == [name for name, _ in fresh.execute(schema)]
    columns = "SELECT * FROM pragma_table_info('jobs') ORDER BY name"
    without_place = [row[1:] for row in connection.execute(columns)]
    assert without_place == [row[1:] for row in fresh.execute(columns)]
    connection.close()
    fresh.close()


def test_a_file_of_a_later_version_is_left_alone(sql: Transaction) -> None:
    sql.execute("PRAGMA user_version = 4")
    with pytest.raises(Refused, match="by a later version of meshd"):
        history_rows.prepare(sql)
