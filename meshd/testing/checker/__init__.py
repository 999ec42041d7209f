"""The history checker: whether what clients saw can be, and whether nothing was lost or doubled.

    history: JobHistory = History(clock.monotonic)          # record, in a simulation or for real
    ...
    report = check_jobs(history.operations)                 # any order that explains it? fences?
    report += check_record(history.operations, views)       # is what was acknowledged there?
    report += check_requests(asked)                         # accepted = answered, once
    report += check_client_jobs(history.operations)         # the same, where nobody saw the record
    report += check_keys(answers)                           # and of requests with a key
    report += check_liveness(answers, calm)                 # and all works once nothing is wrong
    report += check_stream(stream, expected_text())         # whole, in order, nothing twice
    assert report.ok, str(report)

`python -m meshd.testing.checker FILE...` checks saved histories of jobs.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshd.testing.checker.accounting import Asked, End, View, check_record, check_requests
from meshd.testing.checker.answers import (
    Answer,
    Gaps,
    How,
    Mode,
    Piece,
    Seam,
    Tally,
    gaps_by_way,
    gaps_of,
    judge_answers,
    requests_of,
    seams_in_text,
)
from meshd.testing.checker.client_model import (
    ClientModel,
    check_client_jobs,
    check_keys,
    digest_of,
)
from meshd.testing.checker.explain import check, shrink
from meshd.testing.checker.fences import check_fences
from meshd.testing.checker.history import History, HistoryError, Operation, by_subject, load
from meshd.testing.checker.job_model import JobModel
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
    JobOperation,
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
from meshd.testing.checker.linearizability import STEPS, Found, Model, Verdict, search
from meshd.testing.checker.liveness import Calm, check_liveness, check_progress
from meshd.testing.checker.registers import RegisterHistory, RegisterModel, RegisterOperation
from meshd.testing.checker.report import Kind, Report, Violation
from meshd.testing.checker.streams import Stream, check_stream

__all__ = [
    "STEPS",
    "Accept",
    "Answer",
    "Asked",
    "Calm",
    "Cancel",
    "Claim",
    "ClientModel",
    "Complete",
    "End",
    "Expire",
    "Fail",
    "Found",
    "Gaps",
    "Granted",
    "History",
    "HistoryError",
    "How",
    "JobAction",
    "JobHistory",
    "JobModel",
    "JobOperation",
    "JobResult",
    "Joined",
    "Kind",
    "Lapse",
    "LetGo",
    "Mode",
    "Model",
    "Move",
    "Ok",
    "Operation",
    "Phase",
    "Piece",
    "Read",
    "Refused",
    "RegisterHistory",
    "RegisterModel",
    "RegisterOperation",
    "Release",
    "Renew",
    "Report",
    "Retry",
    "Seam",
    "Seen",
    "Stream",
    "Submit",
    "Tally",
    "Verdict",
    "View",
    "Violation",
    "by_subject",
    "check",
    "check_client_jobs",
    "check_fences",
    "check_jobs",
    "check_keys",
    "check_liveness",
    "check_progress",
    "check_record",
    "check_requests",
    "check_stream",
    "digest_of",
    "gaps_by_way",
    "gaps_of",
    "judge_answers",
    "load",
    "requests_of",
    "seams_in_text",
    "search",
    "shrink",
]


def check_jobs(operations: Iterable[JobOperation], *, max_steps: int = STEPS) -> Report:
    """Whether there is an order that explains what clients were told of jobs, and their fences."""
    operations = list(operations)
    return check(operations, JobModel(), what="job", max_steps=max_steps) + check_fences(operations)
