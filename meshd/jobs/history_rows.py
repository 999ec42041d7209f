"""The history's table: what is in it, and the statements that write, find and trim.

A row's number is its place in the log: the entry's index, and the job's place among those that
this entry finished.  Applying the log is deterministic, so a replay arrives at the same numbers and
finds its rows there already; and a cursor that one node gave out is good at every other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from meshd import limits
from meshd.errors import Refused
from meshd.jobs.finished import Attempt, FinishedJob
from meshd.ports import SqlValue, Transaction

FORM: Final = 3
"""Of the table; in the file as SQLite's user_version.  A file of an earlier one is read and brought
up to it, which changes no row and so takes no time."""

_PLACE_BITS: Final = 16
_PLACES: Final = 1 << _PLACE_BITS
"""Jobs that one entry can finish; an entry is at most 32 KiB."""

_LARGEST: Final = 2**63 - 1
"""Integer that SQLite stores."""
_NUMBER: Final = re.compile(r"[0-9]{1,18}")

_COLUMNS: Final = tuple(FinishedJob.__struct_fields__)
_ATTEMPTS: Final = _COLUMNS.index("attempts")
_RESULT: Final = _COLUMNS.index("result")
_FILTERED: Final = ("state", "queue", "node", "model")
"""From the most telling to the least: the first that is asked for is looked up."""
_COMMON: Final = (("state", "done"), ("queue", ""))
"""What most rows are: of no use to look by."""

_FORM_2: Final = (
    "ALTER TABLE jobs ADD COLUMN request_size_bytes INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN result BLOB NOT NULL DEFAULT x''",
    "ALTER TABLE jobs ADD COLUMN result_size_bytes INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN status INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN run_ms INTEGER NOT NULL DEFAULT 0",
)
"""What it has more than form 1."""
_FORM_3: Final = (
    "ALTER TABLE jobs ADD COLUMN path TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN streamed INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN first_token_ms INTEGER",
    "ALTER TABLE jobs ADD COLUMN api_key TEXT NOT NULL DEFAULT ''",
)
"""What it has more than form 2."""
_STEPS: Final = {1: _FORM_2, 2: _FORM_3}
"""From each earlier form to the one after it."""

_SCHEMA: Final = (
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
    *_FORM_2,
    *_FORM_3,
    "CREATE INDEX by_id ON jobs (id)",
    "CREATE INDEX by_time ON jobs (finished_ms)",
    *(f"CREATE INDEX by_{column} ON jobs ({column}, finished_ms)" for column in _FILTERED),
)
_SET_FORM: Final = f"PRAGMA user_version = {FORM}"
_INSERT: Final = (
    f"INSERT OR IGNORE INTO jobs (row, {', '.join(_COLUMNS)}) "
    f"VALUES ({', '.join('?' * (1 + len(_COLUMNS)))})"
)
_SELECT: Final = f"SELECT row, {', '.join(_COLUMNS)} FROM jobs"

Row = tuple[int, FinishedJob]


class Filter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which finished jobs; None: any."""

    state: str | None = None
    model: str | None = None
    node: str | None = None
    queue: str | None = None
    since_ms: int | None = None
    """Finished at that time or later."""


class Page(msgspec.Struct, frozen=True):
    """Some finished jobs, the newest first."""

    jobs: tuple[FinishedJob, ...]
    next: str = ""
    """The cursor of the next page; "": this was the last."""


def row_number(index: int, place: int) -> int:
    """Of the job that the entry at `index` finished as its `place`-th, from 0."""
    if not 0 <= place < _PLACES:
        raise ValueError(f"entry {index} finishes more than {_PLACES} jobs")
    return index << _PLACE_BITS | place


def prepare(sql: Transaction) -> int:
    """Make the table if the file is new, or bring it up to date; how many rows there are.

    Raises Refused if a later meshd wrote the file.
    """
    ((form,),) = sql.execute("PRAGMA user_version")
    if form > FORM:
        raise Refused(
            f"This history was written by a later version of meshd (form {form}, "
            f"this one reads {FORM}): start that version, or delete the file."
        )
    if form < FORM:
        steps = [_STEPS[earlier] for earlier in range(form, FORM)] if form else [_SCHEMA]
        for statement in (statement for step in steps for statement in step):
            sql.execute(statement)
        sql.execute(_SET_FORM)
    ((count,),) = sql.execute("SELECT count(*) FROM jobs")
    return int(count)


def insert(sql: Transaction, rows: Sequence[Row]) -> int:
    """Write those that are not there; how many that were."""
    return sql.execute_many(_INSERT, (_values(number, job) for number, job in rows))


def trim(sql: Transaction, surplus: int, before_ms: int, max_bytes: int) -> int:
    """Delete the oldest `surplus` rows, and old ones, a bounded number; how many that were.

    And the oldest if the file has more than `max_bytes` in it; its free pages do not count.
    """
    if _used_bytes(sql) > max_bytes:
        surplus = limits.HISTORY_TRIM_ROWS
    surplus = min(surplus, limits.HISTORY_TRIM_ROWS)
    gone = 0
    if surplus > 0:
        gone = sql.execute_many(
            "DELETE FROM jobs WHERE row IN (SELECT row FROM jobs ORDER BY row LIMIT ?)",
            [(surplus,)],
        )
    return gone + sql.execute_many(
        "DELETE FROM jobs WHERE row IN (SELECT row FROM jobs INDEXED BY by_time "
        "WHERE finished_ms < ? ORDER BY finished_ms LIMIT ?)",
        [(before_ms, limits.HISTORY_TRIM_ROWS - gone)],
    )


def _used_bytes(sql: Transaction) -> int:
    numbers = [
        int(sql.execute(f"PRAGMA {name}")[0][0])
        for name in ("page_count", "freelist_count", "page_size")
    ]
    return (numbers[0] - numbers[1]) * numbers[2]


def find(sql: Transaction, where: Filter, cursor: str, count: int) -> Page:
    """One page.  Raises Refused for a cursor that is none."""
    asked: list[tuple[str, SqlValue]] = [
        (column, value) for column in _FILTERED if (value := getattr(where, column)) is not None
    ]
    conditions = [f"{column} = ?" for column, _ in asked]
    values = [value for _, value in asked]
    if where.since_ms is not None:
        conditions.append("finished_ms >= ?")
        values.append(min(where.since_ms, _LARGEST))
    if cursor:
        conditions.append("(finished_ms, row) < (?, ?)")
        values += _place(cursor)
    statement = f"{_SELECT} INDEXED BY {_index(asked)}"
    if conditions:
        statement += f" WHERE {' AND '.join(conditions)}"
    statement += " ORDER BY finished_ms DESC, row DESC LIMIT ?"
    found = sql.execute(statement, [*values, count + 1])
    jobs = tuple(_job(row) for row in found[:count])
    more = f"{jobs[-1].finished_ms}-{found[count - 1][0]}" if len(found) > count else ""
    return Page(jobs, more)


def get(sql: Transaction, job: str) -> FinishedJob | None:
    """The last that is known of one job."""
    found = sql.execute(f"{_SELECT} WHERE id = ? ORDER BY row DESC LIMIT 1", (job,))
    return _job(found[0]) if found else None


def _index(asked: Sequence[tuple[str, SqlValue]]) -> str:
    """By which index to look.  SQLite would have to guess: it knows no frequencies."""
    columns = [pair[0] for pair in asked if pair not in _COMMON] or [pair[0] for pair in asked]
    return f"by_{columns[0]}" if columns else "by_time"


def _place(cursor: str) -> list[int]:
    time_ms, _, row = cursor.partition("-")
    if not (_NUMBER.fullmatch(time_ms) and _NUMBER.fullmatch(row)):
        raise Refused("That is no cursor: pass on the one of the page before, unchanged.")
    return [int(time_ms), int(row)]


def _values(number: int, job: FinishedJob) -> list[SqlValue]:
    values = list(msgspec.structs.astuple(job))
    attempts = job.attempts[-limits.HISTORY_ATTEMPTS :]
    values[_ATTEMPTS] = msgspec.json.encode(
        [
            Attempt(_text(attempt.node), _text(attempt.reason), _text(attempt.way))
            for attempt in attempts
        ]
    ).decode()
    if len(job.result) > limits.INLINE_BYTES:
        values[_RESULT] = b""
    return [
        number,
        *(_fit(value) if at != _ATTEMPTS else value for at, value in enumerate(values)),
    ]


def _fit(value: SqlValue) -> SqlValue:
    """What SQLite can take, of whatever another node or an engine said."""
    match value:
        case int():
            return max(-_LARGEST, min(value, _LARGEST))
        case str():
            return _text(value)
    return value


def _text(text: str) -> str:
    """No row may stop all others."""
    text = text[: limits.HISTORY_TEXT_CHARS]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _job(row: tuple[Any, ...]) -> FinishedJob:
    fields = dict(zip(_COLUMNS, row[1:], strict=True))
    fields["streamed"] = bool(fields["streamed"])
    fields["attempts"] = msgspec.json.decode(fields["attempts"], type=tuple[Attempt, ...])
    return FinishedJob(**fields)
