"""A backup of the record while it runs: as of now, with all that was acknowledged before."""

from __future__ import annotations

from collections.abc import Iterator

import trio

from meshd import limits
from meshd.consensus.entries import Point
from meshd.errors import MeshdError, Refused
from meshd.ids import MeshId
from meshd.ledger.backup import pieces
from meshd.ledger.ledger import Ledger

PAUSE_S = 0.25
"""Between two tries to learn what a backup must hold, while a leader is chosen, say."""


async def back_up(
    ledger: Ledger, mesh: MeshId, timeout_s: float = limits.COMMAND_S
) -> Iterator[bytes]:
    """The backup in pieces.  Raises Refused when there is no majority to say what it must hold."""
    give_up_at = trio.current_time() + timeout_s
    while True:
        try:
            await ledger.read_barrier()
            break
        except MeshdError as error:
            if trio.current_time() + PAUSE_S >= give_up_at:
                raise Refused(
                    "A backup holds all that was acknowledged, and what that is cannot be found "
                    f"out now: {error}"
                ) from error
        await trio.sleep(PAUSE_S)
    # Between the barrier and the capture nothing is waited for: they are of one moment.
    status = ledger.status
    if status is None or not ledger.state.nodes.is_founded:
        raise Refused("There is no record here yet that could be backed up")
    point = Point(status.term, status.applied)
    return pieces(mesh, point, status.voters, ledger.state.capture())
