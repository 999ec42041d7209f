"""What is shown fits into 80 columns, loses nothing, and stays one row a line in a pipe."""

from __future__ import annotations

import pytest

from meshd.cli import views
from meshd.cli.tables import Column, Paper
from meshd.cli.words import ago, count, duration, listed, parse_duration, plain, tokens
from meshd.control import Finding, ModelRow, PendingRow, RecordReport, VoterRow

from .daemon import MODELS, NODES, node, report

PENDING = [PendingRow("123456", "Anns-MacBook", "192.168.1.33", 12.0)]
FINDINGS = [
    Finding("daemon", "ok", "meshd 0.1.0 runs (pid 42) and answers", "not shown"),
    Finding(
        "local-network", "fail", "no route to attic, while " + "so " * 30, "Do this.\nThen that."
    ),
]


RECORD = RecordReport(
    problem="",
    leader="studio",
    term=3,
    last=1204,
    commit=1204,
    applied=1201,
    digest="5f" * 32,
    sync_ms=0.44,
    members=4,
    voters=[
        VoterRow("a" * 26, "studio", "leads", "here", 1204, holds_ca=True),
        VoterRow("b" * 26, "attic", "votes", "answers", 1204),
        VoterRow("c" * 26, "Anns-MacBook-Pro-16.local", "votes", "away", 1180),
        VoterRow("d" * 26, "box", "follows", "answers"),
    ],
)


def page(*, width: int | None = 80, terminal: bool = True) -> str:
    paper = Paper(terminal=terminal, width=width)
    problems = ["box has not been heard of for 2 d 7 h: see that it is on and on the network."]
    views.show_status(paper, report(problems=problems))
    views.show_nodes(paper, NODES)
    views.show_models(paper, MODELS)
    views.show_pending(paper, PENDING)
    views.show_findings(paper, FINDINGS)
    views.show_record(paper, RECORD)
    return paper.text()


@pytest.fixture(autouse=True)
def _without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


def test_nothing_is_wider_than_80_columns_or_cut() -> None:
    text = page()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    letters = "".join(text.split())
    for name in ("Anns-MacBook-Pro-16.local", "192.168.1.20", "failed2d", "12"):
        assert name in letters


def test_the_record_is_shown_with_who_keeps_it() -> None:
    paper = Paper(terminal=True, width=80)
    views.show_record(paper, RECORD)
    assert paper.text() == (
        "1,201 of 1,204 entries applied here, 1,204 held by a majority; term 3\n"
        "studio leads; 4 members in it; making durable takes 0.44 ms here\n"
        "state 5f5f5f5f5f5f5f5f\n"
        "\n"
        "NODE                       PART     STATE    CA KEY    HAS\n"
        "studio                     leads    here     yes     1,204\n"
        "attic                      votes    answers          1,204\n"
        "Anns-MacBook-Pro-16.local  votes    away             1,180\n"
        "box                        follows  answers"
    )


def test_the_status_of_a_usual_mesh_has_one_line_a_node() -> None:
    paper = Paper(terminal=True, width=80)
    nodes = [
        node("studio", state="self", founder=True, seen_s=None),
        node("Anns-MacBook-Pro", state="asleep", seen_s=4000.0),
        node("attic", drained=True),
    ]
    views.show_status(paper, report(node=nodes[0], nodes=nodes, models=1))
    assert paper.text() == (
        "studio serves http://127.0.0.1:11435\n"
        "meshd 0.1.0, mesh k3p7qa, 1 model on 3 nodes, up 3 h 12 min, pid 4242\n"
        "\n"
        "NODE              STATE       ADDRESS       WARM  BUSY  WAITING\n"
        "studio            here        192.168.1.20  2/12   1/4        0\n"
        "Anns-MacBook-Pro  asleep 1 h  192.168.1.20  2/12   1/4        0\n"
        "attic             drained     192.168.1.20  2/12   1/4        0\n"
        "\n"
        "ENGINE HERE      URL                     MODELS  SLOTS  STATE\n"
        "ollama 0.9.3     http://127.0.0.1:11434      12      1  serving\n"
        "llama.cpp b4521  http://127.0.0.1:8080        1      4  gone: nobody listens\n"
        "                                                        there"
    )


def test_a_member_that_said_goodbye_is_shown_as_stopped() -> None:
    assert views.state_cell(node("box", state="left", seen_s=60.0)).text == "stopped 1 min"


def test_a_pipe_gets_one_row_a_line_however_long() -> None:
    paper = Paper(terminal=False)
    views.show_models(paper, MODELS)
    lines = paper.text().splitlines()
    assert lines[2].split() == [
        "qwen2.5-coder:32b-instruct-q4_K_M",
        "studio,",
        "Anns-MacBook-Pro-16.local*",
        "8k-32k",
        "chat,",
        "tools,",
        "insert",
    ]
    assert "\x1b" not in page(terminal=False, width=None)


def test_a_terminal_gets_colours_unless_it_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in page()
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[" in page()
    assert "\x1b" not in page(terminal=False)


def test_names_from_other_machines_cannot_move_the_cursor() -> None:
    paper = Paper(terminal=True, width=80)
    evil = "a\x1b[2J\x07\r\nb\u202ec [bold]d[/bold] :smile:"
    views.show_nodes(paper, [node(evil)])
    views.show_models(paper, [ModelRow(evil, 1, [evil], [])])
    views.show_status(paper, report(problems=[evil]))
    text = paper.text()
    assert "\x1b" not in text
    assert "\r" not in text
    assert "\u202e" not in text
    assert "[bold]" in text


def test_a_narrow_terminal_folds_and_does_not_fail() -> None:
    assert max(map(len, page(width=50).splitlines())) <= 60


def test_a_remedy_is_shown_where_there_is_something_to_mend() -> None:
    text = page()
    assert "not shown" not in text
    assert "     Do this.\n     Then that." in text
    assert "FAIL local-network: no route to attic" in text


def test_an_empty_table_still_has_its_head() -> None:
    paper = Paper(terminal=False)
    paper.table([Column("A"), Column("B")], [])
    assert paper.text() == "A  B"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (11_520, "3 h 12 min"),
        (90_000, "1 d 1 h"),
        (172_800, "2 d"),
    ],
)
def test_durations_are_read_easily(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_words() -> None:
    assert ago(11_520) == "3 h"
    assert (count(1, "node"), count(0, "node"), count(2, "copy", "copies")) == (
        "1 node",
        "0 nodes",
        "2 copies",
    )
    assert [tokens(n) for n in (0, 512, 4096, 131_072, 32_000)] == ["?", "512", "4k", "128k", "32k"]
    assert listed(["a", "b"]) == "a, b"
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
    assert plain("ok é 漢") == "ok é 漢"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800), ("1.5h", 5400)],
)
def test_durations_are_typed_easily(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "5", "-1h", "1y", "1h30", "nan", "inf"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)
