"""Log lines: readable, without secrets, and not more of them than a stranger deserves."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from meshd import logs


@pytest.fixture(autouse=True)
def _structlog_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def logged(log_format: str, *, level: str = "info", event: str = "hello", **fields: Any) -> str:
    stream = io.StringIO()
    logs.configure(level, log_format, stream, terminal=False)
    logs.get("http").warning(event, **fields)
    return stream.getvalue()


def test_a_line_has_its_fields() -> None:
    line = json.loads(logged("json", port=1, error="no such thing"))
    del line["timestamp"]
    assert line == {
        "event": "hello",
        "level": "warning",
        "part": "http",
        "port": 1,
        "error": "no such thing",
    }
    assert "level=warning part=http event=hello" in logged("logfmt")
    assert "hello" in logged("text")
    assert "level=warning" in logged("auto")


def test_what_is_below_the_level_is_not_written() -> None:
    assert logged("json", level="error") == ""


def test_an_error_comes_with_its_traceback_and_without_the_variables() -> None:
    for log_format in ("text", "logfmt", "json"):
        stream = io.StringIO()
        logs.configure("info", log_format, stream, terminal=False)
        try:
            local_variable = "hunter2"
            raise ValueError(str(len(local_variable)))
        except ValueError:
            logs.get("http").exception("it broke")
        assert "ValueError: 7" in stream.getvalue()
        assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize(
    "field",
    ["token", "api_key", "Authorization", "join_secret", "key", "prompt", "private_key_pem"],
)
@pytest.mark.parametrize("value", ["hunter2", b"hunter2"])
def test_fields_with_secret_names_are_taken_out(field: str, value: object) -> None:
    line = logged("json", **{field: value})
    assert "hunter2" not in line
    assert json.loads(line)[field] == "[redacted]"


def test_counts_of_tokens_are_no_secrets() -> None:
    assert json.loads(logged("json", prompt_tokens=12, tokens=3))["prompt_tokens"] == 12
    assert json.loads(logged("json", key_id="ab12"))["key_id"] == "ab12"


@pytest.mark.parametrize(
    "secret",
    [
        "mesh1-abcdefghij-a1b2c3.hunter2",
        "sk-meshd-hunter2hunter2",
        "Bearer hunter2",
        "-----BEGIN EC PRIVATE KEY-----\nhunter2",
    ],
)
def test_secrets_are_known_by_their_look(secret: str) -> None:
    assert "hunter2" not in logged("json", error=f"got {secret}")
    assert "hunter2" not in logged("json", event=f"got {secret}")
    assert "hunter2" not in logged("json", error=f"got {secret}".encode())


def test_nothing_from_outside_starts_a_line_or_moves_the_cursor() -> None:
    for log_format in ("text", "logfmt", "json"):
        line = logged(log_format, agent="a\r\nlevel=error\x1b[2Jb\u2028c")
        assert line.count("\n") == 1
        assert "\x1b" not in line


def test_a_terminal_that_is_gone_ends_nothing() -> None:
    gone, other = io.StringIO(), io.StringIO()
    gone.close()
    logs.configure("info", "text", gone, terminal=False)
    log = logs.get("http")
    log.warning("into nothing")
    logs.configure("info", "text", other, terminal=False)
    log.warning("to somebody again")
    assert "to somebody again" in other.getvalue()
    assert "into nothing" not in other.getvalue()


def test_a_source_gets_one_line_a_period_and_then_the_count() -> None:
    limit = logs.RateLimited(every_s=60, sources=10)
    assert [limit.admit("a", t) for t in (0, 1, 2, 59)] == [0, None, None, None]
    assert limit.admit("b", 59) == 0
    assert limit.admit("a", 60) == 3
    assert limit.admit("a", 61) is None


def test_inventing_sources_buys_no_more_lines() -> None:
    limit = logs.RateLimited(every_s=60, sources=10)
    lines = sum(limit.admit(f"invented {n}", 1.0) is not None for n in range(1000))
    assert lines == 10 + 1
    assert limit.admit("one more", 61.0) == 0, "the first ten are old enough to be forgotten"


@given(
    st.lists(st.tuples(st.integers(0, 20), st.floats(0, 30)), max_size=200),
)
def test_every_event_is_written_or_counted_and_sources_are_bounded(
    events: list[tuple[int, float]],
) -> None:
    limit = logs.RateLimited(every_s=10, sources=5)
    now = 0.0
    written: list[float] = []
    for source, wait in events:
        now += wait
        if limit.admit(source, now) is not None:
            written.append(now)
        assert len(limit._seen) <= 5
    for start in written:
        assert sum(start <= at < start + 10 for at in written) <= 2 * (5 + 1)


def test_warnings_about_a_source_say_how_many_were_held_back() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream, terminal=False)
    now = [0.0]
    per_source = logs.PerSource(logs.get("gossip"), lambda: now[0])
    for t in (0.0, 1.0, 2.0, 70.0):
        now[0] = t
        per_source.warning("bad datagram", ("10.0.0.1", 5), why="too short")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.get("held_back") for line in lines] == [None, 2]
    assert lines[0]["source"] == "('10.0.0.1', 5)"
    assert lines[0]["why"] == "too short"
