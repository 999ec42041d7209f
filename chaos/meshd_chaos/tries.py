"""One request to one node, as its client knows it so far.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meshd.testing.checker import How
from meshd_chaos.transcript import Transcript

AGAIN: Final = frozenset({429, 500, 502, 503, 504})
"""Statuses after which the same request may be sent again."""


@dataclass(slots=True)
class Try:
    """One request to one node."""

    request: str
    entry: str
    sent_at_s: float
    said: Transcript
    how: How = How.SILENT
    status: int = 0
    cause: str = ""
    ended_at_s: float | None = None
    request_id: str = ""

    def garbled(self, error: Exception) -> None:
        """The node said what no answer says."""
        self.how, self.cause = How.GARBLED, str(error)

    @property
    def was_not_let_in(self) -> bool:
        """Nobody listens there."""
        return self.how is How.REFUSED and not self.status

    @property
    def is_answered(self) -> bool:
        """Told something that another try would be told as well."""
        if self.how is How.REFUSED:
            return self.status not in AGAIN and self.status != 0
        return self.how in (How.WHOLE, How.LEFT)
