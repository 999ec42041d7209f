"""What must hold of a record that is replicated, judged as it happens and at the end."""

from __future__ import annotations

from typing import Any

from meshd.consensus.entries import Stored
from meshd.consensus.kernel import Kernel
from meshd.consensus.replay import last_of
from meshd.ids import NodeId
from meshd.record.commands import Entry, decode
from meshd.record.events import Event, JobFinished
from meshd.record.job_rows import JobRow, job_name
from meshd.record.results import Code
from meshd.record.state import RecordState
from meshd.testing.checker import JobHistory, Report, Seen, check_jobs, check_record
from meshd.testing.checker.commands import finished, seen
from tests.sim.raft_judge import Judge
from tests.sim.record_sessions import code_of

DIGEST_EVERY = 32
"""Entries: a digest of the whole state costs something."""
_OF_A_REPEAT = (Code.SEQ_FORGOTTEN, Code.SESSION_OVER, Code.NO_SESSION)
SEARCH_STEPS = 200_000


def live_jobs(state: RecordState) -> list[JobRow]:
    """All that live, in order."""
    return list(state.jobs.live.page(0, len(state.jobs.live), lambda row: True))


class RecordJudge(Judge):
    """Judges the log as `Judge` does, and what the commands in it have brought about."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: dict[str, int] = {}
        """How many of each kind were carried out."""
        self.by_number: dict[tuple[str, int, int], bytes] = {}
        """The first result of each command of a session."""
        self.repeats = self.acknowledgements = 0
        self.finished: dict[int, tuple[int, Seen]] = {}
        """By job: at which index, and how."""
        self._digests: dict[int, bytes] = {}
        self._events: dict[int, list[Event]] = {}

    def carried_out(
        self, node: NodeId, state: RecordState, command: bytes, result: bytes, events: list[Event]
    ) -> None:
        """A node applied a command: the same everywhere, and once."""
        index = state.index
        known = self.results.get(index)
        if known is None:
            self.results[index] = result
            self._events[index] = events
            self._first_time(index, command, result, events)
        elif known != result:
            self.violation("two results at one index", index, node, known.hex(), result.hex())
        elif self._events[index] != events:
            self.violation("different things came about at one index", index, node)
        if index % DIGEST_EVERY == 0:
            self.same_state(node, state)

    def same_state(self, node: NodeId, state: RecordState) -> None:
        """Equal by hash where another was at this index."""
        digest = state.digest()
        if self._digests.setdefault(state.index, digest) != digest:
            self.violation("two states at one index", state.index, node)

    def _first_time(self, index: int, command: bytes, result: bytes, events: list[Event]) -> None:
        entry: Entry = decode(command)
        name = type(entry.body).__name__
        self.commands[name] = self.commands.get(name, 0) + 1
        if entry.client:
            self._once(entry, result, events)
        for event in events:
            if isinstance(event, JobFinished):
                self.finished[event.row.id] = (index, finished(event))

    def _once(self, entry: Entry, result: bytes, events: list[Event]) -> None:
        number = (entry.client, entry.epoch, entry.seq)
        first = self.by_number.get(number)
        if first is None:
            if code_of(result) is not Code.NO_SESSION:
                self.by_number[number] = result
            return
        self.repeats += 1
        if events:
            self.violation("a command took effect twice", number, type(entry.body).__name__)
        if result != first and code_of(result) not in _OF_A_REPEAT:
            self.violation("a command has two results", number, first.hex(), result.hex())

    def told(self, client: str, epoch: int, seq: int, result: bytes) -> None:
        """A client got this for its command."""
        if self.by_number.get((client, epoch, seq)) != result:
            self.violation("a client was told what is not so", client, epoch, seq)

    def same_log(self, node: NodeId, kernel: Kernel, stored: Stored) -> None:
        """What was promised is on disk (the log itself is compared when it is read at a start)."""
        waiting = kernel.log.last.index - last_of(stored).index
        if not kernel.log.has_records and waiting:
            self.violation("disk and memory differ", node, kernel.log.last, last_of(stored))

    # --- at the end

    def view(self, state: RecordState, keys: dict[int, tuple[str, str]]) -> dict[str, Seen]:
        """What the record and its history say of all jobs."""
        known = {job: how for job, (_, how) in self.finished.items()}
        for job in {*keys, *known, *(row.id for row in live_jobs(state))}:
            what = seen(state, job, keys.get(job))
            if what is not None:
                known[job] = what
        return {job_name(job): what for job, what in known.items()}

    def histories(self, history: JobHistory, views: dict[str, Any]) -> Report:
        """Whether what the clients were told can be, and is there at the end."""
        operations = history.operations
        report = check_jobs(operations, max_steps=SEARCH_STEPS)
        report += check_record(operations, views, all_ended=True)
        if not report.ok:
            self.violation("the history of jobs", report)
        return report
