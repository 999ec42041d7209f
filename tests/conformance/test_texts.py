"""The texts of proto/ against the code: limits, and messages."""

from __future__ import annotations

import re
from pathlib import Path

import meshd
from meshd import limits
from meshd.wire.control import MESSAGES
from tests.conformance.jsonform import PROTO
from tests.conformance.log_forms import LOG_MESSAGES

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
    for name in ("messages", "voter_list"):
        path = Path(meshd.__file__).parent / "consensus" / f"{name}.py"
        used |= set(re.findall(r"limits\.([A-Z_]+)", path.read_text()))
    assert used <= set(DOCUMENTED), used - set(DOCUMENTED)


def test_every_limit_that_the_texts_name_is_documented() -> None:
    for path in PROTO.glob("*.md"):
        named = set(re.findall(r"`([A-Z][A-Z_]+_(?:BYTES|S|CHARS|DEPTH|ITEMS))`", path.read_text()))
        assert named <= set(DOCUMENTED), (path.name, named - set(DOCUMENTED))


def test_every_message_about_the_log_is_in_the_text_with_its_fields() -> None:
    text = (PROTO / "log.md").read_text()
    for number, kind in LOG_MESSAGES.items():
        start = f"| {number} | `{kind.__name__}` |"
        row = next(line for line in text.splitlines() if line.startswith(start))
        fields = re.findall(r"`([a-z0-9_]+)`", row.split("|")[3])
        assert fields == list(kind.__struct_fields__)


def test_every_message_is_in_the_text() -> None:
    text = (PROTO / "peer.md").read_text()
    for number, kind in MESSAGES.items():
        assert f"| {number} | `{kind.__name__}` |" in text
