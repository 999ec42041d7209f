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

_EARLY: Final = "requests asked before all was well"
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

    def is_known(self, asked_s: float, ended_s: float | None) -> bool:
        """Whether what became of that is known: it is over, or was watched until it had to be."""
        return ended_s is not None or self.due_s(asked_s) <= self.until_s

    def after(self, moment_s: float) -> str:
        """That moment, for a sentence."""
        return f"{moment_s - self.healed_s:.1f} s after the heal"

    @property
    def allowed(self) -> str:
        """How long anything may take, for a sentence."""
        return f"{self.within_s:.1f} s are allowed"


def check_liveness(answers: Iterable[Answer], calm: Calm) -> Report:
    """What was accepted has its answer in time; what is sent once all is well is answered whole.

    A key has its answer when any of its requests has, and was asked when the first of them was;
    since it is asked for until then, it has to have one also where no try was accepted.  What is
    excused is no evidence, nor what was sent so late that it was still under way when watching
    ended.  A run in which watching ended before what was accepted had to end, in which nothing was
    sent once all was well, or whose times are not known, is undecided.
    """
    report = Report()
    answers = list(answers)
    asked_s: dict[str, float] = {}  # first, also by tries that are excused
    for one in answers:
        asked_s[_task(one)] = min(one.sent_at_s, asked_s.get(_task(one), one.sent_at_s))
    answers = [answer for answer in answers if not answer.is_excused]
    if timeless := [one for one in answers if one.ended_at_s is None and one.how in _ENDS]:
        report.undecided.append(f"liveness: nobody noted when {len(timeless)} requests ended")
        return report
    tasks: dict[str, list[Answer]] = defaultdict(list)
    for one in answers:
        tasks[_task(one)].append(one)
        if asked_s[_task(one)] < calm.settled_s:
            continue
        if not calm.is_known(one.sent_at_s, one.ended_at_s):
            report.counts["requests sent too late to be judged"] += 1
            continue
        report.counts[_SENT] += 1
        if why := _not_served(one, calm):
            sentence = f"request {one.request}, sent {calm.after(one.sent_at_s)}, {why}"
            report.violations.append(Violation(Kind.UNAVAILABLE, one.request, sentence, [one]))
    for name, repeats in tasks.items():
        if asked_s[name] < calm.settled_s:
            report += _early(name, repeats, calm)
    if not report.counts[_SENT]:
        report.undecided.append("liveness: nothing was sent once all was well")
    return report


def check_progress(operations: Iterable[JobOperation], calm: Calm) -> Report:
    """Every operation that is begun once all is well is answered, in time.

    What nobody waits for (`Lapse`, `LetGo`) is left out.
    """
    report = Report()
    for operation in operations:
        called_s = operation.called_ns / NS_PER_S
        ended_s = None if operation.returned_ns is None else operation.returned_ns / NS_PER_S
        if isinstance(operation.action, Lapse | LetGo) or called_s < calm.settled_s:
            continue
        if not calm.is_known(called_s, ended_s):
            continue
        report.counts[_BEGUN] += 1
        if ended_s is not None and ended_s <= calm.due_s(called_s):
            continue
        took = "was never answered" if ended_s is None else f"took {ended_s - called_s:.1f} s"
        sentence = f"{operation.action}, begun {calm.after(called_s)}, {took}; {calm.allowed}"
        report.violations.append(
            Violation(Kind.UNAVAILABLE, operation.subject, sentence, [operation])
        )
    if not report.counts[_BEGUN]:
        report.undecided.append("liveness: nothing was begun once all was well")
    return report


def _not_served(one: Answer, calm: Calm) -> str:
    """What is wrong with what became of it, "" if nothing is."""
    if one.how is How.LEFT:
        return ""
    if one.how is not How.WHOLE:
        return f"ended {one.how}" + (f" ({one.cause})" if one.cause else "")
    if _in_time(one, calm):
        return ""
    return f"took {(one.ended_at_s or 0.0) - one.sent_at_s:.1f} s; {calm.allowed}"


def _task(one: Answer) -> str:
    """What its client wanted done, for a sentence: all requests of one key are one task."""
    return f"key {one.key}" if one.key else f"request {one.request}"


def _early(name: str, repeats: list[Answer], calm: Calm) -> Report:
    """Whether what was asked before all was well went on for too long, or for ever."""
    report = Report()
    is_accepted = any(one.accepted for one in repeats)
    if not is_accepted and not repeats[0].key:
        return report
    report.counts[_EARLY] += 1
    answered = [one for one in repeats if one.how in _ENDS]
    if any(_in_time(one, calm) for one in answered):
        return report
    due_s = calm.due_s(calm.settled_s)
    allowed = f"{due_s - calm.healed_s:.1f} s after the heal are allowed"
    if answered:
        how = f"answered {calm.after(min(one.ended_at_s or 0.0 for one in answered))}"
    elif due_s <= calm.until_s:
        how = "is not answered"
    else:
        watched = f"watching ended {calm.after(calm.until_s)}"
        report.undecided.append(f"liveness: {name} was not answered, and {watched}; {allowed}")
        return report
    taken_on = "accepted" if is_accepted else "asked for again and again"
    sentence = f"{name} was {taken_on}, and {how}; {allowed}"
    report.violations.append(Violation(Kind.UNFINISHED, name, sentence, repeats))
    return report


def _in_time(one: Answer, calm: Calm) -> bool:
    return one.ended_at_s is not None and one.ended_at_s <= calm.due_s(one.sent_at_s)
