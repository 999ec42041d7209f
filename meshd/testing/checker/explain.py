"""From "there is no order" to the few operations that show it.

Only what weakens a history is taken away, so that what is left still proves the whole one wrong: a
history that can be explained can still be explained when it ends earlier, when a look is left out,
and when a client forgets what it was told (its operation becomes an open one).  Leaving out what
had an effect would prove nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from meshd.testing.checker.history import Operation, by_subject
from meshd.testing.checker.linearizability import STEPS, Found, Model, Verdict, search
from meshd.testing.checker.report import Kind, Report, Violation

S = TypeVar("S", bound=Hashable)
A = TypeVar("A")
R = TypeVar("R")

SHRINK_STEPS = 1_000_000
"""Of all searches for a smaller proof together: a few seconds."""
TRY_STEPS = 30_000
"""Of one of them: a proof that takes longer is not worth having."""


def check(
    operations: Iterable[Operation[A, R]],
    model: Model[S, A, R],
    *,
    what: str = "subject",
    max_steps: int = STEPS,
) -> Report:
    """Whether each subject's operations are linearizable; `what` a subject is, for the sentences.

    `max_steps` is for each subject.
    """
    report = Report()
    for subject, own in by_subject(operations).items():
        found = search(own, model, max_steps=max_steps)
        report.counts["operations ordered"] += len(own)
        if found.verdict is Verdict.UNDECIDED:
            report.undecided.append(
                f"{what} {subject}: no order of its {len(own)} operations was found, or ruled "
                f"out, within {found.steps:,} steps"
            )
        elif found.verdict is Verdict.VIOLATED:
            small = shrink(own, model)
            shown = [operation for operation in small if not operation.is_open]
            why = _why(small, search(small, model, max_steps=max_steps), model)
            report.violations.append(
                Violation(Kind.NOT_LINEARIZABLE, subject, f"{what} {subject}: {why}", shown)
            )
    return report


def shrink(operations: Sequence[Operation[A, R]], model: Model[S, A, R]) -> list[Operation[A, R]]:
    """As little of a history without an order as still has none, in the order of calls.

    In what is left no client can be told less without the proof being lost, or taking too long.
    """
    shrinker = _Shrinker(model)
    return shrinker.told_less(shrinker.shortest_beginning(operations))


class _Shrinker(Generic[S, A, R]):
    def __init__(self, model: Model[S, A, R]) -> None:
        self.model = model
        self.steps_left = SHRINK_STEPS

    def is_proof(self, operations: Sequence[Operation[A, R]]) -> bool:
        found = search(operations, self.model, max_steps=min(TRY_STEPS, self.steps_left))
        self.steps_left -= found.steps
        return found.verdict is Verdict.VIOLATED

    def shortest_beginning(self, operations: Sequence[Operation[A, R]]) -> list[Operation[A, R]]:
        ends = sorted(o.returned_ns for o in operations if o.returned_ns is not None)
        enough, too_few = len(ends) - 1, -1
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            if self.is_proof(_until(operations, ends[middle])):
                enough = middle
            else:
                too_few = middle
        return _until(operations, ends[enough])

    def told_less(self, operations: list[Operation[A, R]]) -> list[Operation[A, R]]:
        """Let clients forget: many at once first, then one by one."""
        left = operations
        size = len(left)
        while size and self.steps_left > 0:
            told = [o for o in left if not o.is_open]
            shrunk = False
            for start in range(0, len(told), size):
                forgotten = told[start : start + size]
                weaker = self._without(left, forgotten)
                if self.steps_left > 0 and self.is_proof(weaker):
                    left, shrunk = weaker, True
            if not (shrunk and size == 1):
                size //= 2
        return left

    def _without(
        self, operations: Sequence[Operation[A, R]], forgotten: Sequence[Operation[A, R]]
    ) -> list[Operation[A, R]]:
        weaker = []
        for operation in operations:
            if not any(operation is one for one in forgotten):
                weaker.append(operation)
            elif operation.result is None or not self.model.is_look(
                operation.action, operation.result
            ):
                weaker.append(operation.opened())
        return weaker


def _until(operations: Sequence[Operation[A, R]], end_ns: int) -> list[Operation[A, R]]:
    """The history as it was then."""
    return [
        o if o.returned_ns is None or o.returned_ns <= end_ns else o.opened()
        for o in operations
        if o.called_ns <= end_ns
    ]


def _why(
    operations: Sequence[Operation[A, R]], found: Found[S, A, R], model: Model[S, A, R]
) -> str:
    told = [o for o in operations if not o.is_open]
    stuck = [o for o in told if not any(o is done for done in found.order)]
    sentence = "no order of these operations explains what the clients were told."
    if found.verdict is not Verdict.VIOLATED or not stuck:
        return sentence
    steps = ", ".join(f"{o.action} ({o.client})" for o in found.order)
    before = f"after {steps}" if steps else "at first"
    sentence += f" At best {before} it is {model.describe(found.state)}; then "
    sentence += " or ".join(f"{o.action} -> {o.result}" for o in stuck) + " cannot be."
    if len(operations) > len(told):
        sentence += f" {len(operations) - len(told)} more may have happened, and do not help."
    return sentence
