"""What is late, by what was seen."""

from __future__ import annotations

import math

from meshd.routing.first_waits import FirstWaits


def test_nobody_knows_what_is_late_before_enough_was_seen() -> None:
    waits = FirstWaits(least=20)
    for _ in range(19):
        waits.observe("tiny", 1.0)
    assert waits.late_s("tiny") == math.inf
    waits.observe("tiny", 1.0)
    assert waits.late_s("tiny") == 1.0
    assert waits.late_s("other") == math.inf


def test_late_is_what_95_of_100_are_not() -> None:
    waits = FirstWaits()
    for n in range(100):
        waits.observe("tiny", float(n))
    assert waits.late_s("tiny") == 94.0
    assert sum(n > waits.late_s("tiny") for n in range(100)) == 5


def test_the_last_waits_of_the_last_models_count() -> None:
    waits = FirstWaits(keep=20, least=20, models=2)
    for wait_s in (9.0, 1.0):
        for _ in range(20):
            waits.observe("tiny", wait_s)
    assert waits.late_s("tiny") == 1.0
    for model in ("b", "c"):
        waits.observe(model, 1.0)
    assert waits.late_s("tiny") == math.inf
