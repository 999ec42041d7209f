"""What the runs came to, for a terminal of 80 columns."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from meshd.cli.words import plain
from meshd_chaos.records import Run, RunSet
from meshd_chaos.report import figures
from meshd_chaos.report.fates import WAYS, seconds
from meshd_chaos.report.figures import Figures

VIOLATIONS_MAX = 10
"""Sentences for each run; the report and the JSON have all."""


def table(runs: RunSet) -> RenderableType:
    """The numbers, the gaps, what was not tested, what must not be, and the verdict."""
    everything = figures.of_all(runs)
    parts: list[RenderableType] = []
    if runs.runs:
        parts += [_numbers(runs, everything), Text()]
    if everything.ways:
        parts += [_ways(everything), Text()]
    parts += [_item(what, f"{n} x {why}") for what, why, n in everything.unanswered]
    if everything.asked_again:
        parts.append(_item("tries", everything.asked_again))
    for what, why in figures.all_not_tested(runs):
        parts.append(_item("not tested", f"{what}: {why}", "yellow"))
    parts += [_item(run.scenario, run.busy, "yellow") for run in runs.runs if run.busy]
    for run in runs.runs:
        parts += [_item("note", f"{run.scenario}: {note}", "yellow") for note in run.notes]
        parts += _violations(run)
    good = everything.ok and everything.tally.accepted
    style = "bold green" if good else "bold yellow" if everything.ok else "bold red"
    parts.append(Text(figures.verdict(runs), style=style))
    return Group(*parts)


def _numbers(runs: RunSet, everything: Figures) -> Table:
    table = _plain_table()
    table.add_column("")
    table.add_column("scenario", overflow="fold", max_width=20)
    for name in ("sent", "whole", "lost", "doubled", "wrong", "failed", "excused", "gap p99"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs.runs:
        table.add_row(*_row(figures.of_run(run)))
    if len(runs.runs) > 1:
        table.add_row(*_row(everything), style="bold")
    return table


def _row(its: Figures) -> list[Text]:
    tally = its.tally
    held = ("ok", "green") if tally.accepted else ("-", "yellow")
    return [
        Text(*(held if its.ok else ("NO", "red"))),
        Text(plain(its.name)),
        *(Text(str(count)) for count in (tally.sent, tally.answered)),
        *(
            Text(str(count), style="bold red" if count else "")
            for count in (tally.lost, tally.doubled, tally.wrong)
        ),
        *(Text(str(count)) for count in (tally.failed, its.excused)),
        Text(seconds(its.gaps.p99_s) if its.gaps else ""),
    ]


def _ways(everything: Figures) -> Table:
    table = _plain_table()
    table.add_column("went on elsewhere", overflow="fold")
    for name in ("answered", "gap p50", "p99", "longest"):
        table.add_column(name, justify="right", no_wrap=True)
    for way, whole, gaps in everything.ways:
        seen = (gaps.p50_s, gaps.p99_s, gaps.longest_s) if gaps else ()
        table.add_row(Text(plain(WAYS.get(way, way))), str(whole), *map(seconds, seen))
    return table


def _violations(run: Run) -> list[RenderableType]:
    if run.ok:
        return []
    parts: list[RenderableType] = [Text(), Text(plain(run.scenario), style="bold")]
    for violation in run.violations[:VIOLATIONS_MAX]:
        parts.append(_item("!", violation.partition("\n")[0], "red"))
    if len(run.violations) > VIOLATIONS_MAX:
        parts.append(_item("!", f"and {len(run.violations) - VIOLATIONS_MAX} more", "red"))
    parts.append(_item("again:", figures.command(run)))
    parts.append(Text())
    return parts


def _item(mark: str, sentence: str, style: str = "dim") -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark, style=style), Text(plain(sentence)))
    return Padding(grid, (0, 0, 0, 0))


def _plain_table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
