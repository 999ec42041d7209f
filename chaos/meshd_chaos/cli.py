"""`meshd-chaos`: run scenarios against real daemons."""

from __future__ import annotations

import functools
import inspect
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import msgspec
import typer
from rich.console import Console

from meshd import __version__
from meshd.cli.shell import FAILED, INTERRUPTED, OK, USAGE, UsageError, leaves_of, tell
from meshd.cli.tables import Cell, Column, Paper
from meshd.errors import MeshdError
from meshd.testing.daemons import DaemonFailed
from meshd.testing.engines import EngineFailed, why_no_llama
from meshd_chaos import library
from meshd_chaos.campaign import Campaign, run_all
from meshd_chaos.mesh import NODES_MAX
from meshd_chaos.nemeses import NEMESES
from meshd_chaos.records import RunSet
from meshd_chaos.report import render, table
from meshd_chaos.scenario import Scenario
from meshd_chaos.scenario_file import BadScenario
from meshd_chaos.target import for_target
from meshd_chaos.target_flags import read_target

NOT_RUN = 3
"""No mesh could be had to run on: that says nothing of what it would have done."""

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    name="meshd-chaos",
    help="Break a mesh on purpose, and check that no answer is lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(call: Callable[P, R]) -> Callable[P, R]:
    """Make expected failures end as sentences and an exit code, never as a traceback."""

    @functools.wraps(call)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except (UsageError, BadScenario) as error:
            raise _ended(error, USAGE) from None
        except (MeshdError, DaemonFailed, EngineFailed) as error:
            raise _ended(error, NOT_RUN) from None
        except BaseExceptionGroup as group:
            # A run is a tree of tasks; what ended it may come wrapped once per level.
            for leaf in leaves_of(group):
                if isinstance(leaf, MeshdError | DaemonFailed | EngineFailed):
                    code = USAGE if isinstance(leaf, UsageError) else NOT_RUN
                    raise _ended(leaf, code) from None
            raise

    return wrapper


def _ended(error: Exception, code: int) -> typer.Exit:
    for line in str(error).splitlines():
        print(f"meshd-chaos: {line}", file=sys.stderr, flush=True)
    return typer.Exit(code)


@app.command()
@command
def run(
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            "-s",
            help="A name (see `meshd-chaos scenarios`), a file, or all; repeatable.",
            metavar="NAME",
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            min=2, max=NODES_MAX, help="Daemons to start; else as the scenario says.", metavar="N"
        ),
    ] = None,
    duration: Annotated[
        float, typer.Option(min=1, max=86_400, help="Of each scenario.", metavar="SECONDS")
    ] = 60.0,
    rate: Annotated[
        float, typer.Option(min=0.1, max=1000, help="Requests a second.", metavar="N")
    ] = 20.0,
    seed: Annotated[
        int | None,
        typer.Option(help="Of all choices; by default another one each time.", metavar="N"),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with the timeline.", metavar="FILE.html")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    target: Annotated[
        str | None,
        typer.Option(
            help="Ask a mesh that exists instead of starting one.", metavar="URL[,URL...]"
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="With --target: which model to ask; repeatable.", metavar="NAME"),
    ] = None,
    api_key: Annotated[
        str,
        typer.Option(
            envvar="MESHD_CHAOS_API_KEY", help="With --target: an API key.", metavar="KEY"
        ),
    ] = "",
    jobs: Annotated[
        bool,
        typer.Option("--jobs", help="With --target: also what it writes down: keys and jobs."),
    ] = False,
    faults: Annotated[
        bool, typer.Option("--faults", help="With --target: break it, as the next three allow.")
    ] = False,
    pid: Annotated[
        list[str] | None,
        typer.Option(help="A daemon here that may be frozen.", metavar="NODE=PID"),
    ] = None,
    kill: Annotated[
        list[str] | None,
        typer.Option(help="What kills a node's daemon.", metavar="NODE=COMMAND"),
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(help="What starts it again.", metavar="NODE=COMMAND"),
    ] = None,
) -> None:
    """Run scenarios and judge what clients saw: on a mesh of their own, or on yours.

    Exit code 0: nothing was lost, doubled or wrong.  1: a violation.  2: wrong input.
    3: a scenario had no mesh to run on.
    """
    chosen = [found for name in scenario or ["mix"] for found in library.find(name)]
    if report is not None and not report.parent.is_dir():
        raise UsageError(f"{report} cannot be written: there is no folder {report.parent}")
    given = {"--model": model, "--api-key": api_key, "--jobs": jobs, "--faults": faults}
    given |= {"--pid": pid, "--kill": kill, "--start": start}
    theirs = read_target(target, given)
    if theirs is None:
        if why := why_no_llama():
            raise EngineFailed(f"a mesh of its own needs real engines, and {why}")
        chosen = [_with_nodes(one, nodes) for one in chosen]
    elif nodes is not None:
        raise UsageError("--nodes is for a mesh that is started here, and --target is one there is")
    else:
        chosen = [for_target(one, theirs) for one in chosen]
    campaign = Campaign(
        scenarios=tuple(chosen),
        seed=secrets.randbelow(1_000_000) if seed is None else seed,
        rate_per_s=rate,
        duration_s=duration,
        target=theirs,
    )
    came, was_interrupted = run_all(campaign)
    _show(came, report, as_json)
    if not all(one.ok for one in came.runs):
        raise typer.Exit(FAILED)
    if came.not_run:
        raise typer.Exit(NOT_RUN)
    raise typer.Exit(INTERRUPTED if was_interrupted else OK)


def _with_nodes(scenario: Scenario, nodes: int | None) -> Scenario:
    if nodes is None:
        return scenario
    copies = min(scenario.mesh.copies, nodes)
    mesh = msgspec.structs.replace(scenario.mesh, nodes=nodes, copies=copies)
    return msgspec.structs.replace(scenario, mesh=mesh)


def _show(runs: RunSet, report: Path | None, as_json: bool) -> None:
    if report is not None:
        report.write_text(render(runs), "utf-8")
    if as_json:
        tell(msgspec.json.format(msgspec.json.encode(runs), indent=1).decode())
    else:
        Console(highlight=False).print(table(runs))
    if report is not None:
        print(f"meshd-chaos: the timeline is in {report}", file=sys.stderr)


@app.command()
@command
def scenarios() -> None:
    """The scenarios that come with the harness."""
    paper = Paper()
    rows = [(one.name, one.about) for one in library.find("all")]
    paper.table([Column("SCENARIO"), Column("WHAT HAPPENS", grows=True)], rows)
    tell(paper.text())


@app.command()
@command
def check(
    file: Annotated[Path, typer.Argument(help="A scenario of your own.", metavar="FILE.toml")],
) -> None:
    """Whether a scenario file can be used."""
    scenario = library.read_file(file)
    tell(f"{file}: {scenario.name} can be used: {scenario.about}")


@app.command()
@command
def probe() -> None:
    """Which faults can be injected on this machine, and why the others cannot."""
    paper = Paper()
    rows = []
    for name, nemesis in NEMESES.items():
        why = nemesis.probe()
        sentence = inspect.cleandoc(nemesis.__doc__ or "").partition("\n\n")[0]
        state = Cell("no", "bad") if why else Cell("yes", "good")
        rows.append((name, state, why or " ".join(sentence.split())))
    paper.table([Column("FAULT"), Column("HERE"), Column("WHAT", grows=True)], rows)
    tell(paper.text())


@app.command()
@command
def version() -> None:
    """The version of meshd that it came with."""
    tell(f"meshd {__version__}")


def main() -> None:
    """The entry point that pyproject installs."""
    app()


if __name__ == "__main__":
    main()
