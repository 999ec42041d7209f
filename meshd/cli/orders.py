"""Commands that ask the running daemon, or tell it something."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
import trio
import typer

from meshd import limits
from meshd.cli import views
from meshd.cli.control import LEAVE_S, ControlClient
from meshd.cli.shell import (
    FAILED,
    OK,
    AsJson,
    DataDir,
    UsageError,
    command,
    complain,
    find_paths,
    tell,
    to_type,
)
from meshd.cli.tables import Paper
from meshd.cli.words import count, mesh_label
from meshd.control import (
    ApproveOrder,
    LeaveOrder,
    ModelRow,
    NodeOrder,
    NodeRow,
    PendingRow,
    StatusReport,
)
from meshd.errors import Refused
from meshd.machine.host import wait_until_gone

T = TypeVar("T")

WATCH_S = 1.0
STOP_S = 3700.0
"""How long `meshd stop` waits: longer than the longest drain that can be configured."""

WhichNode = Annotated[
    str, typer.Argument(help="Its name or id; this machine if not given.", show_default=False)
]


def client(data_dir: Any) -> ControlClient:
    return ControlClient(find_paths(data_dir))


def print_json(value: object) -> None:
    tell(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def show(report: T, as_json: bool, view: Callable[[Paper, T], None]) -> None:
    """What the daemon said: as JSON, or as `view` puts it on paper."""
    if as_json:
        print_json(report)
        return
    paper = Paper()
    view(paper, report)
    tell(paper.text())


@command
def status(
    data_dir: DataDir = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again each second.")] = False,
) -> None:
    """How the mesh looks from here.  Exit code 1 if something is wrong."""
    asked = client(data_dir)
    if watch:
        trio.run(_watch, asked, as_json)
        return
    report = asked.get("/control/status", StatusReport)
    show(report, as_json, views.show_status)
    if report.problems:
        raise typer.Exit(FAILED)


async def _watch(asked: ControlClient, as_json: bool) -> None:
    clear = sys.stdout.isatty() and not as_json
    while True:
        report = await trio.to_thread.run_sync(asked.get, "/control/status", StatusReport)
        if clear:
            sys.stdout.write("\x1b[H\x1b[2J")
        show(report, as_json, views.show_status)
        if not clear and not as_json:
            tell()
        await trio.sleep(WATCH_S)


@command
def nodes(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The members of the mesh."""
    show(client(data_dir).get("/control/nodes", list[NodeRow]), as_json, views.show_nodes)


@command
def models(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The models of the mesh, and which nodes hold them."""
    show(client(data_dir).get("/control/models", list[ModelRow]), as_json, views.show_models)


@command
def approve(
    digits: Annotated[
        list[str] | None,
        typer.Argument(help="The six digits on the newcomer's screen.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a machine in whose six digits you see.  Without digits: who waits."""
    given = "".join(digits or []).replace(" ", "").replace("-", "")
    asked = client(data_dir)
    if not given:
        waiting = asked.get("/control/pending", list[PendingRow])
        how = to_type("meshd approve DIGITS", asked.paths)
        show(waiting, as_json, partial(views.show_pending, to_type=how))
        return
    if len(given) != limits.DIGITS or not given.isascii() or not given.isdigit():
        raise UsageError(f"type the {limits.DIGITS} digits, like: meshd approve 123 456")
    tell(asked.order("/control/approve", ApproveOrder(given)))


@command
def drain(node: WhichNode = "", data_dir: DataDir = None) -> None:
    """Give a node no new requests; it finishes those that it has."""
    tell(client(data_dir).order("/control/drain", NodeOrder(node)))


@command
def undrain(node: WhichNode = "", data_dir: DataDir = None) -> None:
    """Give a node requests again."""
    tell(client(data_dir).order("/control/undrain", NodeOrder(node)))


@command
def leave(
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    destroy_mesh: Annotated[
        bool,
        typer.Option(
            "--destroy-mesh", help="End the mesh, at the last machine that could go on with it."
        ),
    ] = False,
) -> None:
    """Leave the mesh for good, and stop.  To come back, this machine must be let in again.

    Its vote in keeping the record and the CA's key go to others first, which can take seconds; then
    the requests that run, here and for others, get the config's drain_timeout_s to end.
    """
    asked = client(data_dir)
    if destroy_mesh:
        _confirm_destruction(asked, yes)
    elif not yes and sys.stdin.isatty():
        report = asked.get("/control/status", StatusReport)
        others = count(len(report.nodes) - 1, "other node")
        if not typer.confirm(f"{report.node.name} leaves the mesh ({others}). Sure?"):
            raise typer.Exit(FAILED)
    tell(asked.order("/control/leave", LeaveOrder(destroy=destroy_mesh), within_s=LEAVE_S))


def _confirm_destruction(asked: ControlClient, yes: bool) -> None:
    """The CA's key and the record cannot be had again: the mesh's name has to be typed."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to ask: add --yes")
    mesh = mesh_label(asked.get("/control/status", StatusReport).mesh)
    tell(
        "The mesh's CA key, its record, tokens and jobs are deleted here, and cannot be had again."
    )
    if typer.prompt(f"Type the mesh's name ({mesh}) to end it", default="") != mesh:
        complain("nothing was done")
        raise typer.Exit(FAILED)


@command
def stop(
    data_dir: DataDir = None,
    wait: Annotated[bool, typer.Option(help="Wait until it has ended.")] = True,
) -> None:
    """Stop the daemon: it finishes what it can, and stays a member."""
    asked = client(data_dir)
    report = asked.get("/control/status", StatusReport)
    message = asked.order("/control/stop")
    if not wait:
        tell(message)
        raise typer.Exit(OK)
    running = report.node.running + report.node.queued
    if running:
        complain(f"{count(running, 'request')} may still finish; --no-wait does not wait for it")
    if not wait_until_gone(report.pid, STOP_S):
        raise Refused(f"meshd (pid {report.pid}) has not ended; look at its log")
    tell(f"meshd has stopped (pid {report.pid})")
