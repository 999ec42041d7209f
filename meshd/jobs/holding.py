"""Holding a job: renewing its lease for as long as this node works on it (trio shell)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from meshd import limits
from meshd.errors import MeshdError
from meshd.jobs.leases import HOLDER_STOPS_AT
from meshd.ledger.ledger import Ledger
from meshd.record import commands_jobs as commands
from meshd.record.results import RecordRefused

LEASE_MS = int(limits.JOB_LEASE_S * 1000)
_RENEWALS = 3
"""So many within a lease."""


class Bodies(Protocol):
    """Where what is too large for the log is kept (`blobs.Blobs`)."""

    async def put(self, data: bytes) -> bytes: ...

    async def get(self, digest: bytes) -> bytes | None: ...


async def keep_lease(
    ledger: Ledger, job: int, fence: int, *, asked_at: float, lost: Callable[[str], None]
) -> None:
    """Renew until cancelled; `lost` is told why when that does not succeed in time.

    `asked_at` is when the claim was asked for.  Counted from the last asking that was granted, the
    work must stop at `HOLDER_STOPS_AT` of the lease: the leader cannot have begun to count later.
    """
    renewal = commands.Renew(job=job, fence=fence, lease_ms=LEASE_MS)
    while True:
        stops_at = asked_at + HOLDER_STOPS_AT * limits.JOB_LEASE_S
        await trio.sleep_until(asked_at + limits.JOB_LEASE_S / _RENEWALS)
        asking_at = trio.current_time()
        try:
            await ledger.execute(renewal, timeout_s=max(0.0, stops_at - asking_at))
        except RecordRefused as refusal:
            lost(str(refusal))
            return
        except MeshdError as error:
            lost(f"its lease could not be renewed: {error}")
            return
        asked_at = asking_at
