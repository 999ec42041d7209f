"""What is left out, taken apart and counted where a run goes on after another one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.backends.seam import MoreTokens, Seam, ThoughtsFirst, WithoutEdge
from meshd.inference import Delta, Usage

CUTS = st.lists(st.integers(0, 60), max_size=12)


def through(seam: Seam, pieces: Sequence[str]) -> tuple[str, str]:
    """Thoughts and text of an answer that is said in these pieces."""
    items = [Delta(text=piece) for piece in pieces if piece]
    out = [item for piece in items for item in seam([piece])] + seam([Delta(finish_reason="stop")])
    deltas = [item for item in out if isinstance(item, Delta)]
    assert deltas[-1].finish_reason == "stop"
    return "".join(d.reasoning for d in deltas), "".join(d.text for d in deltas)


def cut(text: str, at: Sequence[int]) -> list[str]:
    places = sorted({0, len(text), *(place for place in at if place < len(text))})
    return [text[a:b] for a, b in pairwise(places)]


@pytest.mark.parametrize(
    ("edge", "said", "rest"),
    [
        ("\n\n", "\n\nThen", "Then"),
        ("\n\n", "\nThen", "Then"),
        ("  ", " x = 1", "x = 1"),
        (" ", "\nThen", "\nThen"),
        ("\n", "\n\nThen", "\nThen"),
        (" ", "Then", "Then"),
    ],
)
@given(at=CUTS)
def test_white_space_that_the_client_has_is_not_said_again(
    edge: str, said: str, rest: str, at: list[int]
) -> None:
    assert through(WithoutEdge(edge, in_thoughts=False), cut(said, at)) == ("", rest)


def test_the_edge_of_thoughts_is_looked_for_in_thoughts() -> None:
    seam = WithoutEdge("\n", in_thoughts=True)
    assert seam([Delta(reasoning="\n")]) == []
    assert seam([Delta(reasoning=" so"), Delta(text="\n")]) == [
        Delta(reasoning=" so"),
        Delta(text="\n"),
    ]


@given(at=CUTS)
def test_raw_thoughts_and_text_are_told_apart_however_they_are_cut(at: list[int]) -> None:
    said = " me see < 3 </thin air\n</think>\n\n the answer </think> is 42"
    thoughts, text = through(ThoughtsFirst("\n</think>\n\n"), cut(said, at))
    assert thoughts == " me see < 3 </thin air\n"
    assert text == "the answer </think> is 42"


@given(at=CUTS)
def test_thoughts_that_do_not_end_are_all_thoughts(at: list[int]) -> None:
    assert through(ThoughtsFirst("</think>"), cut("let me see </thi", at)) == (
        "let me see </thi",
        "",
    )


def test_tokens_that_the_entry_had_not_seen_are_no_longer_the_prompts() -> None:
    usage = Usage(prompt_tokens=20, completion_tokens=5)
    assert MoreTokens(3)([Delta(text="x"), usage]) == [
        Delta(text="x"),
        Usage(prompt_tokens=17, completion_tokens=8),
    ]
