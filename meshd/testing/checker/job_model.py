"""What a job is, if one thing happens to it at a time: the model that histories are held against.

              submit               claim
    absent  ---------->  queued  ---------->  claimed  ----->  done | failed
       |                   ^ `-- too late        ^  |
       |                   |      -> dead        |  |
       |                   `-- of a queued one --|--+-- failed, released, expired, let go
       |                                         |  `-- of a keyed one --> accepted, or dead
       `------------------- accept --------------+---- accept again ---------'

Another node may go on with a claimed one (move), under a fence of its own.

Whoever claims it gets a fence, and names it with whatever is said of the job then.  Given back too
often, or too late, it is dead.  A dead one that was queued may be retried; all but the ended may be
cancelled.

It is written from the promise and shares no code with the record's reducer: a mistake would have
to be made twice.  A refusal is evidence as well: it must be true of the job at some time between
call and answer.  What is refused for a reason that is not the job's (no quorum, a full queue, not
yet due) is to be withdrawn from the history.

Where nobody learned the fence of a claim, the model knows only what it must be above; the first
operation that works under a fence, or shows it, settles it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from meshd.testing.checker.jobs import (
    ENDED,
    IDLE,
    Accept,
    Cancel,
    Claim,
    Complete,
    Expire,
    Fail,
    Granted,
    JobAction,
    JobResult,
    Joined,
    Lapse,
    LetGo,
    Move,
    Ok,
    Phase,
    Read,
    Refused,
    Release,
    Renew,
    Retry,
    Seen,
    Submit,
)

_UNDER_A_FENCE = (Renew, Complete, Fail, Release, Expire, Move)


class Job(NamedTuple):
    """The state of one job."""

    phase: Phase = Phase.ABSENT
    request: str = ""
    is_keyed: bool = False
    """It was accepted, and is in no queue."""
    is_meant: bool = False
    node: str = ""
    """Who holds, or last held, it."""
    fence: int = 0
    """Of the last claim; 0 before the first."""
    is_settled: bool = True
    """False: the fence is above `fence`, and nobody has seen it yet."""
    result: str = ""

    @property
    def idle(self) -> Phase:
        """Where it is while nobody has it."""
        return Phase.ACCEPTED if self.is_keyed else Phase.QUEUED

    def under(self, fence: int) -> Job | None:
        """This job, if that can be its fence."""
        if self.is_settled:
            return self if fence == self.fence else None
        return self._replace(fence=fence, is_settled=True) if fence > self.fence else None

    def at(self, *phases: Phase) -> list[Job]:
        """This job, at each of these."""
        return [self._replace(phase=phase) for phase in phases]


class JobModel:
    """See `linearizability.Model`."""

    initial = Job()

    def step(self, job: Job, action: JobAction, result: JobResult | None) -> Sequence[Job]:
        match action, result:
            case _, None:
                return self._claimed(job, action, None) + self._changed(job, action)
            case Read(), Seen():
                return self._look(job, result)
            case Submit(request) | Accept(request), Joined(seen):
                if job.phase is Phase.ABSENT or not _may_be_same(request, job.request):
                    return []
                return [job] if seen is None else self._look(job, seen)
            case Submit(request) | Accept(request), Refused():
                is_other = request != job.request or not request
                return [job] if job.phase is not Phase.ABSENT and is_other else []
            case _, Refused():
                return [] if self._must_work(job, action) else [job]
            case Accept() | Claim() | Move(), Granted(fence):
                return self._claimed(job, action, fence)
            case Fail() | Release() | Expire(), Ok(phase) if phase is not None:
                return [after for after in self._changed(job, action) if after.phase is phase]
            case _, Ok():
                return self._changed(job, action)
        return []

    def is_look(self, action: JobAction, result: JobResult) -> bool:
        return isinstance(result, Refused | Joined | Seen)

    def describe(self, job: Job) -> str:
        words = [str(job.phase)]
        if job.phase is Phase.CLAIMED:
            words.append(f"by {job.node} under")
            words.append(f"fence {job.fence}" if job.is_settled else f"a fence above {job.fence}")
        elif job.fence:
            words.append(f"(last fence {job.fence})")
        if job.phase is Phase.DONE:
            words.append(f"with {job.result}")
        return " ".join(words)

    def _must_work(self, job: Job, action: JobAction) -> bool:
        """Whether a refusal would be untrue."""
        if job.phase in ENDED or isinstance(action, Retry):
            return False  # the same end again: welcomed or refused
        if not job.is_settled and isinstance(action, _UNDER_A_FENCE):
            return False  # it was another fence, then
        return bool(self._claimed(job, action, None) or self._changed(job, action))

    def _claimed(self, job: Job, action: JobAction, fence: int | None) -> list[Job]:
        """What becomes of it if that grants a fence: this one, or one that nobody learned."""
        match action:
            case Accept(request, node) if job.phase is Phase.ABSENT:
                job = Job(request=request, is_keyed=True)
            case Accept(request, node) if (job.phase, job.request) == (Phase.ACCEPTED, request):
                pass
            case Claim(node) if job.phase is Phase.QUEUED:
                pass
            case Move(under, node) if job.phase is Phase.CLAIMED:
                held = job.under(under)
                if held is None:
                    return []
                job = held
            case _:
                return []
        claimed = job._replace(phase=Phase.CLAIMED, node=node)
        if fence is None:
            return [claimed._replace(is_settled=False)]
        return [claimed._replace(fence=fence, is_settled=True)] if fence > job.fence else []

    def _changed(self, job: Job, action: JobAction) -> list[Job]:
        """What it can be after that, if it works and grants nothing."""
        match action:
            case Submit(request, is_meant) if job.phase is Phase.ABSENT:
                return [Job(Phase.QUEUED, request, is_meant=is_meant)]
            case Cancel() if job.phase in (*IDLE, Phase.CLAIMED, Phase.CANCELLED):
                return job.at(Phase.CANCELLED)
            case Retry() if job.phase is Phase.DEAD and not job.is_keyed:
                return job.at(Phase.QUEUED)
            case Lapse() if job.phase in IDLE:
                return job.at(Phase.DEAD)
            case LetGo(node) if (job.phase, job.node) == (Phase.CLAIMED, node):
                return job.at(job.idle, Phase.DEAD)
            case LetGo() if job.is_meant and job.phase is Phase.QUEUED:
                return job.at(Phase.CANCELLED)
            case Complete(fence, result) if job.phase is Phase.DONE:
                return [job] if (fence, result) == (job.fence, job.result) else []
            case Renew(fence) | Complete(fence) | Fail(fence) | Release(fence) | Expire(fence):
                held = job.under(fence) if job.phase is Phase.CLAIMED else None
                return [] if held is None else self._held(held, action)
        return []

    def _held(self, job: Job, action: JobAction) -> list[Job]:
        match action:
            case Renew():
                return [job]
            case Complete(_, result):
                return [job._replace(phase=Phase.DONE, result=result)]
            case Fail(_, True):
                return job.at(Phase.FAILED)
        return job.at(job.idle, Phase.DEAD)  # tried often enough, or too late

    def _look(self, job: Job, seen: Seen) -> list[Job]:
        if seen.phase is not job.phase:
            return []
        if seen.node is not None and seen.node != job.node:
            return []
        if seen.result is not None and seen.result != job.result:
            return []
        found = job if seen.fence is None else job.under(seen.fence)
        return [] if found is None else [found]


def _may_be_same(request: str, other: str) -> bool:
    return request == other or not (request and other)
