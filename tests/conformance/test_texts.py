"""The texts of proto/ against the code: limits, and messages."""

from __future__ import annotations

import re
from pathlib import Path

import meshd
from meshd import limits
from meshd.wire.control import MESSAGES
from tests.conformance.jsonform import PROTO

ROW = re.compile(r"^\| `([A-Z_]+)` \| ([0-9.]+) \| .+ \|$", re.MULTILINE)
DOCUMENTED = dict(ROW.findall((PROTO / "limits.md").read_text()))


def test_every_documented_limit_is_that_of_the_code() -> None:
    assert len(DOCUMENTED) > 40
    for name, value in DOCUMENTED.items():
        assert getattr(limits, name) == float(value), name


def test_every_row_of_the_document_is_one_that_is_compared() -> None:
    rows = [
        line
        for line in (PROTO / "limits.md").read_text().splitlines()
        if line.startswith("|") and not line.startswith(("| name", "|---"))
    ]
    assert len(rows) == len(DOCUMENTED)


def test_every_limit_of_the_wire_is_documented() -> None:
    """What meshd/wire refuses, a second implementation has to know of."""
    sources = (Path(meshd.__file__).parent / "wire").glob("*.py")
    used = {name for path in sources for name in re.findall(r"limits\.([A-Z_]+)", path.read_text())}
    assert used <= set(DOCUMENTED), used - set(DOCUMENTED)


def test_every_limit_that_the_texts_name_is_documented() -> None:
    for path in PROTO.glob("*.md"):
        named = set(re.findall(r"`([A-Z][A-Z_]+_(?:BYTES|S|CHARS|DEPTH|ITEMS))`", path.read_text()))
        assert named <= set(DOCUMENTED), (path.name, named - set(DOCUMENTED))


def test_every_message_is_in_the_text() -> None:
    text = (PROTO / "peer.md").read_text()
    for number, kind in MESSAGES.items():
        assert f"| {number} | `{kind.__name__}` |" in text
