"""A record of jobs in a few lines, used by many clients at once, and wrong on demand.

It is written for these tests and shares nothing with the checker's model, so that a history of it
is evidence about the checker.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import StrEnum

from meshd.testing.checker import (
    Accept,
    Cancel,
    Claim,
    Complete,
    Expire,
    Fail,
    Granted,
    History,
    JobAction,
    JobHistory,
    JobResult,
    Joined,
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


class Bug(StrEnum):
    """What is wrong with it."""

    STALE_FENCE_OBEYED = "a holder that lost its lease may complete"
    SAME_FENCE_AGAIN = "a fence is given again after an expiry"
    TWO_HOLDERS = "a claimed job may be claimed"
    FORGETS = "an acknowledged job vanishes"
    UNDONE = "an acknowledged completion is rolled back"
    OLD_READS = "reads show what was before the last change"
    TWICE = "what is done is done once more, later"
    EAGER = "refuses what it has done"


@dataclass
class ToyJob:
    request: str
    is_keyed: bool = False
    phase: Phase = Phase.QUEUED
    node: str = ""
    fence: int = 0
    result: str = ""
    attempts: int = 0


@dataclass
class _InFlight:
    number: int
    client: str
    job: str
    action: JobAction
    result: JobResult | None = None


@dataclass
class Toy:
    """`run` it, then look at its `history`."""

    random: random.Random
    bug: Bug | None = None
    jobs: dict[str, ToyJob] = field(default_factory=dict)
    before: dict[str, Seen] = field(default_factory=dict)
    """What a read would have shown before the last change."""
    index: int = 0
    planted: int = 0
    """How often the bug had an occasion."""
    history: JobHistory = field(default_factory=History)
    fences: dict[tuple[str, str], int] = field(default_factory=dict)
    """What each client was granted of each job."""
    _again: list[tuple[str, JobAction]] = field(default_factory=list)

    def run(self, *, jobs: int, operations: int, clients: int = 6, lost: float = 0.03) -> None:
        """So many operations by so many clients, of which each has one under way at a time."""
        idle = [f"client {i}" for i in range(clients)]
        flying: list[_InFlight] = []
        started = 0
        while started < operations or flying:
            dice = self.random.random()
            if self._again and dice < 0.1:
                job, action = self._again.pop(0)
                self.apply(job, action)
            if started < operations and idle and (dice < 0.4 or not flying):
                client = idle.pop(self.random.randrange(len(idle)))
                # Jobs come one after the other, a few of them alive at a time.
                first = started * jobs // operations
                job = f"job {min(jobs - 1, first + self.random.randrange(3))}"
                action = self._wish(client, job)
                number = self.history.called(client, job, action)
                flying.append(_InFlight(number, client, job, action))
                started += 1
            elif flying:
                one = self.random.choice(flying)
                if self.random.random() < lost:
                    flying.remove(one)  # its client gives up; it may have been done or not
                    idle.append(one.client)
                elif one.result is None:
                    one.result = self.apply(one.job, one.action)
                else:
                    flying.remove(one)
                    idle.append(one.client)
                    self.history.returned(one.number, one.result)
                    if isinstance(one.result, Granted):
                        self.fences[one.client, one.job] = one.result.fence

    def view(self) -> dict[str, Seen]:
        """What is there at the end."""
        return {name: self._seen(job) for name, job in self.jobs.items()}

    # --- what clients want

    def _wish(self, client: str, job: str) -> JobAction:
        there = self.jobs.get(job)
        if there is None:
            return self.random.choice([Submit("q"), Submit("q"), Accept("q", client), Read()])
        fence = self.fences.get((client, job))
        kinds = ["read", "claim", "claim", "expire", "accept", "rare"]
        if fence is not None:
            kinds += ["renew", "complete", "fail", "release", "move"]
        match self.random.choice(kinds):
            case "claim":
                return Claim(client)
            case "expire":
                return Expire(there.fence)
            case "accept":
                request = self.random.choice(["q", "q", "other"])
                return Accept(request, client) if there.is_keyed else Submit(request)
            case "renew":
                return Renew(fence or 0)
            case "complete":
                return Complete(fence or 0, f"result of {client}")
            case "fail":
                return Fail(fence or 0, self.random.random() < 0.2)
            case "release":
                return Release(fence or 0)
            case "move":
                return Move(fence or 0, client)
            case "rare" if self.random.random() < 0.3:
                return self.random.choice([Cancel(), Retry()])
        return Read()

    # --- what is done

    def apply(self, name: str, action: JobAction) -> JobResult:
        if isinstance(action, Read):
            if self._occasion(Bug.OLD_READS, name in self.before):
                return self.before[name]
            return self._seen(self.jobs.get(name))
        before = self._seen(self.jobs.get(name))
        result = self._apply(name, action)
        if self._seen(self.jobs.get(name)) != before:
            self.before[name] = before
            if self._occasion(Bug.TWICE, isinstance(action, Claim | Accept) and not self._again):
                self._again.append((name, action))
            if self._occasion(Bug.EAGER, isinstance(action, Complete) and result == Ok()):
                return Refused()
        return result

    def _apply(self, name: str, action: JobAction) -> JobResult:
        self.index += 1
        job = self.jobs.get(name)
        if job is None:
            if not isinstance(action, Submit | Accept):
                return Refused("no such job")
            if isinstance(action, Submit) and self._occasion(Bug.FORGETS, self._seldom()):
                return Ok()
            job = self.jobs[name] = ToyJob(action.request, isinstance(action, Accept))
            return self._grant(job, action.node) if isinstance(action, Accept) else Ok()
        match action:
            case Submit(request) | Accept(request) if request != job.request:
                return Refused("another request")
            case Accept(_, node) if job.phase is Phase.ACCEPTED:
                return self._grant(job, node)
            case Submit() | Accept():
                return Joined()
            case Claim(node):
                stolen = job.phase is Phase.CLAIMED and self._seldom()
                if job.phase is Phase.QUEUED or self._occasion(Bug.TWO_HOLDERS, stolen):
                    return self._grant(job, node)
                return Refused(f"it is {job.phase}")
            case Cancel():
                if job.phase in (Phase.ACCEPTED, Phase.QUEUED, Phase.CLAIMED):
                    job.phase = Phase.CANCELLED
                return Ok() if job.phase is Phase.CANCELLED else Refused(f"it is {job.phase}")
            case Retry():
                if job.phase is not Phase.DEAD or job.is_keyed:
                    return Refused(f"it is {job.phase}")
                job.phase = Phase.QUEUED
                return Ok()
            case Move(fence, node):
                refused = self._held(job, action, fence)
                return refused if isinstance(refused, Refused) else self._grant(job, node)
            case Renew(fence) | Complete(fence) | Fail(fence) | Release(fence) | Expire(fence):
                return self._held(job, action, fence)
        raise AssertionError(action)

    def _held(self, job: ToyJob, action: JobAction, fence: int) -> JobResult:
        stale = fence != job.fence or job.phase is not Phase.CLAIMED
        if stale:
            late = isinstance(action, Complete) and job.phase is Phase.CLAIMED
            if not self._occasion(Bug.STALE_FENCE_OBEYED, late):
                return Refused(f"it is {job.phase} under fence {job.fence}")
        match action:
            case Complete(_, result):
                if self._occasion(Bug.UNDONE, True):
                    job.phase = Phase.ACCEPTED if job.is_keyed else Phase.QUEUED
                    return Ok()
                job.phase, job.result = Phase.DONE, result
            case Fail(_, True):
                job.phase = Phase.FAILED
            case Fail() | Expire() | Release():
                job.attempts += not isinstance(action, Release)
                idle = Phase.ACCEPTED if job.is_keyed else Phase.QUEUED
                job.phase = idle if job.attempts < 4 else Phase.DEAD
                return Ok(job.phase)
        return Ok()

    def _grant(self, job: ToyJob, node: str) -> JobResult:
        job.phase, job.node = Phase.CLAIMED, node
        if not self._occasion(Bug.SAME_FENCE_AGAIN, job.fence > 0):
            job.fence = self.index
        return Granted(job.fence)

    def _seen(self, job: ToyJob | None) -> Seen:
        if job is None:
            return Seen(Phase.ABSENT)
        return Seen(job.phase, job.fence, job.node, job.result)

    def _seldom(self) -> bool:
        return self.random.random() < 0.2

    def _occasion(self, bug: Bug, is_one: bool) -> bool:
        if is_one and self.bug is bug:
            self.planted += 1
            return True
        return False
