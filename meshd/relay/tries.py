"""How often one request was tried, and when that is enough.  Pure."""

from __future__ import annotations

from meshd import limits
from meshd.relay.kinds import ENGINE_DIED, NOT_BEGUN


class Tries:
    """Counts of one request."""

    __slots__ = ("_asked", "_engine_deaths", "_unreached", "asks", "attempts")

    def __init__(self) -> None:
        self.attempts = 0
        """Runs so far; a holder that was asked and ran nothing is none."""
        self.asks = 0
        """How often any holder was asked: each question has this number for its name."""
        self._asked = 0
        """The same since a run failed."""
        self._unreached = 0
        self._engine_deaths = 0

    def ask(self) -> None:
        """A holder is asked, and may run it."""
        self.attempts += 1
        self.asks += 1
        self._asked += 1

    def nothing_ran(self) -> None:
        """The last one that was asked did not run it."""
        self.attempts -= 1

    def failed(self, kind: str) -> None:
        """It came to nothing there, or broke off; `kind` is a `FailureKind`."""
        self._asked = 0
        if kind in ENGINE_DIED:
            self._engine_deaths += 1
        if kind in NOT_BEGUN and self._unreached < limits.UNREACHED:
            self._unreached += 1
            self.nothing_ran()

    @property
    def are_spent(self) -> bool:
        """Whether it is not to be tried again."""
        return self.attempts >= limits.ATTEMPTS

    @property
    def may_repick(self) -> bool:
        """Whether yet another holder may be asked after one that is busy."""
        return self._asked <= limits.REPICKS

    @property
    def kill_engines(self) -> bool:
        """Whether so many engines died that this very request is to be taken for the reason."""
        return self._engine_deaths >= limits.BACKEND_DEATHS_BEFORE_POISON
