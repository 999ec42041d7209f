"""What is seen while a run is under way: a few live lines on a terminal, plain lines elsewhere.

All of it goes to stderr; stdout is for what came of it.
"""

from __future__ import annotations

from collections import Counter, deque
from types import TracebackType
from typing import Final

import trio
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from meshd.testing.checker import How
from meshd_chaos.excuses import REPEATED
from meshd_chaos.records import Run
from meshd_chaos.run import Runner
from meshd_chaos.scenario import Scenario

_EVERY_S: Final = 0.25
_SAID: Final = 6
"""Lines of what happened that stay in sight."""


class _Lines(Console):
    """Who reads no further of them does not end the run, as Rich would."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Progress:
    """The lines of a whole campaign, as a context."""

    def __init__(self, scenarios: int, seed: int, console: Console | None = None) -> None:
        self._console = console or _Lines(stderr=True, highlight=False)
        self._scenarios, self._seed = scenarios, seed
        self._number = 0
        self._scenario: Scenario | None = None
        self._said: deque[str] = deque(maxlen=_SAID)
        self._clock = ""
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Progress:
        self._console.print(
            f"[bold]meshd-chaos[/bold]: {self._scenarios} "
            f"{'scenario' if self._scenarios == 1 else 'scenarios'}, seed {self._seed}"
        )
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    # ---------------------------------------------------------------- what happens

    def begins(self, scenario: Scenario) -> None:
        """The next one."""
        self._number += 1
        self._scenario = scenario
        self._said.clear()
        self._clock = ""

    def starts(self, *, is_local: bool = True) -> None:
        """Its mesh is being started, or looked at."""
        assert self._scenario is not None
        mesh = self._scenario.mesh
        doing = (
            f"starting {mesh.nodes} daemons, {mesh.models} models with {mesh.copies} copies each"
        )
        if not is_local:
            doing = "asking for undisturbed answers"
        if self._console.is_terminal:
            self._draw([Text(f"  {doing} ...", style="dim")])
        else:
            self._console.print(f"{self._title()}: {doing}", markup=False)

    def say(self, sentence: str) -> None:
        """Something happened."""
        line = f"{self._clock:>6}  {sentence}"
        self._said.append(line)
        if not self._console.is_terminal:
            self._console.print(f"  {line}", markup=False, soft_wrap=True)

    def over(self, run: Run) -> None:
        """It is over; a line of it stays."""
        tally, verdict = run.tally, "ok" if run.ok else f"{len(run.violations)} violations"
        counts = f"{tally.sent} sent, {tally.answered} answered"
        text = Text(f"{self._title()}: {counts}: ")
        text.append(verdict, style="green" if run.ok else "bold red")
        self._live.update(Text(""), refresh=True)
        self._console.print(text)
        if warning := run.busy:
            self._console.print(Text(f"  {warning}", style="yellow"), soft_wrap=True)

    def failed(self, why: str) -> None:
        """It could not be run."""
        self._live.update(Text(""), refresh=True)
        self._console.print(Text(f"{self._title()}: not run: {why}"), soft_wrap=True)

    async def watch(self, runner: Runner) -> None:
        """Draw it again and again until cancelled."""
        while True:
            clients = runner.clients
            if clients is not None:
                self._clock = f"{clients.now_s():.1f}"
                if self._console.is_terminal:
                    self._draw(self._lines(runner))
            await trio.sleep(_EVERY_S)

    # ---------------------------------------------------------------- lines

    def _title(self) -> str:
        name = self._scenario.name if self._scenario is not None else ""
        return f"[{self._number}/{self._scenarios}] {name}" if self._scenarios > 1 else name

    def _draw(self, lines: list[Text]) -> None:
        assert self._scenario is not None
        head = Text(self._title(), style="bold")
        head.append(f"  {self._scenario.about}", style="not bold")
        self._live.update(Group(head, *lines), refresh=True)

    def _lines(self, runner: Runner) -> list[Text]:
        clients = runner.clients
        assert clients is not None
        ends = Counter(one.how for one in clients.answers if one.excuse != REPEATED)
        went_on = sum(bool(one.seams) for one in clients.answers if one.how is How.WHOLE)
        elapsed = f"{min(clients.now_s(), runner.duration_s):.0f} of {runner.duration_s:.0f} s"
        counts = (
            f"{clients.sent} sent, {ends[How.WHOLE]} answered, {clients.under_way} under way, "
            f"{went_on} went on after a failure, {ends[How.ERROR] + ends[How.REFUSED]} refused, "
            f"{ends[How.BROKEN] + ends[How.CUT]} broken"
        )
        lines = [Text(f"  {elapsed}, {runner.phase}: {counts}")]
        lines += [Text(f"  now     {sentence}", style="yellow") for sentence in runner.in_force]
        lines += [Text(f"  {line}", style="dim") for line in self._said]
        return lines
