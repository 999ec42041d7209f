"""Whether what clients saw can have come from one thing that does one operation at a time.

The search of Wing and Gong, with Lowe's memory of places it has been to: it looks for an order of
the operations that respects real time (what was over before another began comes first) and in which
a sequential model gives every answer that was given.  An open operation may be anywhere after its
call, or nowhere.

It is exact.  What it costs grows with how many operations overlap, so its steps are bounded, and
running out of them is a verdict of its own: `UNDECIDED` is never a pass.

Three things keep it short without giving up anything.  What changes nothing is put where it first
fits.  Of equal open operations the first will do.  And a place that was reached with some open
operations is no better when it is reached with those and more: the fewer have been used up, the
more can still happen.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar

from meshd.testing.checker.history import Operation

S = TypeVar("S", bound=Hashable)
A = TypeVar("A")
R = TypeVar("R")
A_contra = TypeVar("A_contra", contravariant=True)
R_contra = TypeVar("R_contra", contravariant=True)

STEPS = 300_000
"""Of one search: about a second."""


class Model(Protocol[S, A_contra, R_contra]):
    """What one subject is, if one operation happens at a time.  States are hashable values."""

    @property
    def initial(self) -> S: ...

    def step(self, state: S, action: A_contra, result: R_contra | None) -> Sequence[S]:
        """The states in which that may leave it; none if it cannot be answered so in this state.

        `result` None: nobody knows the answer; every state that some answer leads to.
        """
        ...

    def is_look(self, action: A_contra, result: R_contra) -> bool:
        """Whether what is answered so never changes anything: a read, a refusal."""
        ...

    def describe(self, state: S) -> str:
        """The state in a few words, as in "it is ..."."""
        ...


class Verdict(StrEnum):
    """How a search ended."""

    HOLDS = "holds"
    VIOLATED = "violated"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Found(Generic[S, A, R]):
    """What a search found."""

    verdict: Verdict
    steps: int
    order: tuple[Operation[A, R], ...]
    """An order that explains everything; where there is none, the longest there is."""
    state: S
    """In which that order leaves it."""


def search(
    operations: Sequence[Operation[A, R]], model: Model[S, A, R], *, max_steps: int = STEPS
) -> Found[S, A, R]:
    """Look for an order of these operations, which are all about one subject."""
    return _Search(operations, model, max_steps).run()


class _Search(Generic[S, A, R]):
    """One search.  A set of operations is an integer: bit i is the i-th in order of calls.

    A place is what was done, and the state it leads to.  Next is always a place from which the
    fewest answered operations are missing, and of those one with the fewest open ones used.
    """

    def __init__(
        self, operations: Sequence[Operation[A, R]], model: Model[S, A, R], max_steps: int
    ) -> None:
        self.operations = sorted(operations, key=lambda operation: operation.called_ns)
        self.model = model
        self.max_steps = max_steps
        self.steps = 0
        self.answered = sum(1 << i for i, o in enumerate(self.operations) if not o.is_open)
        self.waiting: list[tuple[int, int, int, int, S]] = []
        """A heap: what is missing and used (counted), then the newest first; then the place."""
        self.reached: dict[tuple[int, S], list[int]] = {}
        """By the answered operations done, and the state: the open ones used, set by set."""
        self.last: dict[tuple[int, S], int] = {}
        """By which operation a place was reached, and in `before`, from where."""
        self.before: dict[tuple[int, S], tuple[int, S]] = {}

    def run(self) -> Found[S, A, R]:
        best = start = (0, self.model.initial)
        best_missing = self.answered.bit_count()
        self._reach(*start)
        while self.waiting:
            missing, _, _, done, state = heappop(self.waiting)
            if missing < best_missing:
                best, best_missing = (done, state), missing
            if not missing:
                return self._found(Verdict.HOLDS, best)
            if self.steps >= self.max_steps:
                return self._found(Verdict.UNDECIDED, best)
            for i, after in self._ways(done, state):
                if self._reach(done | 1 << i, after):
                    place = (done | 1 << i, after)
                    self.last[place], self.before[place] = i, (done, state)
        return self._found(Verdict.VIOLATED, best)

    def _reach(self, done: int, state: S) -> bool:
        """Note a place as one to go on from; False if that is no use."""
        used = done & ~self.answered
        known = self.reached.setdefault((done & self.answered, state), [])
        if any(fewer & used == fewer for fewer in known):
            return False
        known.append(used)
        missing = (self.answered & ~done).bit_count()
        heappush(self.waiting, (missing, used.bit_count(), -len(self.last), done, state))
        return True

    def _found(self, verdict: Verdict, place: tuple[int, S]) -> Found[S, A, R]:
        state = place[1]
        order = []
        while place in self.last:
            order.append(self.operations[self.last[place]])
            place = self.before[place]
        return Found(verdict, self.steps, tuple(reversed(order)), state)

    def _ways(self, done: int, state: S) -> list[tuple[int, S]]:
        """Every operation that may come next, with the state it leads to; the best guess last."""
        ready = self._ready(done)
        for i in ready:
            operation = self.operations[i]
            if operation.result is None or not self.model.is_look(
                operation.action, operation.result
            ):
                continue
            # What changes nothing, and is possible here, can come here in any order that works.
            self.steps += 1
            if tuple(self.model.step(state, operation.action, operation.result)) == (state,):
                return [(i, state)]
        ways = []
        for i in reversed(ready):
            operation = self.operations[i]
            self.steps += 1
            for after in self.model.step(state, operation.action, operation.result):
                if operation.result is not None or after != state:
                    ways.append((i, after))
        return ways

    def _ready(self, done: int) -> list[int]:
        """What may come next: nothing that is left was over before it began."""
        ready: list[int] = []
        unanswered: list[int] = []
        asked: list[A] = []
        until_ns: int | None = None
        i = (~done & (done + 1)).bit_length() - 1  # the first that is not done
        while i < len(self.operations):
            operation = self.operations[i]
            if until_ns is not None and operation.called_ns > until_ns:
                break
            if not done >> i & 1:
                if operation.returned_ns is not None:
                    ready.append(i)
                    if until_ns is None or operation.returned_ns < until_ns:
                        until_ns = operation.returned_ns
                elif operation.action not in asked:  # of equal open ones the first will do
                    unanswered.append(i)
                    asked.append(operation.action)
            i += 1
        # What was over first has to come first: a good guess.  Open ones seldom matter.
        ready.sort(key=lambda i: self.operations[i].returned_ns or 0)
        return ready + unanswered
