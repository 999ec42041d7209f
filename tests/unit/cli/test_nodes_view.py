"""What `meshd nodes` says below its table."""

from __future__ import annotations

import msgspec

from meshd.cli import views
from meshd.cli.tables import Paper
from meshd.control import NodeRow

from .daemon import node


def page(*nodes: NodeRow) -> str:
    paper = Paper(terminal=True, width=80)
    views.show_nodes(paper, list(nodes))
    return " ".join(paper.text().split())


def in_state(name: str, state: str) -> NodeRow:
    return msgspec.structs.replace(node(name), state=state)


def test_it_says_what_to_do_with_a_member_that_never_comes_back() -> None:
    text = page(in_state("box", "failed"), in_state("attic", "failed"), in_state("a", "alive"))
    assert "box, attic: no answer." in text
    assert "does no harm" in text


def test_of_members_that_were_stopped_or_sleep_it_says_nothing() -> None:
    assert "no answer" not in page(in_state("box", "left"), in_state("attic", "asleep"))
