"""What `meshd record check` found, as a person reads it."""

from __future__ import annotations

from meshd.cli.tables import Cell, Column, Paper
from meshd.cli.words import count, listed
from meshd.ids import short
from meshd.ledger.examination import Examination

_VERDICTS = {
    "none": ("There is no journal.", ""),
    "sound": ("The journal is in order.", "good"),
    "unfinished": ("The journal is in order but for what a crash left.", "good"),
    "damaged": ("The journal is damaged.", "bad"),
    "foreign": ("The journal is not this node's.", "bad"),
    "newer": ("The journal is of a later meshd.", "warn"),
}


def show_examination(paper: Paper, found: Examination) -> None:
    """Verdict, files, what is in them, and what is wrong."""
    verdict, mood = _VERDICTS.get(found.verdict, (found.verdict, ""))
    if found.problems and mood == "good":
        verdict, mood = "The files of the journal are in order.", "warn"
    paper.line(verdict, mood)
    paper.line(found.folder, "dim")
    if found.files:
        paper.line()
        paper.table(
            [
                Column("FILE"),
                Column("BYTES", right=True),
                Column("HOLDS", grows=True),
                Column("WRONG WITH IT", grows=True),
            ],
            [
                [file.name, f"{file.size_bytes:,}", file.what, Cell(file.problem, "bad")]
                for file in found.files
            ],
        )
    if found.last is not None:
        paper.line()
        _show_contents(paper, found)
    if found.aside:
        paper.line()
        paper.line(f"Set aside before: {listed(found.aside)}", "dim")
    for mark, sentences, mood in (("!", found.problems, "bad"), ("-", found.notes, "")):
        if sentences:
            paper.line()
        for sentence in sentences:
            paper.item(mark, sentence, mood)


def _show_contents(paper: Paper, found: Examination) -> None:
    assert found.last is not None
    snapshot = f", of which a snapshot stands for {found.base:,}" if found.base else ""
    paper.line(f"{count(found.last, 'entry', 'entries')}{snapshot}; term {found.term}")
    voters = found.voters or []
    if voters == [found.node]:
        paper.line("this node alone has a vote")
    elif voters:
        mine = "this node is one of them" if found.node in voters else "this node is none of them"
        paper.line(f"{count(len(voters), 'vote')}: {', '.join(map(short, voters))}; {mine}")
    if found.applied is not None:
        total = sum(found.commands.values())
        refused = f", of which the record refused {found.refused:,}" if found.refused else ""
        what = f" ({_kinds(found.commands)})" if total else ""
        paper.line(f"{count(total, 'command')}{what}{refused}")
        paper.line(
            f"state after entry {found.applied:,}: {found.digest[:16]}, "
            f"{count(found.members, 'member')}, {count(found.jobs, 'open job')}"
        )


def _kinds(commands: dict[str, int]) -> str:
    most = sorted(commands.items(), key=lambda item: (-item[1], item[0]))
    return listed([f"{name} {number:,}" for name, number in most], most=6)
