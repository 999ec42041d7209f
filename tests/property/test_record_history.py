"""The reducers and the checker's model of a job were written apart: they have to agree.

Nodes send commands to the real record, several under way at a time, some never answered, and what
they are told is checked as a history.  A record that is then made to lie is found out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeGuard

import msgspec

from meshd.record import commands_jobs as jobs
from meshd.record.commands_registry import Command, Remove
from meshd.record.events import JobFinished
from meshd.record.job_rows import JobState, job_name
from meshd.record.results import Code, done
from meshd.testing.checker import (
    History,
    JobHistory,
    Lapse,
    LetGo,
    Phase,
    Read,
    Report,
    Seen,
    check_jobs,
    check_record,
)
from meshd.testing.checker.commands import action_of, finished, seen, subject_of, tell
from tests.unit.record.logs import Log, id_of
from tests.unit.record.made import CHAT, WORK

NODES = ["attic", "mini", "studio", "laptop"]
LEASE_MS = 15_000


@dataclass
class Flying:
    """A command between being sent and being answered."""

    number: int
    node: str
    command: Command
    result: bytes | None = None


@dataclass
class Traffic:
    """Nodes at work on one record."""

    random: Random
    log: Log = field(default_factory=lambda: Log(*NODES[1:]))
    history: JobHistory = field(default_factory=History)
    known: list[int] = field(default_factory=list)
    """Jobs that somebody was told of."""
    fences: dict[tuple[str, int], int] = field(default_factory=dict)
    keys: dict[int, tuple[str, str]] = field(default_factory=dict)
    lies: float = 0.0
    """How often a result is another one than the record's."""
    lied: int = 0
    codes: Counter[str] = field(default_factory=Counter)

    def run(self, count: int) -> None:
        flying: list[Flying] = []
        sent = 0
        while sent < count or flying:
            dice = self.random.random()
            if sent < count and len(flying) < 5 and (dice < 0.4 or not flying):
                flying.append(self._send())
                sent += 1
            elif dice < 0.45:
                self._read()
            elif dice < 0.48:
                self._time_passes()
            elif dice < 0.482:
                self._remove()
            elif flying:
                self._go_on(flying)

    def judged(self) -> Report:
        return check_jobs(self.history.operations)

    def view(self) -> dict[str, Seen]:
        """What record and history say of all jobs at the end."""
        found = {event.row.id: finished(event) for event in self.log.happened(JobFinished)}
        for job in self.known:
            if (what := seen(self.log.state, job, self.keys.get(job))) is not None:
                found[job] = what
        return {job_name(job): what for job, what in found.items()}

    # --- one thing after the other

    def _send(self) -> Flying:
        node = self.random.choice(NODES)
        command = self._command(node)
        action = action_of(command, id_of(node))
        assert action is not None
        number = self.history.called(node, subject_of(command), action)
        return Flying(number, node, command)

    def _go_on(self, flying: list[Flying]) -> None:
        one = self.random.choice(flying)
        if self.random.random() < 0.05:
            flying.remove(one)  # nobody ever hears of it, whether it is done or not
        elif one.result is None:
            one.result = self._applied(one)
        else:
            flying.remove(one)
            self._answered(one, one.result)

    def _applied(self, one: Flying) -> bytes:
        if self.log.state.nodes.get(id_of(one.node)) is None:
            return self.log.raw(one.command)  # a removed node has no session any more
        return self.log.by_raw(one.node, one.command)

    def _answered(self, one: Flying, result: bytes) -> None:
        if self.random.random() < self.lies:
            result = self._lie(result)
        tell(self.history, one.number, one.command, result)
        code, fields = _read(result)
        self.codes[f"{type(one.command).__name__} {code}"] += 1
        if code:
            return
        told = fields.get("jobs", [])
        if "job" in fields:
            told = range(fields["job"], fields["job"] + fields.get("jobs", 1))
        for job in told:
            if job not in self.known:
                self.known.append(job)
            if "fence" in fields and "node" not in fields:
                self.fences[one.node, job] = fields["fence"]
            key = getattr(one.command, "key", None)
            if key is not None:
                self.keys[job] = (key.scope, key.key)

    def _lie(self, result: bytes) -> bytes:
        """Something untrue of what was done, in a form that can be told."""
        code, fields = _read(result)
        lie = result
        if not code and "fence" in fields:
            lie = done(**fields | {"fence": max(1, fields["fence"] - self.random.choice([20, 40]))})
        elif not code and fields.get("state") == JobState.QUEUED and "job" not in fields:
            lie = done(**fields | {"state": JobState.DEAD})
        elif not code and fields.get("state") == JobState.DONE:
            lie = done(**fields | {"digest": hashlib.sha256(b"another").digest()})
        self.lied += lie != result
        return lie

    def _read(self) -> None:
        if self.known:
            job = self.random.choice(self.known[-6:])
            what = seen(self.log.state, job, self.keys.get(job))
            if what is not None:
                with self.history.operation("reader", job_name(job), Read()) as told:
                    told(what)

    def _time_passes(self) -> None:
        self.history.called("clock", "", Lapse())
        self.log.tick(self.random.choice([1_000, 60_000, 600_000]))

    def _remove(self) -> None:
        """One of them is taken out of the mesh, and comes back later under its name."""
        node = NODES[-1]
        if self.log.state.nodes.get(id_of(node)) is not None:
            self.log.by("attic", Remove(node=id_of(node), gossip_key=9))
            command = jobs.LetGo(node=id_of(node))
            self.history.called("leader", "", LetGo(id_of(node)))
            self.log.do(command)

    # --- commands

    def _command(self, node: str) -> Command:
        dice = self.random
        if not self.known or dice.random() < 0.15:
            return self._new()
        job = dice.choice(self.known[-6:])
        fence = self.fences.get((node, job)) or dice.choice([*self.fences.values(), 1])
        digest = hashlib.sha256(f"{node} {fence}".encode()).digest()
        return dice.choice(
            [
                jobs.Claim(job=job, lease_ms=LEASE_MS),
                jobs.ClaimNext(queue="bots", lease_ms=LEASE_MS, most=dice.randint(1, 3)),
                jobs.Renew(job=job, fence=fence, lease_ms=LEASE_MS),
                jobs.Complete(job=job, fence=fence, digest=digest, size_bytes=9),
                jobs.Fail(job=job, fence=fence, reason="no", final=dice.random() < 0.2),
                jobs.Release(job=job, fence=fence),
                jobs.Expire(job=job, fence=fence),
                jobs.Move(job=job, fence=fence, lease_ms=LEASE_MS),
                self._new(),
                jobs.Cancel(job=job) if dice.random() < 0.2 else jobs.Retry(job=job),
            ]
        )

    def _new(self) -> Command:
        dice = self.random
        key = jobs.KeyFields(
            scope="local",
            key=f"k{len(self.known) // 4}",
            fingerprint=hashlib.sha256(dice.choice("aaab").encode()).digest(),
        )
        if dice.random() < 0.5:
            return jobs.Accept(key=key, request=CHAT, lease_ms=LEASE_MS, max_attempts=3)
        return jobs.Submit(
            queue="bots",
            request=WORK,
            max_attempts=2,
            dedupe=dice.choice(["", "", "same"]),
            key=key if dice.random() < 0.3 else None,
            to_all=dice.random() < 0.1,
            deadline_unix_ms=dice.choice([0, 0, self.log.state.clock.now_unix_ms + 300_000]),
        )


def _read(result: bytes) -> tuple[int, dict[str, Any]]:
    code, fields = msgspec.msgpack.decode(result)
    return code, fields


def run(seed: int, *, lies: float = 0.0) -> Traffic:
    traffic = Traffic(Random(seed), lies=lies)
    traffic.run(250)
    return traffic


def test_what_the_record_says_can_be_explained() -> None:
    codes: Counter[str] = Counter()
    looks: Counter[Phase] = Counter()
    for seed in range(20):
        traffic = run(seed)
        report = traffic.judged()
        view = traffic.view()
        report += check_record(traffic.history.operations, {"a": view, "b": view})
        assert report.ok, f"seed {seed}: {report}"
        codes += traffic.codes
        looks.update(o.result.phase for o in traffic.history.operations if is_look(o.result))
    kinds = ("Accept", "Submit", "Claim", "ClaimNext", "Renew", "Complete", "Fail", "Release")
    for kind in (*kinds, "Expire", "Move", "Cancel", "Retry"):
        assert codes[f"{kind} 0"] > 10, codes
    refusals = (Code.KEY_REUSED, Code.NO_SUCH_JOB, Code.OLD_FENCE, Code.NOT_QUEUED, Code.NOT_DEAD)
    said = {name.split()[1] for name in codes}
    assert {str(int(code)) for code in refusals} <= said
    assert set(looks) == set(Phase) - {Phase.ABSENT}


def is_look(result: object) -> TypeGuard[Seen]:
    return isinstance(result, Seen)


def test_a_record_that_lies_is_found_out() -> None:
    """About a fence, about where a job went, about a stored result."""
    lied = [traffic for seed in range(20) if (traffic := run(seed, lies=0.1)).lied]
    found = sum(not traffic.judged().ok for traffic in lied)
    assert len(lied) > 10
    assert found > 0.8 * len(lied), f"{found} of {len(lied)}"
