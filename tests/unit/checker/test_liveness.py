"""After the heal everything ends in time and all works: each planted violation by itself."""

from __future__ import annotations

import msgspec
import pytest

from meshd.testing.checker import (
    Answer,
    Calm,
    Claim,
    Granted,
    How,
    JobAction,
    JobOperation,
    Kind,
    Lapse,
    LetGo,
    Mode,
    Operation,
    Report,
    check_liveness,
    check_progress,
)

CALM = Calm(healed_s=40.0, settle_s=5.0, within_s=10.0, until_s=100.0)
"""So all works from 45 s on, and what was asked before is over at 55 s."""


def asked(
    at_s: float,
    ended_s: float | None,
    how: How = How.WHOLE,
    *,
    name: str = "r",
    key: str = "",
    accepted: bool = True,
    cause: str = "",
    excuse: str = "",
) -> Answer:
    return Answer(
        request=name,
        mode=Mode.KEYED if key else Mode.WHOLE,
        dialect="openai",
        model="m",
        entry="a",
        key=key,
        sent_at_s=at_s,
        ended_at_s=ended_s,
        how=how,
        accepted=accepted,
        cause=cause,
        excuse=excuse,
    )


FINE = asked(60.0, 61.0, name="fine")
"""Something that was sent once all was well."""


def found(report: Report) -> list[tuple[Kind, str]]:
    return [(violation.kind, violation.sentence) for violation in report.violations]


# --- requests


def test_a_mesh_that_answers_all_in_time_is_alive() -> None:
    report = check_liveness(
        [
            asked(10.0, 54.0),  # was held up until the heal, and on
            asked(11.0, 12.0, How.ERROR),  # failed while there were faults
            asked(12.0, None, How.SILENT, accepted=False),
            asked(41.0, 42.0, How.REFUSED, accepted=False),  # refused before it had settled
            asked(20.0, None, How.SILENT, key="k"),
            asked(50.0, 52.0, name="again", key="k"),
            FINE,
            asked(70.0, 71.0, How.LEFT, name="left"),
            asked(72.0, 72.1, How.ERROR, excuse="a schema"),
        ],
        CALM,
    )
    assert report.ok, str(report)
    assert report.counts["requests sent once all was well"] == 2


@pytest.mark.parametrize("key", ["", "k"])
@pytest.mark.parametrize(
    ("ended_s", "how", "told"),
    [
        (None, How.SILENT, "is not answered"),
        (30.0, How.CUT, "is not answered"),
        (55.1, How.WHOLE, "answered 15.1 s after the heal"),
        (70.0, How.ERROR, "answered 30.0 s after the heal"),
    ],
)
def test_what_was_taken_on_has_to_end_soon_after_the_heal(
    key: str, ended_s: float | None, how: How, told: str
) -> None:
    report = check_liveness([asked(10.0, ended_s, how, key=key), FINE], CALM)
    name = "key k" if key else "request r"
    sentence = f"{name} was accepted, and {told}; 15.0 s after the heal are allowed"
    assert found(report) == [(Kind.UNFINISHED, sentence)]


def test_a_key_that_is_refused_for_ever_is_found_though_nobody_accepted_it() -> None:
    tries = [
        asked(10.0, 10.1, How.REFUSED, key="k", accepted=False, excuse="repeated"),
        asked(97.0, None, How.SILENT, key="k", accepted=False),
    ]
    told = "key k was asked for again and again, and is not answered"
    assert found(check_liveness([*tries, FINE], CALM)) == [
        (Kind.UNFINISHED, f"{told}; 15.0 s after the heal are allowed")
    ]


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (asked(60.0, 61.0, How.ERROR, cause="no holder"), "ended error (no holder)"),
        (asked(60.0, 61.0, How.REFUSED, accepted=False), "ended refused"),
        (asked(60.0, 61.0, How.CUT), "ended cut"),
        (asked(60.0, 61.0, How.BROKEN), "ended broken"),
        (asked(60.0, None, How.SILENT, accepted=False), "ended silent"),
        (asked(60.0, 70.5), "took 10.5 s; 10.0 s are allowed"),
    ],
)
def test_what_is_sent_once_all_is_well_has_to_be_answered_whole_and_in_time(
    one: Answer, why: str
) -> None:
    report = check_liveness([one], CALM)
    assert found(report) == [(Kind.UNAVAILABLE, f"request r, sent 20.0 s after the heal, {why}")]


def test_what_was_under_way_when_watching_ended_is_counted_and_no_evidence() -> None:
    report = check_liveness([FINE, asked(95.0, None, How.SILENT)], CALM)
    assert report.ok
    assert report.counts["requests sent too late to be judged"] == 1


@pytest.mark.parametrize(
    ("requests", "until_s", "why"),
    [
        ([asked(10.0, 11.0)], 100.0, "liveness: nothing was sent once all was well"),
        (
            [FINE, asked(10.0, None, How.SILENT)],
            54.0,
            "liveness: request r was not answered, and watching ended 14.0 s after the heal; "
            "15.0 s after the heal are allowed",
        ),
        ([FINE, asked(1.0, None)], 100.0, "liveness: nobody noted when 1 requests ended"),
    ],
)
def test_what_was_not_looked_at_does_not_pass(
    requests: list[Answer], until_s: float, why: str
) -> None:
    report = check_liveness(requests, msgspec.structs.replace(CALM, until_s=until_s))
    assert (report.violations, report.undecided) == ([], [why])


def test_nobody_has_to_watch_on_when_all_is_over() -> None:
    early = [asked(10.0, 41.0), asked(46.0, 47.0, name="anew")]
    assert check_liveness(early, msgspec.structs.replace(CALM, until_s=47.0)).ok


# --- operations


CLAIM = Claim("a")


def operation(called_s: float, returned_s: float | None, action: JobAction = CLAIM) -> JobOperation:
    return Operation(
        client="c",
        subject="j",
        action=action,
        called_ns=round(called_s * 1e9),
        returned_ns=None if returned_s is None else round(returned_s * 1e9),
        result=None if returned_s is None else Granted(5),
    )


def test_operations_may_stay_open_before_the_heal_and_at_the_very_end() -> None:
    report = check_progress(
        [
            operation(10.0, None),
            operation(44.0, None),
            operation(50.0, 60.0),
            operation(50.0, None, Lapse()),
            operation(50.0, None, LetGo("a")),
            operation(95.0, None),
        ],
        CALM,
    )
    assert report.ok, str(report)
    assert report.counts["operations begun once all was well"] == 1


@pytest.mark.parametrize(
    ("returned_s", "took"), [(None, "was never answered"), (60.5, "took 10.5 s")]
)
def test_an_operation_that_is_begun_once_all_is_well_is_answered_in_time(
    returned_s: float | None, took: str
) -> None:
    report = check_progress([operation(50.0, returned_s)], CALM)
    sentence = f"claim by a, begun 10.0 s after the heal, {took}; 10.0 s are allowed"
    assert found(report) == [(Kind.UNAVAILABLE, sentence)]


def test_a_record_that_nobody_asked_anything_is_not_said_to_be_alive() -> None:
    report = check_progress([operation(10.0, 11.0)], CALM)
    assert report.undecided == ["liveness: nothing was begun once all was well"]
