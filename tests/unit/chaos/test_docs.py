"""docs/no-answer-lost.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from meshd_chaos.excuses import EXCUSES
from meshd_chaos.report.markdown import BEGIN, END, written_into

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "no-answer-lost.md"


def test_the_exclusions_of_the_docs_are_those_of_the_code_and_no_others() -> None:
    said = dict(re.findall(r"^\| `([\w-]+)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE))
    assert said == {name: rule.sentence for name, rule in EXCUSES.items()}


def test_there_is_one_place_for_the_measured_tables() -> None:
    text = PAGE.read_text()
    assert (text.count(BEGIN), text.count(END)) == (1, 1)
    assert written_into(text, "new") is not None
