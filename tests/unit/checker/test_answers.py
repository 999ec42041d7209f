"""What all requests of a run come to, and what each planted fault does to the tally."""

from __future__ import annotations

import msgspec
import pytest

from meshd.testing.checker import Answer, How, Mode, Piece, Seam, judge_answers
from meshd.testing.models import expected_text

TEXT = expected_text(max_tokens=10)
PIECES = tuple(
    Piece(at_s=1.0 + i / 10, text=word) for i, word in enumerate(TEXT.replace(" ", "| ").split("|"))
)


def answer(request: str = "r", **more: object) -> Answer:
    fine = Answer(
        request=request,
        mode=Mode.STREAMED,
        dialect="openai",
        model="tiny",
        entry="a",
        sent_at_s=0.5,
        ended_at_s=2.0,
        how=How.WHOLE,
        accepted=True,
        status=200,
        finish="length",
        expected=TEXT,
        expected_finish="length",
        pieces=PIECES,
    )
    return msgspec.structs.replace(fine, **more)


def test_whole_answers_are_fine() -> None:
    tally = judge_answers([answer("1"), answer("2", mode=Mode.WHOLE)])
    assert tally.ok, tally.violations
    assert (tally.sent, tally.accepted, tally.answered) == (2, 2, 2)


@pytest.mark.parametrize("how", [How.CUT, How.BROKEN, How.SILENT])
def test_an_accepted_request_without_an_end_is_lost(how: How) -> None:
    tally = judge_answers([answer(how=how, finish=None, pieces=PIECES[:3])])
    assert (tally.lost, tally.ok) == (1, False)


def test_what_the_docs_exclude_is_counted_and_no_violation() -> None:
    tally = judge_answers(
        [answer(how=How.BROKEN, finish=None, pieces=PIECES[:3], excuse="its entry died")]
    )
    assert tally.ok
    assert tally.excused_by == {"its entry died": 1}


def test_an_excuse_does_not_excuse_a_wrong_text() -> None:
    pieces = (*PIECES[:3], Piece(at_s=2.0, text=" nonsense"))
    tally = judge_answers([answer(how=How.BROKEN, pieces=pieces, excuse="its entry died")])
    assert (tally.wrong, tally.ok) == (1, False)


@pytest.mark.parametrize("mode", [Mode.STREAMED, Mode.KEYED])
def test_a_delta_twice_is_doubled(mode: Mode) -> None:
    tally = judge_answers([answer(mode=mode, pieces=(*PIECES[:5], *PIECES[3:]))])
    assert (tally.doubled, tally.ok) == (1, False)


def test_two_answers_to_one_key_are_doubled() -> None:
    other = (Piece(at_s=1.0, text="something else"),)
    one = answer("1", key="k", expected=None)
    two = answer("2", key="k", expected=None, pieces=other)
    assert judge_answers([one, msgspec.structs.replace(one, request="3")]).ok
    assert judge_answers([one, two]).doubled == 1


def test_a_key_that_was_answered_once_is_answered() -> None:
    broken = answer("1", key="k", how=How.BROKEN, pieces=PIECES[:2])
    assert judge_answers([broken, answer("2", key="k")]).ok
    assert judge_answers([broken]).lost == 1


def test_another_end_than_the_undisturbed_one_is_wrong() -> None:
    assert judge_answers([answer(finish="stop")]).wrong == 1


def test_text_after_the_end_is_wrong() -> None:
    assert judge_answers([answer(after_finish=1)]).wrong == 1


def test_one_of_a_hundred_may_fail_and_not_two() -> None:
    failed = {"how": How.ERROR, "finish": None, "pieces": PIECES[:2], "cause": "engine_failed"}
    fine = [answer(str(i)) for i in range(98)]
    one = judge_answers([*fine, answer("98"), answer("99", **failed)])
    assert one.ok
    assert one.failed_by == {"engine_failed": 1}
    two = judge_answers([*fine, answer("98", **failed), answer("99", **failed)])
    assert two.violations[0].startswith("failed: 2 of 100 plain-text requests failed: 2 x engine")


def test_a_key_is_one_request_however_often_it_is_asked() -> None:
    refused = {"key": "k", "how": How.REFUSED, "accepted": False, "pieces": (), "finish": None}
    tries = [
        answer("1", **refused, excuse="repeated"),
        answer("1.2", key="k", how=How.BROKEN, pieces=PIECES[:2], excuse="repeated"),
        answer("1.3", key="k"),
        answer("1.4", key="k"),
    ]
    tally = judge_answers([*tries, answer("2")])
    assert tally.ok, tally.violations
    assert (tally.sent, tally.tries, tally.accepted, tally.answered) == (2, 5, 2, 2)
    assert (tally.failed, tally.excused_by) == (0, {})


def test_a_key_that_ended_in_an_error_failed_once() -> None:
    refused = {"key": "k", "how": How.REFUSED, "pieces": (), "finish": None, "cause": "busy"}
    tries = [answer(f"1.{n}", **refused, excuse="repeated" if n < 50 else "") for n in range(51)]
    tally = judge_answers(tries)
    assert (tally.sent, tally.tries, tally.failed, tally.failed_by) == (1, 51, 1, {"busy": 1})
    assert tally.violations[0].startswith("failed: 1 of 1 plain-text requests failed: 1 x busy")


def test_gaps_are_told_apart_by_how_the_answer_went_on() -> None:
    seams = [
        Seam(way="continue", at_s=3.0, gap_s=0.1 * n, first_token_s=0.05) for n in range(1, 101)
    ]
    tally = judge_answers([answer(str(i), seams=[seam]) for i, seam in enumerate(seams)])
    gaps = tally.gaps_by["continue"]
    assert (gaps.count, gaps.p50_s, gaps.p99_s) == (100, pytest.approx(5.0), pytest.approx(9.9))
    assert gaps.p99_beyond_first_token_s == pytest.approx(9.85)
    assert tally.recovered_by == {"continue": 100}


def test_an_answer_in_one_body_that_went_on_is_recovered_and_has_no_gap_that_anyone_saw() -> None:
    body = (Piece(at_s=6.0, text=TEXT),)
    seam = Seam(way="replay", at_s=6.0, gap_s=5.5)
    tally = judge_answers([answer(mode=Mode.WHOLE, pieces=body, seams=[seam])])
    assert tally.recovered_by == {"replay": 1}
    assert tally.gaps_by == {}


def test_a_tally_is_data() -> None:
    tally = judge_answers([answer(seams=[Seam(way="replay", at_s=1.0, gap_s=0.2)])])
    assert msgspec.json.decode(msgspec.json.encode(tally), type=type(tally)) == tally
