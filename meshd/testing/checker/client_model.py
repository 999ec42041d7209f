"""A job as those see it who asked for it: what the mesh does with it meanwhile is hidden from them.

    absent  --submitted or accepted-->  open  --ends, unseen-->  done | failed | cancelled | dead

`job_model.py` knows every claim and fence, which only the record's own commands show.  Here an end
is known from the first look that shows it: it came at some time before, and there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

from meshd.testing.checker.answers import Answer, How, Mode
from meshd.testing.checker.explain import check
from meshd.testing.checker.history import NS_PER_S, Operation, by_subject
from meshd.testing.checker.jobs import (
    ENDED,
    Accept,
    Cancel,
    JobAction,
    JobOperation,
    JobResult,
    Joined,
    Ok,
    Phase,
    Read,
    Refused,
    Seen,
    Submit,
)
from meshd.testing.checker.linearizability import STEPS
from meshd.testing.checker.report import Kind, Report, Violation


class Told(NamedTuple):
    """What clients can know of one job."""

    phase: Phase = Phase.ABSENT
    """QUEUED: it is open, whoever has it."""
    request: str = ""
    result: str = ""
    """Of one that is done; "": nobody was shown it yet."""

    def at(self, *phases: Phase) -> list[Told]:
        """This job, at each of these."""
        return [self._replace(phase=phase) for phase in phases]


class ClientModel:
    """See `linearizability.Model`."""

    initial = Told()

    def step(self, job: Told, action: JobAction, result: JobResult | None) -> Sequence[Told]:
        match action, result:
            case Submit(request) | Accept(request), None:
                return [job if job.phase is not Phase.ABSENT else Told(Phase.QUEUED, request)]
            case Submit(request), Ok() if job.phase is Phase.ABSENT:
                return [Told(Phase.QUEUED, request)]
            case Submit(request), Joined(seen) if job.phase is not Phase.ABSENT:
                if request != job.request:
                    return []
                return [job] if seen is None else self._look(job, seen)
            case Accept(request), Seen():
                taken = Told(Phase.QUEUED, request) if job.phase is Phase.ABSENT else job
                return self._look(taken, result) if taken.request == request else []
            case Read(), Seen():
                return self._look(job, result)
            case Cancel(), Ok() | None if job.phase in (Phase.QUEUED, Phase.CANCELLED):
                return job.at(Phase.CANCELLED)
            case Cancel(), Refused() if job.phase is Phase.QUEUED:
                return job.at(Phase.DONE, Phase.FAILED, Phase.DEAD)  # it had ended just before
            case Cancel(), Refused():
                return [job]
        return []

    def is_look(self, action: JobAction, result: JobResult) -> bool:
        """An end that it shows had come before, so other looks show it as well without this one."""
        return isinstance(result, Joined | Seen | Refused) and not isinstance(action, Accept)

    def describe(self, job: Told) -> str:
        if job.phase is Phase.QUEUED:
            return "open"
        return f"{job.phase} with {job.result}" if job.result else str(job.phase)

    def _look(self, job: Told, seen: Seen) -> list[Told]:
        if seen.phase in ENDED and job.phase is Phase.QUEUED:
            job = job._replace(phase=seen.phase)
        is_open = job.phase is Phase.QUEUED and seen.phase not in (*ENDED, Phase.ABSENT)
        if seen.phase is not job.phase and not is_open:
            return []
        if not seen.result or seen.result == job.result:
            return [job]
        return [] if job.result else [job._replace(result=seen.result)]


def check_client_jobs(operations: Iterable[JobOperation], *, max_steps: int = STEPS) -> Report:
    """Whether there is an order that explains what clients were told of what they asked for: it is
    taken on once, it does not vanish, and it has one end.

    `max_steps` is for each job or key; where that is too little it is undecided, which is no pass.
    """
    operations = list(operations)
    report = check(operations, ClientModel(), what="job", max_steps=max_steps)
    for job, own in by_subject(operations).items():
        report.violations += _two_ends(job, own)
    return report


def _two_ends(job: str, operations: Sequence[JobOperation]) -> list[Violation]:
    """Two looks that show different ends.  The search finds them as well; this says it plainly, and
    also where a search gave up.  Of keys, `check_requests` says it."""
    first: dict[str, JobOperation] = {}
    for one in operations:
        seen = one.result
        if not isinstance(one.action, Read) or not isinstance(seen, Seen):
            continue
        if seen.phase not in ENDED or (seen.phase is Phase.DONE and seen.result is None):
            continue  # it is not over, or nobody was shown its result
        first.setdefault(str(seen), one)
    if len(first) <= 1:
        return []
    sentence = f"job {job}: has ended in {len(first)} ways"
    return [Violation(Kind.DOUBLED, job, sentence, list(first.values()))]


def check_keys(answers: Iterable[Answer], *, max_steps: int = STEPS) -> Report:
    """The same of requests with a key: each of them is told how the one run of its key ended, or
    nothing.  What did not end whole stays open: an error may be one of the way there."""
    keyed = [_keyed(answer) for answer in answers if answer.key and answer.mode is Mode.KEYED]
    return check(keyed, ClientModel(), what="key", max_steps=max_steps)


def _keyed(answer: Answer) -> JobOperation:
    is_told = answer.how is How.WHOLE and answer.ended_at_s is not None
    return Operation(
        client=f"request {answer.request}",
        subject=answer.key,
        action=Accept(answer.key, ""),
        called_ns=round(answer.sent_at_s * NS_PER_S),
        returned_ns=round((answer.ended_at_s or 0.0) * NS_PER_S) if is_told else None,
        result=Seen(Phase.DONE, result=digest_of(answer.text.encode())) if is_told else None,
    )


def digest_of(result: bytes) -> str:
    """A result in a few letters: two that differ have different ones."""
    return sha256(result).hexdigest()[:16]
