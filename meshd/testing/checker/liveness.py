"""Liveness after heal: once nothing is wrong any more, what was taken on ends, and all works again.

    calm = Calm(healed_s=40.0, settle_s=5.0, within_s=10.0, until_s=70.0)
    report += check_liveness(answers, calm)                  # requests, as clients lived them
    report += check_progress(history.operations, calm)       # operations on jobs

Safety is judged over a whole run; this only over its last part.  A mesh that answers nothing breaks
no other rule than these.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import msgspec

from meshd.testing.checker.answers import Answer, How
from meshd.testing.checker.history import NS_PER_S
from meshd.testing.checker.jobs import JobOperation, Lapse, LetGo
from meshd.testing.checker.report import Kind, Report, Violation

_SENT: Final = "requests sent once all was well"
_BEGUN: Final = "operations begun once all was well"
_ENDS: Final = (How.WHOLE, How.ERROR, How.REFUSED, How.LEFT)
"""How a request ends that was not lost."""


class Calm(msgspec.Struct, frozen=True, kw_only=True):
    """The last part of a run, in seconds by the clock of what is judged."""

    healed_s: float
    """The last fault is over: nothing is down, cut, frozen, full or slow any more."""
    settle_s: float = 0.0
    """How long after that something new may still fail: an election, links that are dialled."""
    within_s: float
    """How long after both, or after it was asked, anything may take."""
    until_s: float
    """When watching ended."""

    @property
    def settled_s(self) -> float:
        """From here on all has to work."""
        return self.healed_s + self.settle_s

    def due_s(self, asked_s: float) -> float:
        """When what was asked then has to be over."""
        return max(asked_s, self.settled_s) + self.within_s

    def is_judged(self, asked_s: float) -> bool:
        """Whether that was asked once all was well, and early enough to be over."""
        return asked_s >= self.settled_s and self.due_s(asked_s) <= self.until_s

    def after(self, moment_s: float) -> str:
        """That moment, for a sentence."""
        return f"{moment_s - self.healed_s:.1f} s after the heal"

    @property
    def allowed(self) -> str:
        """How long anything may take, for a sentence."""
        return f"{self.within_s:.1f} s are allowed"


def check_liveness(answers: Iterable[Answer], calm: Calm) -> Report:
    """What was accepted has its answer in time; what is sent once all is well is answered whole.

    A key has its answer when any of its requests has.  What is excused, or was sent too late to be
    judged, is no evidence.  A run that was not watched for long enough, in which nothing was sent
    once all was well, or whose times are not known, is undecided.
    """
    report = Report()
    answers = [answer for answer in answers if not answer.is_excused]
    report.undecided += _not_watched(calm)
    if timeless := [one for one in answers if one.ended_at_s is None and one.how in _ENDS]:
        report.undecided.append(f"liveness: nobody noted when {len(timeless)} requests ended")
    if report.undecided:
        return report
    tasks: dict[str, list[Answer]] = defaultdict(list)
    for one in answers:
        tasks[f"key {one.key}" if one.key else f"request {one.request}"].append(one)
        if one.sent_at_s < calm.settled_s:
            continue
        if not calm.is_judged(one.sent_at_s):
            report.counts["requests sent too late to be judged"] += 1
            continue
        report.counts[_SENT] += 1
        if why := _not_served(one, calm):
            sentence = f"request {one.request}, sent {calm.after(one.sent_at_s)}, {why}"
            report.violations.append(Violation(Kind.UNAVAILABLE, one.request, sentence, [one]))
    for name, repeats in tasks.items():
        report.violations += _unfinished(name, repeats, calm)
    if not report.counts[_SENT]:
        report.undecided.append("liveness: nothing was sent once all was well")
    return report


def check_progress(operations: Iterable[JobOperation], calm: Calm) -> Report:
    """Every operation that is begun once all is well is answered, in time.

    What nobody waits for (`Lapse`, `LetGo`) is left out.
    """
    report = Report(undecided=_not_watched(calm))
    for operation in operations:
        called_s = operation.called_ns / NS_PER_S
        if isinstance(operation.action, Lapse | LetGo) or not calm.is_judged(called_s):
            continue
        report.counts[_BEGUN] += 1
        ended_s = None if operation.returned_ns is None else operation.returned_ns / NS_PER_S
        if ended_s is not None and ended_s <= calm.due_s(called_s):
            continue
        took = "was never answered" if ended_s is None else f"took {ended_s - called_s:.1f} s"
        sentence = f"{operation.action}, begun {calm.after(called_s)}, {took}; {calm.allowed}"
        report.violations.append(
            Violation(Kind.UNAVAILABLE, operation.subject, sentence, [operation])
        )
    if not report.undecided and not report.counts[_BEGUN]:
        report.undecided.append("liveness: nothing was begun once all was well")
    return report


def _not_watched(calm: Calm) -> list[str]:
    watched_s, needed_s = calm.until_s - calm.healed_s, calm.settle_s + calm.within_s
    if watched_s >= needed_s:
        return []
    return [f"liveness: watched for {watched_s:.1f} s after the heal; {needed_s:.1f} s are needed"]


def _not_served(one: Answer, calm: Calm) -> str:
    """What is wrong with what became of it, "" if nothing is."""
    if one.how is How.LEFT:
        return ""
    if one.how is not How.WHOLE:
        return f"ended {one.how}" + (f" ({one.cause})" if one.cause else "")
    if _in_time(one, calm):
        return ""
    return f"took {(one.ended_at_s or 0.0) - one.sent_at_s:.1f} s; {calm.allowed}"


def _unfinished(name: str, repeats: list[Answer], calm: Calm) -> list[Violation]:
    """Whether what was taken on before all was well went on for too long, or for ever."""
    if not any(one.accepted and one.sent_at_s < calm.settled_s for one in repeats):
        return []
    answered = [one for one in repeats if one.how in _ENDS]
    if any(_in_time(one, calm) for one in answered):
        return []
    how = "is not answered"
    if answered:
        how = f"answered {calm.after(min(one.ended_at_s or 0.0 for one in answered))}"
    allowed_s = calm.due_s(calm.settled_s) - calm.healed_s
    sentence = f"{name} was accepted, and {how}; {allowed_s:.1f} s after the heal are allowed"
    return [Violation(Kind.UNFINISHED, name, sentence, repeats)]


def _in_time(one: Answer, calm: Calm) -> bool:
    return one.ended_at_s is not None and one.ended_at_s <= calm.due_s(one.sent_at_s)
