"""What a job is, if one thing happens to it at a time: the model that histories are held against.

    absent -> queued -> claimed (by a node, under a fence) -> done | failed | dead
                  <- failed, released, expired, retried       any of the first two -> cancelled

It is written from the promise and shares no code with the record's reducer: a mistake would have
to be made twice.  A refusal is evidence as well: it must be true of the job at some time between
call and answer.  What is refused for a reason that is not the job's (no quorum, a full queue, not
yet due) is to be withdrawn from the history.

Where nobody learned the fence of a claim, the model knows only what it must be above; the first
operation that works under a fence, or shows it, settles it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from meshd.testing.checker.history import History, Operation


class Phase(StrEnum):
    """Where a job is."""

    ABSENT = "absent"
    QUEUED = "queued"
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"


LIVE = (Phase.QUEUED, Phase.CLAIMED)
ENDED = (Phase.DONE, Phase.FAILED, Phase.CANCELLED, Phase.DEAD)

# --- what is asked


class _Action(msgspec.Struct, frozen=True, tag_field="does", tag=str.lower, omit_defaults=True):
    pass


class Accept(_Action, frozen=True):
    """Take it on: a queued job; or, with `node`, a keyed request that this node runs at once."""

    request: str
    """The fingerprint of what is asked: the same job with another one is another question."""
    node: str = ""

    def __str__(self) -> str:
        return f"accept of {self.request}" + (f" to run at {self.node}" if self.node else "")


class Claim(_Action, frozen=True):
    """Let this node run it."""

    node: str

    def __str__(self) -> str:
        return f"claim by {self.node}"


class Renew(_Action, frozen=True):
    """A holder's sign of life."""

    fence: int

    def __str__(self) -> str:
        return f"renewal under fence {self.fence}"


class Complete(_Action, frozen=True):
    """This is its result."""

    fence: int
    result: str
    """Its digest."""

    def __str__(self) -> str:
        return f"completion under fence {self.fence} with {self.result}"


class Fail(_Action, frozen=True):
    """This attempt came to nothing."""

    fence: int

    def __str__(self) -> str:
        return f"failure under fence {self.fence}"


class Release(_Action, frozen=True):
    """The holder gives it back, unharmed."""

    fence: int

    def __str__(self) -> str:
        return f"release under fence {self.fence}"


class Expire(_Action, frozen=True):
    """The leader ends a lease."""

    fence: int

    def __str__(self) -> str:
        return f"expiry of fence {self.fence}"


class Cancel(_Action, frozen=True):
    """Nobody wants it any more."""

    def __str__(self) -> str:
        return "cancellation"


class Retry(_Action, frozen=True):
    """Once more, for one that had ended badly."""

    def __str__(self) -> str:
        return "retry"


class Read(_Action, frozen=True):
    """A linearizable look.  Looks at what a node happens to have applied are no evidence here."""

    def __str__(self) -> str:
        return "read"


JobAction = Accept | Claim | Renew | Complete | Fail | Release | Expire | Cancel | Retry | Read

# --- what is answered


class _Result(msgspec.Struct, frozen=True, tag_field="was", tag=str.lower, omit_defaults=True):
    pass


class Ok(_Result, frozen=True):
    """It is done."""

    phase: Phase | None = None
    """Where a failure or an expiry left the job, as far as it was said."""

    def __str__(self) -> str:
        return f"ok, now {self.phase}" if self.phase else "ok"


class Granted(_Result, frozen=True):
    """It is yours, under this fence: to a claim, and to an accept with a node."""

    fence: int

    def __str__(self) -> str:
        return f"granted under fence {self.fence}"


class Joined(_Result, frozen=True):
    """To an accept: there is such a job already."""

    def __str__(self) -> str:
        return "joined"


class Refused(_Result, frozen=True):
    """The job is not so that this could be done."""

    reason: str = ""

    def __str__(self) -> str:
        return f"refused ({self.reason})" if self.reason else "refused"


class Seen(_Result, frozen=True):
    """What a read saw.  Fields that a reader is not shown may be left at their defaults."""

    phase: Phase
    fence: int | None = None
    """Of the last claim."""
    node: str | None = None
    result: str | None = None

    def __str__(self) -> str:
        more = [f"fence {self.fence}"] if self.fence is not None else []
        more += [f"at {self.node}"] if self.node else []
        more += [f"with {self.result}"] if self.result else []
        return " ".join([str(self.phase), *more])


JobResult = Ok | Granted | Joined | Refused | Seen
JobOperation = Operation[JobAction, JobResult]
JobHistory = History[JobAction, JobResult]

# --- the model


class Job(NamedTuple):
    """The state of one job."""

    phase: Phase = Phase.ABSENT
    request: str = ""
    node: str = ""
    """Who holds, or last held, it."""
    fence: int = 0
    """Of the last claim; 0 before the first."""
    is_settled: bool = True
    """False: the fence is above `fence`, and nobody has seen it yet."""
    result: str = ""

    def under(self, fence: int) -> Job | None:
        """This job, if that can be its fence."""
        if self.is_settled:
            return self if fence == self.fence else None
        return self._replace(fence=fence, is_settled=True) if fence > self.fence else None


class JobModel:
    """See `linearizability.Model`."""

    initial = Job()

    def step(self, job: Job, action: JobAction, result: JobResult | None) -> Sequence[Job]:
        if result is None:
            return [after for after, _ in self._effects(job, action, None)]
        match action, result:
            case Read(), Seen():
                return self._look(job, result)
            case Accept(request), Joined():
                return [job] if job.phase is not Phase.ABSENT and request == job.request else []
            case Accept(request), Refused():
                return [job] if job.phase is not Phase.ABSENT and request != job.request else []
            case _, Refused():
                works = self._effects(job, action, None) and self._surely(job, action)
                return [] if works else [job]
            case ((Accept() | Claim()), Granted(fence)):
                return [after for after, granted in self._effects(job, action, fence) if granted]
            case ((Fail() | Expire()), Ok(phase)) if phase is not None:
                return [a for a, _ in self._effects(job, action, None) if a.phase is phase]
            case _, Ok():
                return [a for a, granted in self._effects(job, action, None) if not granted]
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

    def _surely(self, job: Job, action: JobAction) -> bool:
        """Whether what can work on this job would have to."""
        if job.phase in ENDED:
            return isinstance(action, Retry)  # the same end again: welcomed or refused
        return job.is_settled or not isinstance(action, Renew | Complete | Fail | Release | Expire)

    def _effects(self, job: Job, action: JobAction, fence: int | None) -> list[tuple[Job, bool]]:
        """What it can make of the job if it works, and whether it grants a fence.

        `fence`: the one granted, None if nobody learned it.
        """
        match action:
            case Accept(request, node) if job.phase is Phase.ABSENT:
                fresh = Job(Phase.QUEUED, request)
                return self._grant(fresh, node, fence) if node else [(fresh, False)]
            case Accept(request, node) if node and job.request == request:
                # A repeat finds that nobody runs it: it runs here, under a new fence.
                return self._grant(job, node, fence)
            case Claim(node):
                return self._grant(job, node, fence)
            case Cancel() if job.phase in (*LIVE, Phase.CANCELLED):
                return [(job._replace(phase=Phase.CANCELLED), False)]
            case Retry() if job.phase in (Phase.FAILED, Phase.DEAD):
                return [(job._replace(phase=Phase.QUEUED), False)]
            case Complete(under, result) if job.phase is Phase.DONE:
                same = job.fence == under and job.result == result
                return [(job, False)] if same else []
            case Renew(under) | Complete(under) | Fail(under) | Release(under) | Expire(under):
                held = job.under(under) if job.phase is Phase.CLAIMED else None
                return [] if held is None else self._held(held, action)
        return []

    def _held(self, job: Job, action: JobAction) -> list[tuple[Job, bool]]:
        match action:
            case Renew():
                return [(job, False)]
            case Complete(_, result):
                return [(job._replace(phase=Phase.DONE, result=result), False)]
            case Fail():
                phases: tuple[Phase, ...] = (Phase.QUEUED, Phase.FAILED, Phase.DEAD)
            case Expire():
                phases = (Phase.QUEUED, Phase.DEAD)
            case _:
                phases = (Phase.QUEUED,)
        return [(job._replace(phase=phase), False) for phase in phases]

    def _grant(self, job: Job, node: str, fence: int | None) -> list[tuple[Job, bool]]:
        if job.phase is not Phase.QUEUED:
            return []
        claimed = job._replace(phase=Phase.CLAIMED, node=node)
        if fence is None:
            return [(claimed._replace(is_settled=False), True)]
        return [(claimed._replace(fence=fence), True)] if fence > job.fence else []

    def _look(self, job: Job, seen: Seen) -> list[Job]:
        if seen.phase is not job.phase:
            return []
        if seen.node is not None and seen.node != job.node:
            return []
        if seen.result is not None and seen.result != job.result:
            return []
        found = job if seen.fence is None else job.under(seen.fence)
        return [] if found is None else [found]
