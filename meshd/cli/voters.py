"""Commands about who keeps the record by vote."""

from __future__ import annotations

from typing import Annotated, Literal

import trio
import typer

from meshd.cli import views
from meshd.cli.control import ControlClient
from meshd.cli.orders import client, show
from meshd.cli.shell import AsJson, DataDir, command, complain, tell, to_type
from meshd.control import RecordReport, VoteOrder, VotesDecided

WAIT_S = 60.0
"""How long the change is watched; it goes on without that."""
LOOK_S = 0.5

Which = Annotated[str, typer.Argument(help="Its name or id.", show_default=False)]


@command
def voters(context: typer.Context, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Which machines keep the record by vote, and which follow."""
    if context.invoked_subcommand is None:
        show(client(data_dir).get("/control/record", RecordReport), as_json, views.show_voters)


@command
def voters_promote(node: Which, data_dir: DataDir = None) -> None:
    """Let that machine have a vote, rather than one that nobody chose."""
    _order(client(data_dir), node, "always")


@command
def voters_demote(node: Which, data_dir: DataDir = None) -> None:
    """Let that machine have no vote; another gets it."""
    _order(client(data_dir), node, "never")


@command
def voters_auto(node: Which, data_dir: DataDir = None) -> None:
    """Leave it to the mesh again whether that machine has a vote."""
    _order(client(data_dir), node, "auto")


def _order(asked: ControlClient, node: str, vote: Literal["auto", "always", "never"]) -> None:
    decided = asked.post("/control/voters", VotesDecided, VoteOrder(node, vote))
    tell(decided.message)
    if decided.done:
        return
    look = to_type("meshd voters", asked.paths)
    try:
        names = trio.run(_watch, asked, set(decided.voters))
    except KeyboardInterrupt:
        complain(f"the change goes on without you: {look}")
        raise
    if names is None:
        tell(f"It is not done yet, and goes on by itself: {look}")
    else:
        tell(f"Done. Votes: {', '.join(names)}")


async def _watch(asked: ControlClient, wanted: set[str]) -> list[str] | None:
    """The names of those who have a vote once it is these; None: not in time."""
    with trio.move_on_after(WAIT_S):
        while True:
            report = await trio.to_thread.run_sync(asked.get, "/control/record", RecordReport)
            have = {row.id: row.name for row in report.voters if row.part in ("leads", "votes")}
            if have.keys() == wanted:
                return sorted(have.values())
            await trio.sleep(LOOK_S)
    return None
