"""The measured tables of docs/no-answer-lost.md.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from meshd.testing.checker import Gaps
from meshd_chaos.records import Run, RunSet
from meshd_chaos.report import figures
from meshd_chaos.report.fates import WAYS, seconds
from meshd_chaos.report.figures import Figures

BEGIN: Final = "<!-- measured: begin (python -m meshd_chaos.measured writes this) -->"
END: Final = "<!-- measured: end -->"

Cells = Sequence[str | int]
_NO_GAPS: Final = ("", "", "", "")


def measured(runs: RunSet) -> str:
    """All there is to say of these runs: whence, the table by scenario, gaps, what is missing."""
    everything = figures.of_all(runs)
    parts = [_whence(runs), _by_scenario(runs, everything), _by_way(everything)]
    parts += [
        _unanswered(everything),
        _not_tested(runs),
        "\n".join(f"- {_plain(run.scenario)}: {run.busy}" for run in runs.runs if run.busy),
        _violations(runs.runs),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def written_into(document: str, tables: str) -> str | None:
    """The document with these tables between its marks; None if it has no marks."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        return None
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def _whence(runs: RunSet) -> str:
    if not runs.runs:
        return figures.verdict(runs)
    days = sorted({run.began[:10] for run in runs.runs})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    places = "; ".join(dict.fromkeys(f"meshd {run.meshd} on {run.machine}" for run in runs.runs))
    counts = sorted({len(run.nodes) for run in runs.runs})
    nodes = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    return f"{_plain(figures.verdict(runs))}\n({when}; {_plain(places)}, {nodes} nodes.)"


def _by_scenario(runs: RunSet, everything: Figures) -> str:
    head = (
        "scenario", "runs", "faults", "requests", "tries", "answered", "lost", "doubled", "wrong",
        "failed", "excused", "recovered", "gap p50", "p99", "longest", "p99 beyond first token",
    )  # fmt: skip
    scenarios = dict.fromkeys(run.scenario for run in runs.runs)
    rows: list[Cells] = []
    for name in scenarios:
        its = RunSet(runs=tuple(run for run in runs.runs if run.scenario == name))
        rows.append(_row(name, len(its.runs), figures.of_all(its)))
    if len(rows) > 1:
        rows.append(_row("**all**", len(runs.runs), everything))
    return _table(head, rows) if rows else ""


def _row(name: str, count: int, its: Figures) -> Cells:
    tally = its.tally
    numbers = (
        count, its.faults, tally.sent, tally.tries, tally.answered, tally.lost, tally.doubled,
        tally.wrong, tally.failed, its.excused, its.recovered,
    )  # fmt: skip
    return (name, *numbers, *(_gap_cells(its.gaps) if its.gaps else _NO_GAPS))


def _gap_cells(gaps: Gaps) -> tuple[str, str, str, str]:
    beyond = gaps.p99_beyond_first_token_s
    return (
        seconds(gaps.p50_s),
        seconds(gaps.p99_s),
        seconds(gaps.longest_s),
        "" if beyond is None else seconds(beyond),
    )


def _by_way(everything: Figures) -> str:
    head = ("how it went on", "answered", "gap p50", "p99", "longest", "p99 beyond first token")
    rows: list[Cells] = [
        (WAYS.get(way, way), whole, *(_gap_cells(gaps) if gaps else _NO_GAPS))
        for way, whole, gaps in everything.ways
    ]
    return _table(head, rows) if rows else ""


def _unanswered(everything: Figures) -> str:
    """Why as many are missing as are missing."""
    found = sorted(everything.unanswered, key=lambda one: (one[0], -one[2], one[1]))
    return "\n".join(f"- {what}: {count:,} x {_plain(why)}" for what, why, count in found)


def _not_tested(runs: RunSet) -> str:
    skipped = [
        f"- **not tested**: {_plain(what)}: {_plain(why)}"
        for what, why in figures.all_not_tested(runs)
    ]
    return "\n".join(skipped)


def _violations(runs: Iterable[Run]) -> str:
    found = [
        f"- **must not be**: {_plain(run.scenario)}, seed {run.seed}:"
        f" {_plain(violation.partition(chr(10))[0])}"
        for run in runs
        for violation in run.violations
    ]
    return "\n".join(found)


def _table(head: Sequence[str], rows: Sequence[Cells]) -> str:
    lines = [_line(head), _line(["---"] + ["--:"] * (len(head) - 1)), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Cells) -> str:
    texts = (f"{cell:,}" if isinstance(cell, int) else _plain(cell) for cell in cells)
    return f"| {' | '.join(texts)} |"


def _plain(text: str) -> str:
    """As it is, in a table too."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
