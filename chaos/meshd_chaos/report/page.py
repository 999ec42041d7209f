"""The report: one HTML file that needs nothing else, and asks nobody for anything.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from meshd.testing.checker import Answer, Gaps
from meshd_chaos.records import FaultRecord, Run, RunSet
from meshd_chaos.report import figures
from meshd_chaos.report.fates import MEANING, WAYS, Fate, counted, facts, fates, seconds
from meshd_chaos.report.figures import Figures
from meshd_chaos.report.gap_plot import gap_plot
from meshd_chaos.report.markup import Markup, Node, element, join, text
from meshd_chaos.report.style import STYLE
from meshd_chaos.report.timeline import HOVER_MAX, timeline
from meshd_chaos.report.violations import to_bar, violations

LONGEST_GAPS: Final = 8
"""Listed for one run."""
_NO_GAPS: Final = {"resume": "a pause, and no mark that tells it from others"}
"""Why a way has none."""
FAULTS_OPEN: Final = 12
"""A longer list of faults is folded."""

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""The page loads nothing and runs nothing, whatever is in it."""


def render(runs: RunSet) -> str:
    """The whole page.  The same runs give the same page."""
    hover = sum(len(run.answers) for run in runs.runs) <= HOVER_MAX
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"meshd-chaos: {figures.verdict(runs)}"),
        element("style", Markup(STYLE)),
    )
    sections = (_run(run, f"run{number}", hover) for number, run in enumerate(runs.runs, 1))
    body = element("body", element("main", _summary(runs), *sections))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


# --- all runs


def _summary(runs: RunSet) -> Markup:
    everything = figures.of_all(runs)
    state = "broken" if not everything.ok else "held" if everything.tally.accepted else "nothing"
    parts: list[Node] = [
        element("h1", _mark(state), figures.verdict(runs)),
        element("p", _scope(runs, everything), class_="soft scope"),
    ]
    if runs.runs:
        parts.append(_summary_table(runs, everything))
    if len(runs.runs) > 1:
        parts += _gap_section([answer for run in runs.runs for answer in run.answers])
    if runs.not_run or len(runs.runs) > 1:
        parts += _not_tested(figures.all_not_tested(runs))
    return element("header", *parts)


def _scope(runs: RunSet, everything: Figures) -> str:
    sent, faults = everything.tally.sent, everything.faults
    said = [
        f"{len(runs.runs):,} {'run' if len(runs.runs) == 1 else 'runs'}",
        f"{sent:,} {'request' if sent == 1 else 'requests'}",
        f"{faults:,} {'fault' if faults == 1 else 'faults'}",
    ]
    if everything.not_tested:
        said.append(f"{everything.not_tested:,} not tested")
    places = dict.fromkeys(f"meshd {run.meshd} on {run.machine}" for run in runs.runs)
    return " \N{MIDDLE DOT} ".join([*said, *places])


def _summary_table(runs: RunSet, everything: Figures) -> Markup:
    names = (
        ("run", ""), ("faults", "n"), ("requests", "n"), ("tries", "n"), ("answered", "n"),
        ("lost", "n"), ("doubled", "n"), ("wrong", "n"), ("failed", "n"), ("excused", "n"),
        ("recovered", "n"), ("gap p50", "n"), ("p99", "n"), ("longest", "n"),
        ("not tested", "n"),
    )  # fmt: skip
    rows = []
    for number, run in enumerate(runs.runs, 1):
        link = element("a", run.scenario, href=f"#run{number}")
        name = join([_mark(_state(run)), link])
        rows.append(element("tr", *_summary_cells(name, figures.of_run(run))))
    if len(runs.runs) > 1:
        name = join([_mark("broken" if not everything.ok else "held"), "all"])
        rows.append(element("tr", *_summary_cells(name, everything), class_="sum"))
    return _table(names, rows)


def _summary_cells(name: Markup, its: Figures) -> Iterator[Markup]:
    tally, gaps = its.tally, its.gaps
    yield element("td", name, class_="name")
    yield from map(_number, (its.faults, tally.sent, tally.tries, tally.answered))
    yield from map(_bad_number, (tally.lost, tally.doubled, tally.wrong))
    yield from map(_number, (tally.failed, its.excused, its.recovered))
    for gap in (gaps.p50_s, gaps.p99_s, gaps.longest_s) if gaps else ("", "", ""):
        yield element("td", gap if isinstance(gap, str) else seconds(gap), class_="n")
    yield element("td", its.not_tested or "", class_="n")


def _state(run: Run) -> str:
    return "broken" if not run.ok else "held" if run.tally.accepted else "nothing"


def _mark(state: str) -> Markup:
    words = {"held": "held", "broken": "broken", "nothing": "nothing shown"}
    return element(
        "span", class_=f"mark {state}", role="img", aria_label=words[state], title=words[state]
    )


# --- one run


def _run(run: Run, anchor: str, hover: bool) -> Markup:
    its = figures.of_run(run)
    found = fates(run)
    return element(
        "section",
        element("h2", _mark(_state(run)), run.scenario),
        element("p", run.about, class_="soft"),
        element("p", run.busy[:1].upper(), run.busy[1:], ".", class_="busy") if run.busy else None,
        _numbers(its),
        *violations(run, anchor),
        *(element("p", f"Note: {note}.", class_="soft") for note in run.notes),
        element("div", timeline(run, found, anchor=anchor, hover=hover), class_="scroll"),
        _legend(run, found),
        *(_gap_section(run.answers) if run.answers else ()),
        *_ways(its),
        *_longest(run, found, anchor),
        *_causes("Ended in an error", run.tally.failed_by),
        *_causes("Not answered, and excused", its.excused_in_words),
        *_faults(run.faults),
        *_not_tested(figures.not_tested([run], with_scenario=False)),
        *_again(run),
        id=anchor,
        class_="run",
    )


def _numbers(its: Figures) -> Markup:
    tally = its.tally
    pairs = (
        ("requests", tally.sent, False),
        ("tries", tally.tries, False),
        ("accepted", tally.accepted, False),
        ("answered", tally.answered, False),
        ("recovered", its.recovered, False),
        ("lost", tally.lost, True),
        ("doubled", tally.doubled, True),
        ("wrong", tally.wrong, True),
        ("failed", tally.failed, False),
        ("excused", its.excused, False),
        ("client left", tally.left, False),
    )
    return element(
        "dl",
        *(
            element(
                "div",
                element("dt", name),
                element("dd", f"{count:,}", class_="bad" if bad and count else None),
            )
            for name, count, bad in pairs
        ),
        class_="numbers",
    )


def _legend(run: Run, found: Sequence[Fate]) -> Markup:
    entries = [
        element("li", element("i", class_=str(fate)), f"{MEANING[fate]} ({count:,})")
        for fate, count in counted(found).items()
    ]
    if any(answer.seams for answer in run.answers):
        entries.append(element("li", element("i", class_="gap"), "no text comes"))
    if run.faults:
        entries.append(element("li", element("i", class_="band"), "while a fault lasts"))
    return element("ul", *entries, class_="legend")


def _gap_section(answers: Sequence[Answer]) -> Iterator[Markup]:
    plot = gap_plot(answers)
    if plot is not None:
        yield element("h3", "How long a stream had no text when it went on elsewhere")
        yield element("div", plot, class_="scroll")


def _ways(its: Figures) -> Iterator[Markup]:
    if not its.ways:
        return
    names = (
        ("how it went on", ""), ("answered", "n"), ("gaps", "n"), ("p50", "n"), ("p99", "n"),
        ("longest", "n"), ("p99 beyond the new holder's first token", "n"),
    )  # fmt: skip
    yield _table(names, [element("tr", *_way_cells(*one)) for one in its.ways])


def _way_cells(way: str, whole: int, gaps: Gaps | None) -> Iterator[Markup]:
    yield element("td", WAYS.get(way, way), class_="name")
    yield _number(whole)
    if gaps is None:
        yield element(
            "td", _NO_GAPS.get(way, "none seen: not streamed"), colspan=5, class_="soft n"
        )
        return
    yield _number(gaps.count)
    for gap in (gaps.p50_s, gaps.p99_s, gaps.longest_s):
        yield element("td", seconds(gap), class_="n")
    beyond = gaps.p99_beyond_first_token_s
    yield element("td", "not known" if beyond is None else seconds(beyond), class_="n")


def _longest(run: Run, found: Sequence[Fate], anchor: str) -> Iterator[Markup]:
    seams = [
        (seam.gap_s, number, seam)
        for number, answer in enumerate(run.answers)
        for seam in answer.seams
        if answer.came_in_pieces
    ]
    if not seams:
        return
    longest = sorted(seams, key=lambda item: (-item[0], item[1]))[:LONGEST_GAPS]
    names = (("gap", "n"), ("at", "n"), ("request", ""), ("how it went on", ""), ("holders", ""))
    rows = []
    for gap_s, number, seam in longest:
        answer = run.answers[number]
        link = to_bar(answer.request, anchor, number)
        row = (
            element("td", seconds(gap_s), class_="n"),
            element("td", f"{seam.at_s:.2f} s", class_="n"),
            element("td", link, title=facts(answer, found[number])),
            element("td", WAYS.get(seam.way, seam.way)),
            element("td", ", ".join(answer.holders)),
        )
        rows.append(element("tr", *row))
    yield element("h3", "The longest gaps")
    yield _table(names, rows)


def _causes(title: str, causes: dict[str, int]) -> Iterator[Markup]:
    if not causes:
        return
    ordered = sorted(causes.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        element("tr", _number(count), element("td", cause, class_="wide"))
        for cause, count in ordered
    ]
    yield element("h3", title)
    yield _table((("times", "n"), ("why", "")), rows)


def _faults(faults: Sequence[FaultRecord]) -> Iterator[Markup]:
    if not faults:
        yield element("h3", "What was done")
        yield element("p", "Nothing: no fault was injected.", class_="soft")
        return
    names = (("at", "n"), ("until", "n"), ("fault", ""), ("what it did", ""), ("asked for", ""))
    rows = [element("tr", *_fault_cells(fault)) for fault in faults]
    yield element("h3", f"What was done ({len(faults):,})")
    listed = _table(names, rows)
    if len(faults) <= FAULTS_OPEN:
        yield listed
    else:
        yield element("details", element("summary", "All of it, in order"), listed)


def _fault_cells(fault: FaultRecord) -> Iterator[Markup]:
    until = "" if fault.ended_at_s is None else f"{fault.ended_at_s:.2f} s"
    asked = ", ".join(f"{name} = {value}" for name, value in fault.parameters.items())
    yield element("td", f"{fault.began_at_s:.2f} s", class_="n")
    yield element("td", until, class_="n")
    yield element("td", fault.name, class_="name")
    yield element("td", fault.did, class_="wide")
    yield element("td", asked, class_="soft")


def _not_tested(found: Sequence[tuple[str, str]]) -> Iterator[Markup]:
    if not found:
        return
    badge = element("span", "not tested", class_="badge")
    items = (element("li", badge, element("b", what), f": {why}") for what, why in found)
    yield element("h3", "Not tested")
    yield element("ul", *items, class_="untested")


def _again(run: Run) -> Iterator[Markup]:
    healed = (
        "The mesh was not whole again by the end."
        if run.healed_at_s is None
        else f"All faults were over and the mesh whole at {run.healed_at_s:.1f} s."
    )
    nodes = ", ".join(run.nodes)
    yield element("h3", "To run it again")
    yield element("pre", element("code", figures.command(run)))
    yield element(
        "p",
        f"Begun {run.began}; seed {run.seed}; {len(run.nodes)} nodes: {nodes};"
        f" {run.rate_per_s:g} requests a second for {run.duration_s:g} s. {healed}",
        class_="soft",
        style="margin-top:8px",
    )


# --- cells


def _table(names: Sequence[tuple[str, str]], rows: Sequence[Markup]) -> Markup:
    head = element("tr", *(element("th", name, class_=kind or None) for name, kind in names))
    whole = element("table", element("thead", head), element("tbody", *rows))
    return element("div", whole, class_="scroll")


def _number(count: int) -> Markup:
    return element("td", f"{count:,}", class_="n")


def _bad_number(count: int) -> Markup:
    return element("td", text(f"{count:,}"), class_="n bad" if count else "n")
