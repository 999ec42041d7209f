"""Streams that came whole, and what can be wrong with one that did not."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from meshd.testing.checker import Kind, Report, Stream, check_stream
from meshd.testing.models import expected_text

TEXT = expected_text()
WORDS = [word + " " for word in TEXT.split(" ")]
WORDS[-1] = WORDS[-1].removesuffix(" ")


def stream(pieces: Sequence[str], **more: object) -> Stream:
    return Stream(request="r", pieces=pieces, finish="stop", **more)  # type: ignore[arg-type]


def said(report: Report) -> list[tuple[Kind, str]]:
    start = "the answer to r "
    assert all(violation.sentence.startswith(start) for violation in report.violations)
    return [(v.kind, v.sentence.removeprefix(start)) for v in report.violations]


def test_the_whole_answer_is_fine_however_it_is_cut() -> None:
    dice = random.Random(1)
    cuts = sorted(dice.sample(range(len(TEXT)), 50))
    pieces = [TEXT[a:b] for a, b in zip([0, *cuts], [*cuts, len(TEXT)], strict=True)]
    whole = stream(pieces, numbers=range(51), ids=["a", "a"])
    report = check_stream(whole, TEXT, finish="stop")
    assert report.ok
    assert report.counts["streams compared"] == 1


def test_the_seam_of_two_runs_that_fits_is_fine() -> None:
    first = expected_text(max_tokens=7)
    assert check_stream(stream([first, expected_text(after=first)]), TEXT).ok


@pytest.mark.parametrize("at", [0, 1, 20, 300])
def test_a_doubled_piece_is_found_where_it_is(at: int) -> None:
    pieces = [*WORDS[: at + 3], *WORDS[at : at + 3], *WORDS[at + 3 :]]
    ((kind, sentence),) = said(check_stream(stream(pieces), TEXT))
    assert kind is Kind.DOUBLED
    where = len("".join(WORDS[: at + 3]))
    again = "".join(WORDS[at : at + 3])
    assert sentence.startswith(f"has {again!r:.10}")
    assert sentence.endswith(f" twice: again at character {where}")


@pytest.mark.parametrize("at", [0, 1, 20, 300])
def test_a_lacking_piece_is_found_where_it_is(at: int) -> None:
    report = check_stream(stream([*WORDS[:at], *WORDS[at + 2 :]]), TEXT)
    lacking, where = "".join(WORDS[at : at + 2]), len("".join(WORDS[:at]))
    ((kind, sentence),) = said(report)
    assert kind is Kind.LOST
    # Where neighbours begin alike the lack shows some characters later.
    found = int(sentence.rsplit(" ", 1)[1])
    assert where <= found < where + len(lacking)


def test_a_space_at_the_seam_is_neither_lost_nor_doubled() -> None:
    first = "".join(WORDS[:5])
    rest = TEXT[len(first) :]
    lost = said(check_stream(stream([first.rstrip(), rest]), TEXT))
    doubled = said(check_stream(stream([first, " ", rest]), TEXT))
    assert [kind for kind, _ in lost] == [Kind.LOST]
    assert lost[0][1] == f"lacks ' ' at character {len(first) - 1}"
    assert doubled[0][0] is not Kind.LOST


def test_an_answer_that_ends_early_is_cut_unless_it_says_so() -> None:
    short = TEXT[:50]
    ((kind, sentence),) = said(check_stream(stream([short]), TEXT))
    assert kind is Kind.LOST
    assert sentence.startswith("ends early: after 50 characters")
    assert check_stream(Stream(request="r", pieces=[short], finish=None), TEXT).ok


def test_an_answer_that_ended_in_an_error_is_right_as_far_as_it_goes() -> None:
    wrong = Stream(request="r", pieces=[TEXT[:50], "?!"], finish=None)
    assert [kind for kind, _ in said(check_stream(wrong, TEXT))] == [Kind.WRONG]


def test_text_after_the_end_is_found() -> None:
    ((kind, sentence),) = said(check_stream(stream([TEXT, "!?"]), TEXT))
    assert (kind, sentence) == (Kind.UNEXPECTED, "goes on after its end: '!?'")
    report = check_stream(stream([TEXT], after_finish=2), TEXT)
    assert said(report) == [(Kind.UNEXPECTED, "went on after its finish_reason (2 events)")]


def test_another_text_is_wrong() -> None:
    ((kind, sentence),) = said(check_stream(stream(["something else entirely"]), "an answer"))
    assert (kind, sentence) == (
        Kind.WRONG,
        "differs at character 0: 'something else entirely' instead of 'an answer'",
    )


def test_deltas_are_numbered_once_and_in_order() -> None:
    twice = check_stream(stream(["a", "b"], numbers=[0, 1, 1]), None)
    assert said(twice) == [(Kind.DOUBLED, "had delta 1 twice")]
    for numbers in ([0, 2], [1, 0], [1, 2]):
        report = check_stream(stream(["a", "b"], numbers=numbers), None)
        assert [kind for kind, _ in said(report)] == [Kind.WRONG]


def test_a_stream_keeps_its_name() -> None:
    report = check_stream(stream([TEXT], ids=["id 1", "id 1", "id 2"]), TEXT)
    assert said(report) == [(Kind.WRONG, "changed its name on the way: id 1, id 2")]


def test_the_finish_reason_is_that_of_an_undisturbed_run() -> None:
    report = check_stream(stream([TEXT]), TEXT, finish="length")
    assert said(report) == [(Kind.WRONG, "ended with 'stop'; undisturbed it ends with 'length'")]


def test_every_planted_fault_at_every_place_is_found() -> None:
    """Whatever it is then called: a text that differs is never passed."""
    dice = random.Random(3)
    for _ in range(500):
        at = dice.randrange(len(WORDS) - 4)
        pieces = list(WORDS)
        match dice.randrange(3):
            case 0:
                pieces[at:at] = pieces[at : at + dice.randint(1, 4)]
            case 1:
                del pieces[at : at + dice.randint(1, 4)]
            case 2:
                pieces[at], pieces[at + 1] = pieces[at + 1], pieces[at]
        assert ("".join(pieces) == TEXT) == check_stream(stream(pieces), TEXT).ok
