"""What the record of each node was asked and what it did, as evidence of one run.

While a watch is on, every command about jobs that any node proposes is an operation of a
`JobHistory`, from the call to what its caller is told; and what commands did, at each node that
applied them, is held against what they did at the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import trio

from meshd import limits
from meshd.consensus.driver import Driver, ProposalRefused
from meshd.consensus.outcomes import Committed
from meshd.ledger.ledger import Ledger
from meshd.ledger.machine import RecordMachine
from meshd.ledger.session import NotWritten
from meshd.record.commands import Entry, decode
from meshd.record.commands_jobs import KeyFields
from meshd.record.commands_registry import Command
from meshd.record.events import Event, JobFinished
from meshd.record.job_rows import job_name
from meshd.record.results import RecordRefused, read
from meshd.record.state import RecordState
from meshd.testing.checker import History, JobHistory, Report, Seen, View, check_jobs, check_record
from meshd.testing.checker.commands import (
    action_of,
    finished,
    seen,
    subject_of,
    tell,
    tell_fields,
    tell_refused,
)
from meshd.testing.world import WHERE

SEARCH_STEPS = 300_000


@dataclass(frozen=True)
class _Open:
    """A command that names no job, until its caller is told of which it was."""

    node: str
    command: Command


@dataclass(frozen=True)
class _Done:
    """What such a command did, by the record."""

    node: str
    command: Command
    jobs: tuple[int, ...]
    fence: int


class RecordWatch:
    """One run's."""

    def __init__(self) -> None:
        self.history: JobHistory = History(trio.current_time)
        self.violations: list[str] = []
        self.applied: Counter[str] = Counter()
        """Commands by kind, each counted once however many nodes applied it."""
        self._results: dict[int, bytes] = {}
        self._digests: dict[int, bytes] = {}
        self._finished: dict[int, tuple[int, Seen]] = {}
        """By job: at which index it was over, and how."""
        self._keys: dict[int, tuple[str, str]] = {}
        self._told: set[tuple[int, int]] = set()
        """Jobs and fences that callers were told of."""
        self._open: dict[int, _Open] = {}
        self._done: list[_Done] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block, everything that all nodes do to their records."""
        execute, propose = Ledger.execute, Driver.propose
        apply, take_events = RecordMachine.apply, RecordMachine.take_events
        watch = self

        async def executed(
            self: Ledger, command: Command, timeout_s: float = limits.COMMAND_S
        ) -> dict[str, Any]:
            return await watch._executed(execute, self, command, timeout_s)

        async def proposed(
            self: Driver, command: bytes, timeout_s: float = limits.PROPOSE_S
        ) -> Committed:
            return await watch._proposed(propose, self, command, timeout_s)

        def applied(self: RecordMachine, index: int, command: bytes) -> bytes:
            result = apply(self, index, command)
            watch._applied(self.state, index, command, result)
            return result

        def taken(self: RecordMachine) -> list[Event]:
            events = take_events(self)
            watch._happened(events)
            return events

        with (
            patch.object(Ledger, "execute", executed),
            patch.object(Driver, "propose", proposed),
            patch.object(RecordMachine, "apply", applied),
            patch.object(RecordMachine, "take_events", taken),
        ):
            yield

    # --- what is asked

    async def _executed(
        self, execute: Any, ledger: Ledger, command: Command, timeout_s: float
    ) -> dict[str, Any]:
        action = action_of(command, ledger.me)
        if action is None:
            return await execute(ledger, command, timeout_s)  # type: ignore[no-any-return]
        subject = subject_of(command)
        number = self.history.called(WHERE.get(), subject, action)
        if not subject:
            self._open[number] = _Open(ledger.me, command)
        try:
            fields: dict[str, Any] = await execute(ledger, command, timeout_s)
        except RecordRefused as refusal:
            self._open.pop(number, None)
            tell_refused(self.history, number, refusal)
            raise
        except NotWritten:
            self._open.pop(number, None)
            self.history.withdraw(number)
            raise
        self._open.pop(number, None)
        tell_fields(self.history, number, command, fields)
        granted = "fence" in fields and "node" not in fields  # else the claim is another one's
        if granted or fields.get("new"):
            self._told.update((job, fields.get("fence", 0)) for job in _jobs_in(fields))
        return fields

    async def _proposed(
        self, propose: Any, driver: Driver, data: bytes, timeout_s: float
    ) -> Committed:
        entry: Entry = decode(data)
        who = WHERE.get()
        action = None if entry.client else action_of(entry.body, who)
        if action is None:
            return await propose(driver, data, timeout_s)  # type: ignore[no-any-return]
        number = self.history.called(f"leader {who}", subject_of(entry.body), action)
        try:
            outcome: Committed = await propose(driver, data, timeout_s)
        except ProposalRefused:
            self.history.withdraw(number)
            raise
        tell(self.history, number, entry.body, outcome.result)
        return outcome

    # --- what is done

    def _applied(self, state: RecordState, index: int, command: bytes, result: bytes) -> None:
        known = self._results.get(index)
        if known is None:
            self._results[index] = result
            self._first_time(decode(command), result)
        elif known != result:
            self.violations.append(
                f"the record has two results at index {index}: {known.hex()} and, on "
                f"{WHERE.get()}, {result.hex()}"
            )

    def _first_time(self, entry: Entry, result: bytes) -> None:
        body = entry.body
        self.applied[type(body).__name__] += 1
        if subject_of(body) or action_of(body, "") is None:
            return
        try:
            fields = read(result)
        except RecordRefused:
            return
        found = tuple(_jobs_in(fields))
        self._done.append(_Done(entry.client, body, found, fields.get("fence", 0)))
        key: KeyFields | None = getattr(body, "key", None)
        for job in found:
            self._keys.setdefault(job, ("", ""))
            if key is not None:
                self._keys[job] = (key.scope, key.key)

    def _happened(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, JobFinished):
                at, how = self._finished.get(event.row.id, (-1, None))
                now = finished(event)
                if event.index > at:
                    self._finished[event.row.id] = event.index, now
                elif event.index == at and now != how:
                    self.violations.append(
                        f"{job_name(event.row.id)} has ended in two ways: {how} and, on "
                        f"{WHERE.get()}, {now}"
                    )

    # --- the end

    def same_state(self, who: str, state: RecordState) -> None:
        """Nodes that have applied as much have the same record; no invariant of it is broken."""
        state.check()
        digest = state.digest()
        if self._digests.setdefault(state.index, digest) != digest:
            self.violations.append(f"the record of {who} is another one at index {state.index}")

    def judge(self, states: dict[str, RecordState]) -> Report:
        """Whether what was told of jobs can be, and is so at the end, where all of them have ended;
        `states` by node."""
        self._close()
        operations = self.history.operations
        views = {who: self._view(state) for who, state in states.items()}
        report = check_jobs(operations, max_steps=SEARCH_STEPS)
        return report + check_record(operations, views, all_ended=True)

    def _view(self, state: RecordState) -> View:
        """What the record and its history say of all jobs."""
        known = {job: how for job, (_, how) in self._finished.items()}
        for job in {**self._keys, **known}:
            if (what := seen(state, job, self._keys.get(job))) is not None:
                known[job] = what
        return {job_name(job): what for job, what in known.items()}

    def _close(self) -> None:
        """What was never answered is about the jobs that the record says, if about any."""
        for number, asked in self._open.items():
            jobs = {
                job_name(job): None
                for done in self._done
                if (done.node, done.command) == (asked.node, asked.command)
                for job in done.jobs
                if (job, done.fence) not in self._told
            }
            self.history.concerns(number, jobs)
        self._open.clear()


def _jobs_in(fields: dict[str, Any]) -> list[int]:
    """The jobs that a result is about."""
    told = fields.get("jobs", 1)
    if isinstance(told, int):
        return list(range(fields["job"], fields["job"] + told)) if "job" in fields else []
    return list(told)
