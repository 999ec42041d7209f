"""How long a member stays suspected before it counts as failed (Lifeguard).  Pure.

One accuser alone may be the one that is ill, so its suspicion lasts long; each further member that
cannot reach the suspect either shortens it, logarithmically, down to the minimum (suspicion.go).
"""

from __future__ import annotations

import math

from meshd.ids import NodeId


class Suspicion:
    """One suspicion: since when, and who shares it."""

    __slots__ = ("_by", "_max_s", "_min_s", "_wanted", "called_until", "deadline", "started")

    def __init__(self, now: float, by: NodeId, wanted: int, min_s: float, max_s: float) -> None:
        self.started = now
        self._by: list[NodeId] = [by]
        """The first accuser, then those who confirmed."""
        self._wanted = wanted
        self._min_s = min_s
        self._max_s = max_s
        self.deadline = now + timeout_s(0, wanted, min_s, max_s)
        self.called_until = -math.inf
        """When the last call's answers are due (see `Ledger.expire`); before that it cannot end."""

    @property
    def confirmations(self) -> int:
        return len(self._by) - 1

    def confirm(self, by: NodeId) -> bool:
        """Another accuser.  True if this brought the deadline nearer; then it is worth passing on.

        Only the first `wanted` count, and each once, so that confirmations do not echo for ever.
        """
        if self.confirmations >= self._wanted or by in self._by:
            return False
        self._by.append(by)
        lasts_s = timeout_s(self.confirmations, self._wanted, self._min_s, self._max_s)
        self.deadline = max(self.started + lasts_s, self.called_until)
        return True

    @property
    def called(self) -> bool:
        """Whether the last call has gone out."""
        return self.called_until > -math.inf

    def call(self, until: float) -> None:
        """The last call goes out now; it can be answered until then."""
        self.called_until = until
        self.deadline = max(self.deadline, until)

    def restart(self, now: float) -> None:
        """Begin anew, with no confirmation: after a sleep, what was seen before counts for less."""
        del self._by[1:]
        self.started = now
        self.called_until = -math.inf
        self.deadline = now + timeout_s(0, self._wanted, self._min_s, self._max_s)


def timeout_s(confirmations: int, wanted: int, min_s: float, max_s: float) -> float:
    """How long a suspicion with so many confirmations lasts in all."""
    if wanted < 1:
        return min_s
    part = math.log(confirmations + 1) / math.log(wanted + 1)
    return max(min_s, max_s - part * (max_s - min_s))
