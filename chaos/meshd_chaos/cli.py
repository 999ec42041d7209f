"""`meshd-chaos`: run scenarios against real daemons."""

from __future__ import annotations

import functools
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import msgspec
import typer
from rich.console import Console

from meshd import __version__
from meshd.cli.shell import FAILED, INTERRUPTED, OK, USAGE, UsageError, tell
from meshd.cli.tables import Column, Paper
from meshd.errors import MeshdError
from meshd.testing.daemons import DaemonFailed
from meshd.testing.engines import EngineFailed
from meshd_chaos import library
from meshd_chaos.campaign import Campaign, run_all
from meshd_chaos.mesh import NODES_MAX
from meshd_chaos.records import RunSet
from meshd_chaos.report import render, table
from meshd_chaos.scenario import Scenario
from meshd_chaos.scenario_file import BadScenario

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
            raise _ended(error, FAILED) from None

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
        int | None, typer.Option(help="Of all choices; by default another one each time.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with the timeline.", metavar="FILE.html")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Run scenarios on a mesh of their own, and judge what clients saw.

    Exit code 0: nothing was lost, doubled or wrong.  1: a violation.  2: wrong input.
    """
    chosen = [found for name in scenario or ["mix"] for found in library.find(name)]
    if report is not None and not report.parent.is_dir():
        raise UsageError(f"{report} cannot be written: there is no folder {report.parent}")
    campaign = Campaign(
        scenarios=tuple(_with_nodes(one, nodes) for one in chosen),
        seed=secrets.randbelow(1_000_000) if seed is None else seed,
        rate_per_s=rate,
        duration_s=duration,
    )
    runs, was_interrupted = run_all(campaign)
    _show(RunSet(runs=tuple(runs)), report, as_json)
    if not all(one.ok for one in runs):
        raise typer.Exit(FAILED)
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
def version() -> None:
    """The version of meshd that it came with."""
    tell(f"meshd {__version__}")


def main() -> None:
    """The entry point that pyproject installs."""
    app()


if __name__ == "__main__":
    main()
