"""Traces as bytes: what is said comes back, a command is never too large, samples are fair."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd import limits
from meshd.jobs import Attempt, FinishedJob, trace_rows
from meshd.jobs.trace_rows import Batch, batch_of
from meshd.record.commands import Entry, encode
from meshd.record.commands_registry import Trace
from tests.unit.jobs.samples import ended
from tests.unit.record.logs import id_of

WALL_S = 1_790_000_000.0


def read(row: bytes) -> FinishedJob:
    told = trace_rows.read(row, "the entry")
    assert told is not None
    return told


def test_all_that_is_told_of_a_request_comes_back() -> None:
    row = trace_rows.pack(
        ended(
            10, model="Tiny", api_key="0a1b2c3d", streamed=True, first_at=9.625, node=id_of("b"),
            attempts=(Attempt("a", "busy"), Attempt(id_of("b"), "", "continue")),
            prompt_tokens=7, completion_tokens=20,
        ),
        WALL_S,
    )  # fmt: skip
    end_ms = int(WALL_S * 1000) + 10_000
    assert read(row) == FinishedJob(
        id="req_10", state="done", accepted_ms=end_ms - 500, finished_ms=end_ms,
        model="tiny:latest", node=id_of("b"), entry="the entry", run_ms=500, first_token_ms=125,
        attempts=(Attempt("a", "busy"), Attempt(id_of("b"), "", "continue")), prompt_tokens=7,
        completion_tokens=20, status=200, path="/v1/chat/completions", streamed=True,
        api_key="0a1b2c3d",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("failure", "state"), [("", "done"), ("cancelled", "cancelled"), ("silent", "failed")]
)
def test_how_it_ended_is_its_state(failure: str, state: str) -> None:
    told = read(trace_rows.pack(ended(1, failure=failure, node="b"), WALL_S))
    assert (told.state, told.error) == (state, failure)
    assert told.attempts == ((Attempt("b", ""),) if state == "done" else ())


def test_what_cannot_be_read_is_none_and_what_a_later_version_adds_is_passed_over() -> None:
    row = trace_rows.pack(ended(1), WALL_S)
    later = msgspec.msgpack.encode([*msgspec.msgpack.decode(row), "a new field"])
    assert trace_rows.read(later, "") == trace_rows.read(row, "")
    for data in (b"", b"\xc1", b"\x90", row[:-1], b"\x91\xa1\xff", b"a" * 300):
        assert trace_rows.read(data, "") is None


text = st.text(st.characters(), max_size=600)
requests = st.lists(
    st.builds(
        ended,
        number=st.integers(1, 9),
        model=text,
        path=text,
        attempts=st.lists(
            st.builds(
                Attempt,
                st.just(id_of("a")),
                st.sampled_from(["busy", "silent"]),
                st.sampled_from(["", "regenerate"]),
            ),
            max_size=8,
        ).map(tuple),
    ),
    max_size=40,
)


@given(requests, st.integers(1, 12), st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_a_batch_fits_into_a_command_and_accounts_for_all(
    some: list[Any], times: int, left_out: int, chance: random.Random
) -> None:
    batch = batch_of(some * times, left_out, WALL_S, chance.randrange)
    assert batch.requests == len(some) * times + left_out
    assert batch.size_bytes <= limits.TRACE_BYTES
    number = 2**53 - 1
    command = Trace(rows=batch.rows, left_out=batch.left_out, number=number)
    data = encode(Entry(command, client=id_of("a"), epoch=2**50, seq=2**50, ack_below=2**50))
    assert len(data) <= limits.TRACE_BYTES
    assert all(trace_rows.read(row, "") is not None for row in batch.rows)


@given(requests, requests)
def test_two_batches_become_one_only_if_that_fits(one: list[Any], other: list[Any]) -> None:
    first, second = (batch_of(some, 1, WALL_S, random.Random(1).randrange) for some in (one, other))
    both = first.with_more(second)
    together = Batch(first.rows + second.rows, 2)
    assert both == (together if together.size_bytes <= limits.TRACE_BYTES else None)


def test_of_too_many_each_has_the_same_chance() -> None:
    chance = random.Random(3)
    many = [ended(n) for n in range(1, 1001)]
    drawn = [0] * 10
    for _ in range(100):
        batch = batch_of(many, 0, WALL_S, chance.randrange)
        numbers = [int(read(row).id.removeprefix("req_")) for row in batch.rows]
        assert numbers == sorted(set(numbers))
        for number in numbers:
            drawn[(number - 1) // 100] += 1
    mean = sum(drawn) / 10
    assert mean > 500
    assert all(abs(tenth - mean) < 0.15 * mean for tenth in drawn), drawn
