"""`meshd-chaos`: run scenarios against real daemons."""

from __future__ import annotations

import inspect
import secrets
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import msgspec
import typer
from rich.console import Console

from meshd import __version__
from meshd.cli.shell import FAILED, INTERRUPTED, OK, USAGE, UsageError, tell
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
from meshd_chaos.target_flags import read_target, words_of

NOT_RUN = 3
"""No mesh could be had to run on, or the harness itself failed: that says nothing of the mesh."""

SEED_MAX = 2**53
"""What every reader of JSON takes for a whole number."""

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

    @wraps(call)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except (UsageError, BadScenario) as error:
            raise _ended(error, USAGE) from None
        except (MeshdError, DaemonFailed, EngineFailed) as error:
            raise _ended(error, NOT_RUN) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            # Python would end with 1, and that says that the mesh broke its promise.
            raise _ended(_mistake(error), NOT_RUN) from error

    return wrapper


def _ended(error: Exception | str, code: int) -> typer.Exit:
    _complain(str(error))
    return typer.Exit(code)


def _complain(text: str) -> None:
    with suppress(BrokenPipeError):  # who reads no further changes nothing of the exit code
        for line in text.splitlines():
            print(f"meshd-chaos: {line}", file=sys.stderr, flush=True)


def _mistake(error: Exception) -> str:
    where = "".join(traceback.format_exception(error))
    return f"the harness itself failed, which says nothing of the mesh: {error!r}\n{where}"


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
            help=f"Daemons to start, 2 to {NODES_MAX}; else as the scenario says.", metavar="N"
        ),
    ] = None,
    duration: Annotated[
        float, typer.Option(help="Of each scenario, 1 to 86400.", metavar="SECONDS")
    ] = 60.0,
    rate: Annotated[
        float, typer.Option(help="Requests a second, 0.1 to 1000.", metavar="N")
    ] = 20.0,
    seed: Annotated[
        int | None,
        typer.Option(help="Of all choices; by default another one each time.", metavar="N"),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write the timeline there: a page of HTML.", metavar="FILE.html"),
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
        typer.Option(
            help="What kills a node's daemon; the report shows it.", metavar="NODE=COMMAND"
        ),
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(help="What starts it again; the report shows it.", metavar="NODE=COMMAND"),
    ] = None,
) -> None:
    """Run scenarios, and judge what clients saw.

    On a mesh of real daemons that is started for it, or with --target on yours.

    Exit code 0: nothing was lost, doubled or wrong.  1: a violation.  2: wrong input.
    3: nothing could be tested, or a scenario had no mesh to run on.
    """
    chosen = [found for name in scenario or ["mix"] for found in library.find(name)]
    if nodes is not None:
        _within("--nodes", nodes, 2, NODES_MAX)
    if seed is not None:
        _within("--seed", seed, 0, SEED_MAX)
    _within("--duration", duration, 1, 86_400)
    _within("--rate", rate, 0.1, 1000)
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
    if report is not None:
        _can_be_written(report)
    campaign = Campaign(
        scenarios=tuple(chosen),
        seed=secrets.randbelow(1_000_000) if seed is None else seed,
        rate_per_s=rate,
        duration_s=duration,
        target=theirs,
        flags=_mesh_flags(nodes, target, given),
    )
    came = run_all(campaign)
    was_shown = _show(came.runs, report, as_json)
    if not all(one.ok for one in came.runs.runs):
        raise typer.Exit(FAILED)
    if came.was_interrupted:
        raise typer.Exit(INTERRUPTED)
    was_tested = came.runs.runs and not came.had_no_mesh
    raise typer.Exit(OK if was_tested and was_shown else NOT_RUN)


def _with_nodes(scenario: Scenario, nodes: int | None) -> Scenario:
    if nodes is None:
        return scenario
    copies = min(scenario.mesh.copies, nodes)
    mesh = msgspec.structs.replace(scenario.mesh, nodes=nodes, copies=copies)
    return msgspec.structs.replace(scenario, mesh=mesh)


def _mesh_flags(nodes: int | None, target: str | None, given: Mapping[str, Any]) -> tuple[str, ...]:
    """What says on which mesh, as it was said."""
    if target is not None:
        return words_of(target, given)
    return () if nodes is None else ("--nodes", str(nodes))


def _within(flag: str, value: float, least: float, most: float) -> None:
    """Raises UsageError."""
    if not least <= value <= most:  # so it is for nan
        raise UsageError(f"{flag} {value}: it must be from {least:g} to {most:g}")


def _can_be_written(report: Path) -> None:
    """Try to, before anything is run; nothing of it stays.  Raises UsageError."""
    if not report.parent.is_dir():
        raise UsageError(f"--report {report}: there is no folder {report.parent}")
    try:
        was_there = report.exists()
        with report.open("a"):
            pass
        if not was_there:
            report.unlink()
    except OSError as error:
        raise UsageError(f"--report {report}: it cannot be written: {error.strerror}") from None


def _show(runs: RunSet, report: Path | None, as_json: bool) -> bool:
    """Print it, then write the page.  False if one of them failed, which spares the other."""
    shows = [partial(_print, runs, as_json)]
    if report is not None:
        shows.append(partial(_write, runs, report))
    was_shown = True
    for show in shows:
        try:
            show()
        except OSError as error:
            _complain(str(error))
            was_shown = False
        except Exception as error:  # an hour of runs came to this: let each way to see it be tried
            _complain(_mistake(error))
            was_shown = False
    return was_shown


def _print(runs: RunSet, as_json: bool) -> None:
    if as_json:
        text = msgspec.json.format(msgspec.json.encode(runs), indent=1).decode()
    else:
        console = Console(highlight=False)
        with console.capture() as printed:
            console.print(table(runs))
        text = printed.get().rstrip("\n")
    with suppress(typer.Exit):  # as above
        tell(text)


def _write(runs: RunSet, report: Path) -> None:
    report.write_text(render(runs), "utf-8")
    _complain(f"the timeline is in {report}")


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
    """Whether a scenario file can be used.

    If not: all that is wrong with it, by line.
    """
    scenario = library.read_file(file)
    tell(f"{file}: {scenario.name} can be used: {scenario.about}")


@app.command()
@command
def probe() -> None:
    """Which faults this machine allows.

    And why it does not allow the others; those are never taken for passed.
    """
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
