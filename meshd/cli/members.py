"""Commands about who is in the mesh: tokens, labels, removal."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

import typer

from meshd import limits
from meshd.cli import views
from meshd.cli.orders import client, print_json, show
from meshd.cli.shell import FAILED, AsJson, DataDir, UsageError, command, tell
from meshd.cli.words import count, parse_duration, spelled
from meshd.control import (
    LabelsOrder,
    NodeOrder,
    NodeRow,
    TokenMade,
    TokenOrder,
    TokenQuery,
    TokenRow,
)
from meshd.machine.clock import SystemClock


@command
def token_create(
    data_dir: DataDir = None,
    ttl: Annotated[
        str, typer.Option("--ttl", help="How long it can be used: 30m, 24h, 7d.")
    ] = "24h",
    uses: Annotated[int, typer.Option("--uses", min=1, help="How many machines may use it.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Make a token that lets another machine join.

    The token is all that goes to stdout, so it can be sent into a file.
    """
    try:
        ttl_s = parse_duration(ttl)
    except ValueError as error:
        raise UsageError(f"--ttl: {error}") from None
    if not 1 <= ttl_s <= limits.TOKEN_TTL_MAX_S:
        raise UsageError(f"--ttl must be from 1s to {limits.TOKEN_TTL_MAX_S / 86400:g}d")
    made = client(data_dir).post("/control/token", TokenMade, TokenOrder(ttl_s=ttl_s, uses=uses))
    if as_json:
        print_json(made)
        return
    tell(made.token)
    left = spelled(ttl_s)
    host = views.address(made.join_addresses[0]) if made.join_addresses else "THIS-MACHINE"
    for line in (
        "",
        f"Good for {count(made.uses, 'machine')} and {left}. On the other machine type",
        "",
        f"    meshd start --join {host} --token -",
        "",
        "and paste the token when it asks; or, with the token in a file,",
        "",
        f"    meshd start --join {host} --token-file FILE",
        "",
    ):
        print(line, file=sys.stderr)


@command
def token_list(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The tokens that were made, and who joined by them.  The tokens themselves are not kept."""
    rows = client(data_dir).get("/control/tokens", list[TokenRow])
    show(rows, as_json, partial(views.show_tokens, now_unix_s=SystemClock().wall()))


@command
def token_revoke(
    token: Annotated[str, typer.Argument(help="Its id, or the token.", show_default=False)],
    data_dir: DataDir = None,
) -> None:
    """Let nobody in by a token any more.  Who has joined by it stays."""
    tell(client(data_dir).order("/control/token/revoke", TokenQuery(token)))


@command
def label(
    node: Annotated[str, typer.Argument(help="Its name or id.", show_default=False)],
    labels: Annotated[
        list[str] | None, typer.Argument(help="None takes all away.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Give a node labels, in place of those it has.  Jobs can be sent to a label."""
    tell(client(data_dir).order("/control/labels", LabelsOrder(node, labels or [])))


@command
def remove(
    node: Annotated[str, typer.Argument(help="Its name or id.", show_default=False)],
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take another node out of the mesh for good.  Not for one that is only off for a while."""
    asked = client(data_dir)
    if not yes and on_terminal():
        rows = asked.get("/control/nodes", list[NodeRow])
        state = next((f" ({row.state})" for row in rows if row.name == node), "")
        if not typer.confirm(
            f"{node}{state} is cut off now, and can come back with a fresh data directory only. "
            "Sure?"
        ):
            raise typer.Exit(FAILED)
    tell(asked.order("/control/remove", NodeOrder(node)))


def on_terminal() -> bool:
    """Whether a person can answer a question."""
    return sys.stdin.isatty()
