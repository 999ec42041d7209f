"""One blob on its way to the voters: who has stored it, and whether enough have (trio)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from meshd.errors import MeshdError
from meshd.ids import NodeId, short
from meshd.jobs.blob_plan import majority


class BlobNotStored(MeshdError):
    """Too few voters have stored it, so nothing may name it; try again, it does no harm."""

    def __init__(
        self, stored: int, needed: int, missing: Mapping[NodeId, str], why: str = ""
    ) -> None:
        """`missing` are the voters that have not, and why."""
        away = "; ".join(f"{short(node)}: {reason}" for node, reason in missing.items())
        text = why or f"{stored} voters have it, {needed} must ({away})"
        super().__init__(f"A body or result could not be stored: {text}.")
        self.stored, self.needed, self.missing = stored, needed, dict(missing)


class Spread:
    """One blob on its way to the voters."""

    def __init__(self, digest: bytes, data: bytes, voters: Sequence[NodeId]) -> None:
        self.digest, self.data, self.voters = digest, data, voters
        self.needed = majority(len(voters))
        self.missing: dict[NodeId, str] = dict.fromkeys(voters, "no answer in time")
        """Those that have not stored it, and why."""
        self._stored = self._given_up = 0
        self.settled = trio.Event()
        """Enough have stored it, or cannot any more."""
        self.scope = trio.CancelScope()

    @property
    def is_stored(self) -> bool:
        return self._stored >= self.needed

    def stored(self, voter: NodeId) -> None:
        del self.missing[voter]
        self._stored += 1
        if self.is_stored:
            self.settled.set()

    def failed(self, voter: NodeId, why: str, *, last: bool) -> None:
        self.missing[voter] = why
        self._given_up += last
        if len(self.voters) - self._given_up < self.needed:
            self.settled.set()

    def failure(self, why: str = "") -> BlobNotStored:
        return BlobNotStored(self._stored, self.needed, self.missing, why)
