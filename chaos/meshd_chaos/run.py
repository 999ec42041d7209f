"""One scenario on one mesh: clients, faults, peace, verdict."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median

import httpx
import msgspec
import trio

from meshd import __version__
from meshd.testing.checker import (
    Answer,
    Calm,
    How,
    JobOperation,
    Mode,
    Read,
    check_client_jobs,
    check_keys,
    check_liveness,
    check_progress,
    judge_answers,
)
from meshd_chaos.aftermath import END_S, WATCH_S, ask_anew, must_end, nothing_runs, read_jobs
from meshd_chaos.clients import Clients
from meshd_chaos.excuses import REPEATED, Places, excused
from meshd_chaos.faults import Faults
from meshd_chaos.records import Run
from meshd_chaos.scenario import Scenario
from meshd_chaos.schedule import steps_of
from meshd_chaos.stage import Stage
from meshd_chaos.ways import ask_ways, resumed, with_ways
from meshd_chaos.workload import Planned, plan

HEAL_S = 60.0
"""After the last fault, until all nodes have to see each other: daemons and engines start."""
_LOOK_S = 0.05

Say = Callable[[str], None]


@dataclass
class _Peace:
    """The end of a run, from the heal on."""

    found: list[str]
    """What is not so, besides what the answers tell."""
    is_whole: bool
    """All nodes saw each other again."""
    healed_s: float
    """When they did, or when nobody waited for it any longer."""
    until_s: float = 0.0
    """When nobody waited for answers any longer."""
    answers: list[Answer] = field(default_factory=list)
    """To what was asked anew; nothing excuses those."""
    resumed: int = 0
    """Answers of the whole run that went on over another link."""

    @property
    def calm(self) -> Calm:
        return Calm(healed_s=self.healed_s, within_s=END_S, until_s=self.until_s)


class Runner:
    """One run; what it has come to so far can be looked at."""

    def __init__(
        self,
        scenario: Scenario,
        stage: Stage,
        *,
        seed: int,
        rate_per_s: float,
        duration_s: float,
        say: Say = lambda sentence: None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`transport`: what carries the clients' requests; None: the network."""
        self.scenario, self.duration_s, self._transport = scenario, duration_s, transport
        self._stage, self._seed, self._rate_per_s, self._say = stage, seed, rate_per_s, say
        self._stop = trio.CancelScope()
        self._is_interrupted = False
        self._late_s = 0.0
        self.clients: Clients | None = None
        self.faults = Faults(stage, at_once=scenario.at_once, say=say)
        self.phase = "starting"

    @property
    def in_force(self) -> list[str]:
        """What is broken now, as sentences."""
        return self.faults.in_force

    def interrupt(self) -> None:
        """Ask nothing more, break nothing more, and come to an end."""
        self._is_interrupted = True
        self._stop.cancel()

    async def run(self) -> Run:
        """Everything, from the first request to the verdict."""
        began = datetime.now(UTC).isoformat(timespec="seconds")
        places, before = await self._stage.places(), await self._stage.statuses()
        async with client_over(self._transport) as http:
            self.clients = clients = Clients(http, self._stage, self._seed)
            self.faults.now_s = clients.now_s
            async with trio.open_nursery() as asking:
                asking.start_soon(self._watch_the_loop)
                await self._break(asking, clients)
                peace = await self._heal(clients)
                asking.cancel_scope.cancel()
            ways: dict[str, tuple[str, ...]] = {}
            if not self._is_interrupted:
                self.phase = "looking back"
                peace.answers = await ask_anew(self._stage, clients)
                await read_jobs(self._stage, clients)
                peace.until_s = clients.now_s()
                peace.found += await nothing_runs(self._stage)
                ways = await ask_ways(clients)
            peace.resumed = resumed(before, await self._stage.statuses())
        answers = with_ways(self._answers(clients), ways)
        return self._judged(answers, clients.history.operations, places, peace, began)

    async def _break(self, asking: trio.Nursery, clients: Clients) -> None:
        """Ask and break as planned, for as long as was said or until somebody interrupts."""
        self.phase = "breaking things"
        requests = plan(
            self.scenario.workload,
            models=self._stage.models,
            seed=self._seed,
            rate_per_s=self._rate_per_s,
            duration_s=self.duration_s,
        )
        steps = steps_of(self.scenario, seed=self._seed, duration_s=self.duration_s)
        with self._stop:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.faults.run, steps, self.duration_s)
                await self._ask(self._stage.fit(requests), asking)
                await trio.sleep_until(clients.began_at + self.duration_s)
                nursery.cancel_scope.cancel()

    async def _heal(self, clients: Clients) -> _Peace:
        """Until all is whole and every client is done, or time is up."""
        self.phase = "healing"
        await self.faults.heal_all()
        found = self.faults.not_healed + await self._stage.whole_again(HEAL_S)
        peace = _Peace(found, is_whole=not found, healed_s=clients.now_s())
        self.phase = "waiting for the last answers"
        await self._all_ended(0.0 if self._is_interrupted else WATCH_S)
        return peace

    def _judged(
        self,
        answers: list[Answer],
        operations: list[JobOperation],
        places: Places,
        peace: _Peace,
        began: str,
    ) -> Run:
        """The verdict."""
        scenario, stage, faults = self.scenario, self._stage, self.faults.records
        answers = excused(answers, faults, places, scenario.expect.excuses) + peace.answers
        answers = with_first_tokens(answers)
        reports, found = [check_client_jobs(operations), check_keys(answers)], peace.found
        if not self._is_interrupted:
            reports.append(check_liveness(answers, peace.calm))
            if reads := [one for one in operations if isinstance(one.action, Read)]:
                reports.append(check_progress(reads, peace.calm))
        tally = judge_answers(answers, *reports)
        if not self._is_interrupted:
            found = found + must_end(scenario.expect, tally, len(faults), peace.resumed)
        violations = (*tally.violations, *found)
        return Run(
            scenario=scenario.name,
            about=scenario.about,
            seed=self._seed,
            nodes=stage.nodes,
            rate_per_s=self._rate_per_s,
            duration_s=self.duration_s,
            began=began,
            machine=_machine(),
            meshd=__version__,
            faults=tuple(faults),
            not_tested=tuple(self.faults.not_tested),
            answers=tuple(answers),
            operations=tuple(operations),
            healed_at_s=peace.healed_s if peace.is_whole else None,
            late_s=round(self._late_s, 3),
            tally=tally,
            resumed=peace.resumed,
            violations=violations,
            notes=tuple(stage.notes(keep=bool(violations))),
        )

    async def _ask(self, requests: list[Planned], asking: trio.Nursery) -> None:
        """Send each when it is due, whatever becomes of the others."""
        assert self.clients is not None
        for planned in requests:
            await trio.sleep_until(self.clients.began_at + planned.at_s)
            asking.start_soon(self.clients.ask, planned)

    async def _watch_the_loop(self) -> None:
        """Remember how late this very loop is: on a busy machine so are the daemons."""
        while True:
            due_at = trio.current_time() + _LOOK_S
            await trio.sleep_until(due_at)
            self._late_s = max(self._late_s, trio.current_time() - due_at)

    async def _all_ended(self, timeout_s: float) -> None:
        assert self.clients is not None
        with trio.move_on_after(timeout_s):
            while self.clients.under_way:  # noqa: ASYNC110 - clients come and go by themselves
                await trio.sleep(_LOOK_S)

    def _answers(self, clients: Clients) -> list[Answer]:
        """All, in the order in which they were asked."""
        answers = sorted(clients.answers, key=lambda answer: answer.sent_at_s)
        if self._is_interrupted:  # who was still waiting left, because we did
            answers = [
                msgspec.structs.replace(answer, how=How.LEFT)
                if answer.how is How.SILENT and answer.excuse != REPEATED
                else answer
                for answer in answers
            ]
        return answers


def client_over(transport: httpx.AsyncBaseTransport | None) -> httpx.AsyncClient:
    """What sends the clients' requests.

    An https entry has to prove its name, as it had when the run began: an API key goes along.
    """
    pool = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    return httpx.AsyncClient(limits=pool, trust_env=False, transport=transport)


def with_first_tokens(answers: Sequence[Answer]) -> list[Answer]:
    """The same with what of each gap the next engine's first token took.

    That is not told, so it is taken to be what the undisturbed streams of this run waited for
    theirs, in the median.
    """
    waits = [
        answer.pieces[0].at_s - answer.sent_at_s
        for answer in answers
        if answer.mode is Mode.STREAMED and answer.how is How.WHOLE
        if answer.pieces and answer.attempts == 1
    ]
    if not waits:
        return list(answers)
    usual_s = median(waits)
    return [
        msgspec.structs.replace(
            answer,
            seams=[
                msgspec.structs.replace(seam, first_token_s=min(usual_s, seam.gap_s))
                for seam in answer.seams
            ],
        )
        if answer.seams
        else answer
        for answer in answers
    ]


def _machine() -> str:
    cores = os.cpu_count() or 0
    release = ".".join(platform.release().split(".")[:2])
    python = platform.python_version()
    return f"{platform.system()} {release}, {cores} cores, Python {python}"
