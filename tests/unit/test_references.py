"""What texts and comments refer to is there: documents, their headings, the ends of links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("meshd", "chaos", "examples", "tests", "docs", "proto", "packaging")
TEXTS = sorted(
    path.relative_to(ROOT)
    for suffix in ("py", "md")
    for path in [
        *ROOT.glob(f"*.{suffix}"),
        *(p for f in FOLDERS for p in ROOT.glob(f"{f}/**/*.{suffix}")),
    ]
    if path != Path(__file__)
)

MENTION = re.compile(
    r'(?<![\w./-])((?:[\w.-]+/)*[\w-]+\.md)\b(?:\)?, (?:"([^"]+)"|(sections? \d)))?'
)
"""A document, and the heading that is meant in it: `relay/DESIGN.md, "Hedging"`."""
LINK = re.compile(r"\]\(([^)\s]+)\)")
NOT_ONE_DOCUMENT = {Path("README.md"): "DESIGN.md"}
"""It says that there is one in each package."""


def wrong_mentions(path: Path, text: str) -> list[str]:
    """The documents and headings that `text`, of the file at `path`, names and that are not there.

    A document is named from the root, from `meshd/`, or from beside the file.  A name alone is
    taken for one only if it is DESIGN.md: the package's own.
    """
    found = []
    for name, heading, number in MENTION.findall(re.sub(r"\n\s*(?:#+ )?", " ", text)):
        if ("/" not in name and name != "DESIGN.md") or NOT_ONE_DOCUMENT.get(path) == name:
            continue
        beside = ROOT / path.parent / name
        places = [beside] if "/" not in name else [beside, ROOT / name, ROOT / "meshd" / name]
        document = next((place for place in places if place.exists()), None)
        if document is None:
            found.append(f"{name} is not there")
        elif number or (heading and heading not in headings(document)):
            found.append(f'{name} has no "{heading or number}"')
    return found


def headings(document: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)


def wrong_links(path: Path, text: str) -> list[str]:
    """The links of a document at `path` that lead nowhere."""
    found = []
    for link in LINK.findall(text):
        to, _, anchor = link.partition("#")
        document = ROOT / path.parent / to if to else ROOT / path
        if "://" in link:
            continue
        if not document.exists() or (anchor and anchor not in map(anchor_of, headings(document))):
            found.append(link)
    return found


def anchor_of(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")


def test_documents_and_headings_that_are_named_are_there() -> None:
    wrong = {path: wrong_mentions(path, (ROOT / path).read_text()) for path in TEXTS}
    assert {str(path): found for path, found in wrong.items() if found} == {}


def test_links_of_documents_lead_somewhere() -> None:
    documents = [path for path in TEXTS if path.suffix == ".md"]
    wrong = {path: wrong_links(path, (ROOT / path).read_text()) for path in documents}
    assert {str(path): found for path, found in wrong.items() if found} == {}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('"""As in relay/DESIGN.md, "Hedging"."""', []),
        ('# (DESIGN.md,\n    # "Hedging")', []),
        ('DESIGN.md, "Placement"', ['DESIGN.md has no "Placement"']),
        ("DESIGN.md, section 3", ['DESIGN.md has no "section 3"']),
        ("see nowhere/DESIGN.md", ["nowhere/DESIGN.md is not there"]),
        ("[there](../../proto/htp.md)", ["../../proto/htp.md is not there"]),
        ("a file called notes.md", []),
    ],
)
def test_what_is_not_there_is_found(text: str, wrong: list[str]) -> None:
    assert wrong_mentions(Path("meshd/relay/race.py"), text) == wrong


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = "[a](#hedging) [b](#places) [c](../api/DESIGN.md#places) [d](https://x.org/#y) [e](x.md)"
    there = Path("meshd/relay/DESIGN.md")
    assert wrong_links(there, text) == ["#places", "../api/DESIGN.md#places", "x.md"]
