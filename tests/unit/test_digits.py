"""Numbers in texts of others: digits are read where they are a number, and nothing raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.backends.listing import ollama_shown
from meshd.digits import whole_number
from meshd.ids import parse_address

NONE = ["", "-1", "+1", "1.5", "1e3", " 1", "1_000", "²", "٣", "1²", "x", "9" * 10, "9" * 5000]


@pytest.mark.parametrize("text", NONE, ids=lambda text: text[:12])
def test_what_is_no_number_is_none(text: str) -> None:
    assert whole_number(text) is None


@given(st.integers(min_value=0, max_value=999_999_999))
def test_what_is_one_is_that(number: int) -> None:
    assert whole_number(str(number)) == number


@given(st.text())
def test_no_text_raises(text: str) -> None:
    number = whole_number(text)
    assert number is None or 0 <= number < 10**9


@pytest.mark.parametrize("text", ["²", "٣", "9" * 5000])
def test_such_digits_are_no_port_and_no_context(text: str) -> None:
    with pytest.raises(ValueError, match="the port must be a number"):
        parse_address(f"host:{text}", 80)
    assert ollama_shown({"parameters": f"num_ctx {text}"}) == {"capabilities": []}
