"""What simulated clients make of their answers: when they may stop to ask."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from meshd.testing.simulation.lives import Asked, is_final

CANCELLED = "The request with this key is cancelled; use another key."
EXPIRED = "the answer of j1 expired at 2026-01-01T00:00:00Z: it is not kept any more"
AWAY = "the nodes that keep the answer of j1 cannot be asked now"


def refused(status: int, error: str, place: str = "") -> Asked:
    answer = SimpleNamespace(status=status, error=error)
    return Asked("r1", None, None, 1, 0.0, answer, False, place)  # type: ignore[arg-type]


@pytest.mark.parametrize("why", [CANCELLED, EXPIRED])
def test_a_key_that_is_over_is_asked_for_no_more(why: str) -> None:
    assert is_final(refused(409, why))


@pytest.mark.parametrize(
    "asked",
    [
        refused(409, AWAY),
        refused(409, "no"),
        refused(503, AWAY),
        refused(409, "another run of it said other words", "17-3fa9c1d2"),
    ],
    ids=lambda asked: f"{asked.answer.status} {asked.answer.error[:12]}",
)
def test_all_else_is_asked_for_until_it_is_answered(asked: Asked) -> None:
    assert not is_final(asked)
