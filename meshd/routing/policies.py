"""In which order holders are tried.  Pure.

Every policy has one interface: candidates that can do it go in, the same candidates come out, best
first.  Randomness is handed in.  `predicted` is the default (cost.py); the others are
the usual ones, for those who want them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from meshd.routing.cost import Candidate, predict
from meshd.routing.demand import Demand

NEAR_TIE = 0.10
"""Predictions this close (as a fraction) are equal: the load behind them is stale anyway."""


class Policy(Protocol):
    """Puts candidates in the order in which to try them."""

    def order(self, candidates: Sequence[Candidate], demand: Demand) -> list[Candidate]:
        """Best first; nobody is dropped."""
        ...


class Predicted:
    """Earliest predicted finish; near-ties at random, so that entries do not herd.

    With two entries and equal information both would pick the same "best" holder; picking among
    near-equals at random is the power of two choices (Mitzenmacher 2001) where it matters.
    """

    def __init__(self, randrange: Callable[[int], int]) -> None:
        self._randrange = randrange

    def order(self, candidates: Sequence[Candidate], demand: Demand) -> list[Candidate]:
        if len(candidates) < 2:
            return list(candidates)
        scored = sorted(
            ((predict(c, demand).total_s, i) for i, c in enumerate(candidates)),
        )
        limit = scored[0][0] * (1 + NEAR_TIE)
        ties = sum(1 for total_s, _ in scored if total_s <= limit)
        if ties > 1:
            first = self._randrange(ties)
            scored[0], scored[first] = scored[first], scored[0]
        return [candidates[i] for _, i in scored]


class LeastBusy:
    """Fewest running and queued requests for each slot; ties in listed order."""

    def order(self, candidates: Sequence[Candidate], demand: Demand) -> list[Candidate]:
        return sorted(
            candidates,
            key=lambda c: (c.load.running + c.load.queued) / max(1, c.load.slots or c.target.slots),
        )


class RoundRobin:
    """Each in turn, by a count of its own."""

    def __init__(self) -> None:
        self._turn = 0

    def order(self, candidates: Sequence[Candidate], demand: Demand) -> list[Candidate]:
        if not candidates:
            return []
        self._turn += 1
        start = self._turn % len(candidates)
        return [*candidates[start:], *candidates[:start]]


class Random:
    """Any order, evenly."""

    def __init__(self, randrange: Callable[[int], int]) -> None:
        self._randrange = randrange

    def order(self, candidates: Sequence[Candidate], demand: Demand) -> list[Candidate]:
        rest, ordered = list(candidates), []
        while rest:
            ordered.append(rest.pop(self._randrange(len(rest))))
        return ordered


POLICIES = ("predicted", "least_busy", "round_robin", "random")


def policy_named(name: str, randrange: Callable[[int], int]) -> Policy:
    """The policy that a config names.  Raises ValueError naming those there are."""
    match name:
        case "predicted":
            return Predicted(randrange)
        case "least_busy":
            return LeastBusy()
        case "round_robin":
            return RoundRobin()
        case "random":
            return Random(randrange)
    raise ValueError(f"no routing policy is called {name!r}; there are {', '.join(POLICIES)}")
