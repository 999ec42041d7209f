"""The record's commands and their results, in the words of the model of a job.

    number = history.called(client, subject_of(command), action_of(command, client))
    ... propose it ...
    tell(history, number, command, result)          # the bytes that it resulted in

A command that was never answered stays open by itself.  Commands about anything but jobs have no
action.  Two things happen to jobs that no client asked for, and whoever drives the record has to
say so: `LetGo`, when a node is let go, and `Lapse`, when the record clock moves past a deadline.
"""

from __future__ import annotations

from typing import Any

from meshd.record import commands_jobs as record
from meshd.record.commands_registry import Command
from meshd.record.events import JobFinished
from meshd.record.job_rows import JobState, job_name
from meshd.record.results import Code, RecordRefused, read
from meshd.record.state import RecordState
from meshd.testing.checker.jobs import (
    Accept,
    Cancel,
    Claim,
    Complete,
    Expire,
    Fail,
    Granted,
    JobAction,
    JobHistory,
    JobResult,
    Joined,
    LetGo,
    Move,
    Ok,
    Phase,
    Refused,
    Release,
    Renew,
    Retry,
    Seen,
    Submit,
)

_TRUE_OF_THE_JOB = (Code.KEY_REUSED, Code.NO_SUCH_JOB, Code.OLD_FENCE, Code.NOT_DEAD)
"""Refusals that say something about it.  All others are about room, time, sessions or nodes."""
_NO_QUESTION = "a job of its own"
"""Nothing that comes later can mean it."""


def action_of(command: Command, client: str) -> JobAction | None:
    """What that asks of a job; None if it is about no job.  `client`: the id of who sends it."""
    match command:
        case record.Accept(key=key):
            return Accept(_question(key), client)
        case record.Submit(dedupe=dedupe, key=key):
            is_meant = command.to_all or bool(command.to_label or command.to_node)
            # A job with a dedupe key is joined by whoever names that, with whatever key.
            question = "" if dedupe else _question(key) if key else _NO_QUESTION
            return Submit(question, is_meant)
        case record.Claim() | record.ClaimNext():
            return Claim(client)
        case record.Renew(fence=fence):
            return Renew(fence)
        case record.Complete(fence=fence, digest=digest):
            return Complete(fence, digest.hex())
        case record.Fail(fence=fence, final=final):
            return Fail(fence, final)
        case record.Release(fence=fence):
            return Release(fence)
        case record.Expire(fence=fence):
            return Expire(fence)
        case record.Move(fence=fence):
            return Move(fence, client)
        case record.Cancel():
            return Cancel()
        case record.Retry():
            return Retry()
        case record.LetGo(node=node):
            return LetGo(node)
    return None


def subject_of(command: Command) -> str:
    """The job's name, "" where only the answer says it."""
    job = getattr(command, "job", None)
    return "" if job is None else job_name(job)


def tell(history: JobHistory, number: int, command: Command, result: bytes) -> None:
    """Note what came of a command that `action_of` knows."""
    try:
        fields = read(result)
    except RecordRefused as refusal:
        tell_refused(history, number, refusal)
        return
    tell_fields(history, number, command, fields)


def tell_fields(history: JobHistory, number: int, command: Command, fields: dict[str, Any]) -> None:
    """The same with a result that was read."""
    match command:
        case record.LetGo():
            return  # nobody is told which jobs that were
        case record.Claim() | record.ClaimNext():
            granted = Granted(fields["fence"])
            history.returned_for(number, {job_name(job): granted for job in fields["jobs"]})
        case record.Move():
            history.returned(number, Granted(fields["fence"]))
        case record.Accept() | record.Submit():
            first, told = fields["job"], _welcome(fields)
            others = Joined() if isinstance(told, Joined) else told  # its state is the first one's
            more = range(first + 1, first + fields.get("jobs", 1))
            results = {job_name(first): told} | {job_name(job): others for job in more}
            history.returned_for(number, results)
        case _:
            state = fields.get("state")
            history.returned(number, Ok(None if state is None else _phase(state)))


def seen(state: RecordState, job: int, key: tuple[str, str] | None = None) -> Seen | None:
    """What the record knows of a job; None: nothing any more, whatever became of it.

    What is over is known by its `key` alone, (scope, key); or if it is dead and kept.  All else is
    in the history: see `finished`.
    """
    row = state.jobs.live.get(job)
    if row is not None:
        claim = row.claim
        fence, node = (claim.fence, claim.node) if claim else (None, None)
        return Seen(_phase(row.state), fence, node)
    if state.jobs.dead.get(job) is not None:
        return Seen(Phase.DEAD)
    known = state.jobs.keys.get(*key) if key else None
    if known is not None and known.job == job and known.jobs == 1 and known.state:
        return _ended(known.state, known.digest)
    return None


def finished(event: JobFinished) -> Seen:
    """How a job has ended, as the history is told."""
    return _ended(event.state, event.digest)


def tell_refused(history: JobHistory, number: int, refusal: RecordRefused) -> None:
    """The same with a refusal."""
    is_not_queued = refusal.code is Code.NOT_QUEUED and refusal.fields["state"] != JobState.QUEUED
    if not is_not_queued and refusal.code not in _TRUE_OF_THE_JOB:
        history.withdraw(number)
        return
    # Only a key has to be told which job it belongs to.
    subject = job_name(refusal.fields["job"]) if refusal.code is Code.KEY_REUSED else ""
    history.returned(number, Refused(refusal.code.name.lower()), subject=subject)


def _welcome(fields: dict[str, Any]) -> JobResult:
    state = fields["state"]
    if fields["new"]:
        return Granted(fields["fence"]) if state == JobState.CLAIMED else Ok()
    if "fence" in fields and "node" not in fields:
        return Granted(fields["fence"])  # it was accepted once more
    if not state:
        return Joined()  # one key for several jobs
    if "digest" in fields:
        return Joined(_ended(state, fields["digest"]))
    return Joined(Seen(_phase(state), fields.get("fence"), fields.get("node")))


def _ended(state: int, digest: bytes) -> Seen:
    phase = _phase(state)
    return Seen(phase, result=digest.hex() if phase is Phase.DONE else None)


def _phase(state: int) -> Phase:
    return Phase(JobState(state).name.lower())


def _question(key: record.KeyFields) -> str:
    return f"{key.scope}/{key.key}:{key.fingerprint.hex()[:12]}"
