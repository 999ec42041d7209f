"""The numbers of one or many runs, for the page, the terminal and the docs.  Pure."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from meshd.testing.checker import (
    Gaps,
    Seam,
    Tally,
    gaps_by_way,
    gaps_of,
    requests_of,
    seams_in_text,
)
from meshd_chaos.records import Run, RunSet
from meshd_chaos.report.fates import excuse


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a table: one run, or all together."""

    name: str
    faults: int
    not_tested: int
    tally: Tally
    gaps: Gaps | None
    """Of streams that went on without their clients' doing anything; None: there were none."""
    resumed: int
    ok: bool

    @property
    def ways(self) -> list[tuple[str, int, Gaps | None]]:
        """Each way in which answers went on, how many were whole, and the gaps that were seen."""
        whole, gaps = dict(self.tally.recovered_by), self.tally.gaps_by
        if self.resumed:
            whole["resume"] = self.resumed
        ways = sorted(whole.keys() | gaps.keys())
        return [(way, whole.get(way, 0), gaps.get(way)) for way in ways]

    @property
    def recovered(self) -> int:
        """How often an answer went on after its holder failed."""
        return sum(self.tally.recovered_by.values())

    @property
    def unanswered(self) -> list[tuple[str, str, int]]:
        """Why as many were not answered as are missing, but for what must not be: (what, why,
        how many)."""
        tally = self.tally
        ends = [("failed", why, count) for why, count in tally.failed_by.items()]
        ends += [("excused", why, count) for why, count in self.excused_in_words.items()]
        return [*ends, ("left", "the client went away", tally.left)] if tally.left else ends

    @property
    def excused_in_words(self) -> dict[str, int]:
        return {excuse(why): count for why, count in self.tally.excused_by.items()}

    @property
    def excused(self) -> int:
        return sum(self.tally.excused_by.values())

    @property
    def asked_again(self) -> str:
        """How often clients with a key asked again, as a sentence; "": never."""
        sent, tries = self.tally.sent, self.tally.tries
        if tries == sent:
            return ""
        return f"{tries:,} for {sent:,} requests: clients with a key asked again"


ALL: Final = "all"


def of_run(run: Run) -> Figures:
    return Figures(
        name=run.scenario,
        faults=len(run.faults),
        not_tested=len(run.not_tested),
        tally=run.tally,
        gaps=_gaps(_seams([run])),
        resumed=run.resumed,
        ok=run.ok,
    )


def of_all(runs: RunSet) -> Figures:
    """The sum of all runs."""
    return Figures(
        name=ALL,
        faults=sum(len(run.faults) for run in runs.runs),
        not_tested=len(runs.not_run) + sum(len(run.not_tested) for run in runs.runs),
        tally=_sum([run.tally for run in runs.runs], runs),
        gaps=_gaps(_seams(runs.runs)),
        resumed=sum(run.resumed for run in runs.runs),
        ok=all(run.ok for run in runs.runs),
    )


def all_not_tested(runs: RunSet) -> list[tuple[str, str]]:
    """What was not tested, and why: scenarios that were not run at all, then faults of others."""
    return [*((one.name, one.why) for one in runs.not_run), *not_tested(runs.runs)]


def not_tested(runs: Iterable[Run], *, with_scenario: bool = True) -> list[tuple[str, str]]:
    """Which faults could not be injected, and why; those for one reason together."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for run in runs:
        for one in run.not_tested:
            found.setdefault((run.scenario, one.why), Counter())[one.name] += 1
    return [
        (f"{scenario}: {_names(names)}" if with_scenario else _names(names), why)
        for (scenario, why), names in found.items()
    ]


def _names(names: Counter[str]) -> str:
    return ", ".join(
        f"{name} ({count:,} times)" if count > 1 else name for name, count in names.items()
    )


def verdict(runs: RunSet) -> str:
    """What the runs came to, in a sentence; nothing that was not tested counts as held."""
    figures = of_all(runs)
    if not runs.runs:
        return "Nothing was run."
    if not figures.ok:
        bad = sum(not run.ok for run in runs.runs)
        found = sum(len(run.violations) for run in runs.runs)
        things = "thing" if found == 1 else "things"
        return f"{found:,} {things} that must not be, in {bad} of {_runs(runs.runs)}."
    tally = figures.tally
    if not tally.accepted:
        return "No request was accepted, so nothing is shown."
    excusable = sum(
        request.accepted and request.end.is_excused
        for run in runs.runs
        for request in requests_of(run.answers)
    )
    if tally.failed or excusable:
        errors = f"{tally.failed:,} ended in an error" if tally.failed else ""
        excused = f"{excusable:,} not answered, with an excuse" if excusable else ""
        but = " and ".join(filter(None, (errors, excused)))
        return f"No accepted request was lost, doubled or wrong ({but})."
    if not figures.faults:
        return "Every accepted request was answered, and nothing was done to the mesh."
    return "Every accepted request was answered: once, whole, in order."


def command(run: Run) -> str:
    """What to type to have this run again, as it was asked for."""
    words = ["meshd-chaos", "run", "--scenario", run.given_as or run.scenario, *run.flags]
    words += ["--duration", f"{run.duration_s:.9g}", "--rate", f"{run.rate_per_s:.9g}"]
    return shlex.join([*words, "--seed", str(run.seed)])


def _runs(runs: Sequence[Run]) -> str:
    return "1 run" if len(runs) == 1 else f"{len(runs):,} runs"


def _seams(runs: Iterable[Run]) -> list[Seam]:
    """Of the mesh's doing: how soon a client asks again is its own."""
    seams = seams_in_text(answer for run in runs for answer in run.answers)
    return [seam for seam in seams if seam.way != "repeat"]


def _gaps(seams: Sequence[Seam]) -> Gaps | None:
    return gaps_of(seams) if seams else None


def _sum(tallies: Sequence[Tally], runs: RunSet) -> Tally:
    def added(field: str) -> int:
        return sum(getattr(tally, field) for tally in tallies)

    def merged(field: str) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for tally in tallies:
            counts.update(getattr(tally, field))
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    return Tally(
        sent=added("sent"),
        tries=added("tries"),
        accepted=added("accepted"),
        answered=added("answered"),
        lost=added("lost"),
        doubled=added("doubled"),
        wrong=added("wrong"),
        failed=added("failed"),
        failed_by=merged("failed_by"),
        excused_by=merged("excused_by"),
        left=added("left"),
        recovered_by=merged("recovered_by"),
        gaps_by=gaps_by_way(answer for run in runs.runs for answer in run.answers),
        violations=[violation for tally in tallies for violation in tally.violations],
    )
