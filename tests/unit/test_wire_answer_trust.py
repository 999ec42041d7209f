"""Another node's word on a failure is checked before anybody acts on it or is shown it."""

from __future__ import annotations

import pytest

from meshd.inference import Failure
from meshd.wire.answer import AnswerReader, AnswerWriter


def read(failure: Failure) -> Failure:
    (frame,) = AnswerReader().feed(AnswerWriter().error(failure))
    assert frame.failure is not None
    return frame.failure


@pytest.mark.parametrize("status", [0, 100, 200, 302, 399, 600, 10**9])
def test_a_status_that_is_no_error_is_502(status: int) -> None:
    assert read(Failure("busy", "no", status)).status == 502


def test_a_kind_of_a_later_version_counts_as_the_backends() -> None:
    assert read(Failure("x" * 1000, "no", 503)).kind == "backend"
    assert read(Failure("busy", "no", 503)).kind == "busy"


@pytest.mark.parametrize("wait_s", [-1.0, float("nan"), float("inf"), 1e9])
def test_a_wait_that_makes_no_sense_is_none(wait_s: float) -> None:
    assert read(Failure("busy", "no", 503, wait_s)).retry_after_s is None


def test_a_message_is_one_line() -> None:
    assert read(Failure("backend", "a\r\nb\x1b[2J", 502)).message == "a b [2J"
