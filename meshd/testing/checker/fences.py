"""Fences only rise, and nothing is obeyed under a stale one.

A search for an order would find this as well.  This needs no search: it is linear, it says plainly
what happened, and it decides where a search gave up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshd.testing.checker.history import by_subject
from meshd.testing.checker.jobs import (
    Accept,
    Claim,
    Complete,
    Expire,
    Fail,
    Granted,
    JobOperation,
    Move,
    Ok,
    Release,
    Renew,
)
from meshd.testing.checker.report import Kind, Report, Violation

_UNDER_A_FENCE = (Renew, Complete, Fail, Release, Expire, Move)
_GRANTING = (Accept, Claim, Move)


def check_fences(operations: Iterable[JobOperation]) -> Report:
    """Per job: grants, what was obeyed under them, and completions."""
    report = Report()
    for job, own in by_subject(operations).items():
        grants = [o for o in own if isinstance(o.result, Granted)]
        report.counts["fences granted"] += len(grants)
        report.violations += _grants(job, grants)
        report.violations += _obeyed(job, own, grants)
        report.violations += _completions(job, own)
    return report


def _grants(job: str, grants: Sequence[JobOperation]) -> list[Violation]:
    found = []
    given: dict[int, JobOperation] = {}
    highest: JobOperation | None = None
    for end in _by_end(grants):
        fence = _granted(end)
        if fence in given:
            sentence = f"job {job}: fence {fence} was given twice"
            found.append(Violation(Kind.FENCE, job, sentence, [given[fence], end]))
        given.setdefault(fence, end)
    ended = _by_end(grants)
    over = 0
    for grant in grants:  # in the order of calls
        while over < len(ended) and ended[over].before(grant):
            if highest is None or _granted(ended[over]) > _granted(highest):
                highest = ended[over]
            over += 1
        if highest is not None and _granted(grant) < _granted(highest):
            sentence = (
                f"job {job}: fence {_granted(grant)} was given after {_granted(highest)} had been"
            )
            found.append(Violation(Kind.FENCE, job, sentence, [highest, grant]))
    return found


def _obeyed(
    job: str, operations: Sequence[JobOperation], grants: Sequence[JobOperation]
) -> list[Violation]:
    """What worked under a fence that was never given, or after a higher one had been."""
    found = []
    given = {_granted(grant) for grant in grants}
    unknown_grants = any(o.is_open and isinstance(o.action, _GRANTING) for o in operations)
    done: set[tuple[int, str]] = set()
    for operation in operations:
        action = operation.action
        if not isinstance(action, _UNDER_A_FENCE) or not isinstance(operation.result, Ok | Granted):
            continue
        if isinstance(action, Complete):
            if (action.fence, action.result) in done:
                continue  # its repeat, welcomed
            done.add((action.fence, action.result))
        newer = [g for g in grants if _granted(g) > action.fence and g.before(operation)]
        if newer:
            first = min(newer, key=_granted)
            sentence = f"job {job}: {action} worked after fence {_granted(first)} had been given"
            found.append(Violation(Kind.FENCE, job, sentence, [first, operation]))
        elif action.fence not in given and not unknown_grants:
            sentence = f"job {job}: {action} worked, and nobody was ever given that fence"
            found.append(Violation(Kind.FENCE, job, sentence, [operation]))
    return found


def _completions(job: str, operations: Sequence[JobOperation]) -> list[Violation]:
    """One job has one result."""
    first: JobOperation | None = None
    for operation in operations:
        action = operation.action
        if isinstance(action, Complete) and isinstance(operation.result, Ok):
            if first is None:
                first = operation
            elif first.action != action:
                sentence = f"job {job}: was completed twice, in different ways"
                return [Violation(Kind.DOUBLED, job, sentence, [first, operation])]
    return []


def _granted(operation: JobOperation) -> int:
    assert isinstance(operation.result, Granted)
    return operation.result.fence


def _by_end(operations: Iterable[JobOperation]) -> list[JobOperation]:
    return sorted(operations, key=lambda operation: operation.returned_ns or 0)
