"""`meshd recover`: going on with one copy of the record when most of its voters are gone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from meshd.cli.record import stopped
from meshd.cli.shell import FAILED, DataDir, UsageError, command, complain, find_paths, tell
from meshd.errors import Refused
from meshd.ids import Address, NodeId
from meshd.machine.disk import FileDisk
from meshd.machine.probes import Probes
from meshd.paths import Paths

if TYPE_CHECKING:
    from meshd.ledger.recovery import Recovery

FLAG = "--i-know-that-acknowledged-writes-may-be-lost"
WORD = "recover"


@command
def recover(
    data_dir: DataDir = None,
    knowing: Annotated[
        bool, typer.Option(FLAG, help="Do it.  Without this it only says what it would do.")
    ] = False,
    others_are_gone: Annotated[
        bool,
        typer.Option(
            "--others-are-gone",
            help="Also while machines answer where a majority of the voters was.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Go on with this machine's copy of the record, when most voters are gone for good.

    For a daemon that is stopped.  The last resort: a backup, or one more voter, loses less.
    """
    from meshd.ledger import recovery

    paths = find_paths(data_dir)
    with stopped(paths) as patient:
        found = recovery.plan(patient)
        for sentence in found.says(patient.place):
            tell(sentence)
        if not knowing:
            raise UsageError(f"nothing was done; if that is what you want, add {FLAG}")
        if not others_are_gone:
            _require_no_majority(found, _kept_addresses(paths))
        if not yes:
            _confirm()
        for sentence in recovery.recover(patient, found):
            tell(sentence)


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to ask: add --yes")
    if typer.prompt(f"Type {WORD} to do it", default="", show_default=False) != WORD:
        complain("nothing was done")
        raise typer.Exit(FAILED)


def _require_no_majority(found: Recovery, kept: dict[NodeId, list[Address]]) -> None:
    """Where enough voters may still be there, the record is not lost.  Raises Refused."""
    probes = Probes(os.environ)
    answering = [
        voter.name
        for voter in found.others
        if _answers(probes, [*voter.addresses, *kept.get(voter.node, [])])
    ]
    if 2 * (len(answering) + found.has_vote) > found.voters:
        raise Refused(
            f"{', '.join(answering)} can be reached: with this node that is a majority of the "
            "voters, so the record is not lost. Start this node and look at `meshd voters`. If "
            "what answers there is not the mesh's any more, add --others-are-gone"
        )


def _answers(probes: Probes, addresses: Iterable[Address]) -> bool:
    return any(probes.dial(address) == 0 for address in dict.fromkeys(addresses))


class _Kept(msgspec.Struct):
    """What `peers.json` says of one member."""

    reached: tuple[str, int] | None = None
    others: list[tuple[str, int]] = []


def _kept_addresses(paths: Paths) -> dict[NodeId, list[Address]]:
    """Where the daemon last found its members; a file of use and never needed."""
    try:
        data = FileDisk().read(paths.data / "peers.json") or b"{}"
        kept = msgspec.json.decode(data, type=dict[str, _Kept])
    except msgspec.MsgspecError:
        return {}
    return {
        NodeId(node): [Address(*pair) for pair in (row.reached, *row.others) if pair is not None]
        for node, row in kept.items()
    }
