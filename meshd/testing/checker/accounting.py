"""Whether everything that was taken on came out again: once, and nothing else.

Two books.  `check_requests` is about clients: every accepted request has one answer.
`check_record` is about jobs: what was acknowledged is what every node's record says at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from meshd.testing.checker.history import by_subject
from meshd.testing.checker.jobs import (
    ENDED,
    Accept,
    Cancel,
    Complete,
    Granted,
    JobOperation,
    Joined,
    Ok,
    Phase,
    Retry,
    Seen,
    Submit,
)
from meshd.testing.checker.report import Kind, Report, Violation


class End(StrEnum):
    """How a request ended, as its client saw it."""

    WHOLE = "whole"  # an answer with a finish_reason
    ERROR = "error"  # an explicit one, whole in its dialect
    LEFT = "left"  # the client went away itself
    CUT = "cut"  # it ended, and said neither
    SILENT = "silent"  # it did not end


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request as its client lived it."""

    request: str
    """Its own name: a repeat has another."""
    key: str = ""
    """The same for all repeats of one keyed request; "": unkeyed."""
    accepted: bool
    """Unkeyed: read whole, by an entry that stayed up.  Keyed: its acceptance was committed."""
    end: End
    answer: str = ""
    """The digest of a whole answer."""
    cause: str = ""
    """Of an error."""

    def __str__(self) -> str:
        key = f" (key {self.key})" if self.key else ""
        more = f" {self.answer or self.cause}".rstrip()
        taken = "accepted" if self.accepted else "not accepted"
        return f"request {self.request}{key}: {taken}, {self.end}{more}"


def check_requests(asked: Iterable[Asked], *, sent: Iterable[str] | None = None) -> Report:
    """Accepted = answered; nothing doubled; nothing unexpected.

    `sent` are the names of all requests that were sent, where that is known from elsewhere.
    """
    report = Report()
    requests: dict[str, list[Asked]] = defaultdict(list)
    keyed: dict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        requests[one.request].append(one)
        report.counts["requests"] += 1
        report.counts[f"requests that ended {one.end}"] += 1
        if one.key:
            keyed[one.key].append(one)
        elif one.accepted and one.end in (End.CUT, End.SILENT):
            sentence = f"request {one.request} was accepted and ended {one.end}"
            report.violations.append(Violation(Kind.LOST, one.request, sentence, [one]))
    for name, ends in requests.items():
        if len(ends) > 1:
            sentence = f"request {name} ended {len(ends)} times"
            report.violations.append(Violation(Kind.DOUBLED, name, sentence, ends))
    for key, repeats in keyed.items():
        report.violations += _keyed(key, repeats)
    if sent is not None:
        expected = set(sent)
        for name in sorted(requests.keys() - expected):
            sentence = f"request {name} has an end, and nobody sent it"
            report.violations.append(Violation(Kind.UNEXPECTED, name, sentence, requests[name]))
        for name in sorted(expected - requests.keys()):
            sentence = f"request {name} was sent, and nothing is known of its end"
            report.violations.append(Violation(Kind.LOST, name, sentence))
    return report


def _keyed(key: str, repeats: list[Asked]) -> list[Violation]:
    found = []
    whole: dict[str, Asked] = {}
    for one in repeats:
        if one.end is End.WHOLE:
            whole.setdefault(one.answer, one)
    if len(whole) > 1:
        sentence = f"key {key} has {len(whole)} different answers"
        found.append(Violation(Kind.DOUBLED, key, sentence, list(whole.values())))
    answered = any(one.end in (End.WHOLE, End.ERROR, End.LEFT) for one in repeats)
    if any(one.accepted for one in repeats) and not answered:
        sentence = f"key {key} was accepted, and none of its {len(repeats)} requests was answered"
        found.append(Violation(Kind.LOST, key, sentence, repeats))
    return found


# --- jobs

View = Mapping[str, Seen]
"""What one node's record says of each job at the end, with those that are history."""


class _At(msgspec.Struct, frozen=True):
    """One node's word on one job, as evidence."""

    node: str
    seen: Seen | None

    def __str__(self) -> str:
        return f"the record of {self.node}: {self.seen or 'no such job'}"


def check_record(
    operations: Iterable[JobOperation], views: Mapping[str, View], *, all_ended: bool = False
) -> Report:
    """What was acknowledged is there at the end, at every node, and nothing else is.

    `views` by node, taken when nothing happens any more; `all_ended`: every job has to be at its
    end by then.
    """
    report = Report()
    operations = list(operations)
    jobs = by_subject(operations)
    anywhere = [operation for operation in operations if not operation.subject]
    for job in sorted({*jobs, *(job for view in views.values() for job in view)}):
        words = [_At(node, view.get(job)) for node, view in sorted(views.items())]
        report.counts["jobs accounted for"] += 1
        report.violations += _agreement(job, words)
        for word in words:
            found = _one(job, jobs.get(job, anywhere), word, all_ended)
            if found:
                report.violations.append(found)
                break  # the other nodes say the same, or differ, which is said already
    return report


def _agreement(job: str, words: list[_At]) -> list[Violation]:
    different: dict[Seen | None, _At] = {}
    for word in words:
        different.setdefault(word.seen, word)
    if len(different) <= 1:
        return []
    sentence = f"job {job}: the nodes' records differ"
    return [Violation(Kind.DIVERGED, job, sentence, list(different.values()))]


def _one(job: str, operations: list[JobOperation], word: _At, all_ended: bool) -> Violation | None:
    """What is wrong with what one node says, None if nothing is."""
    seen = word.seen
    accepts = [o for o in operations if isinstance(o.action, Accept | Submit)]
    welcomed = [o for o in accepts if isinstance(o.result, Ok | Granted | Joined)]
    completions = [o for o in operations if isinstance(o.action, Complete)]
    completed = [o for o in completions if isinstance(o.result, Ok)]
    cancelled = [o for o in operations if isinstance(o.action, Cancel) and isinstance(o.result, Ok)]

    def wrong(kind: Kind, sentence: str, *evidence: object) -> Violation:
        return Violation(kind, job, f"job {job}: {sentence}", [*evidence, word])

    if seen is None or seen.phase is Phase.ABSENT:
        if welcomed:
            return wrong(Kind.LOST, "it was acknowledged, and is gone", welcomed[0])
        return None
    if not accepts:
        return wrong(Kind.UNEXPECTED, "it is there, and nobody submitted it")
    if completed and seen.phase is not Phase.DONE:
        return wrong(Kind.LOST, "its completion was acknowledged, and is gone", completed[0])
    if seen.phase is Phase.DONE:
        possible = completed or [o for o in completions if o.is_open]
        if not any(_result(o) == seen.result or seen.result is None for o in possible):
            kind = Kind.WRONG if completed else Kind.UNEXPECTED
            return wrong(kind, "its result is not what it was completed with", *completions)
    retried = any(isinstance(o.action, Retry) for o in operations)
    if cancelled and seen.phase is not Phase.CANCELLED and not retried:
        return wrong(Kind.LOST, "its cancellation was acknowledged, and is gone", cancelled[0])
    if all_ended and seen.phase not in ENDED:
        return wrong(Kind.UNFINISHED, f"it is still {seen.phase}", *welcomed[:1])
    return None


def _result(operation: JobOperation) -> str:
    assert isinstance(operation.action, Complete)
    return operation.action.result
