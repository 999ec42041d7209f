"""One seed: a world of whole nodes, trouble, then peace, then judgement.

    python -m meshd.testing.simulation --seed N [--story]

The shape is VOPR's (TigerBeetle): a seed chooses a swarm of options; under faults nothing may be
wrong (safety); when all is healed everything that was accepted has to end (liveness).
"""

from __future__ import annotations

import random
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import trio
from trio.testing import MockClock

from meshd import control, limits
from meshd.config import LimitsConfig, RoutingConfig
from meshd.errors import MeshdError
from meshd.record.job_rows import job_name
from meshd.testing.checker import Calm, Tally
from meshd.testing.simulation.clients import Clients
from meshd.testing.simulation.judgement import judge_clients
from meshd.testing.simulation.options import EngineOptions, Options, options_of
from meshd.testing.simulation.queues import Queues
from meshd.testing.simulation.record_watch import RecordWatch
from meshd.testing.simulation.settings import engine_of, limits_of
from meshd.testing.simulation.story import Story
from meshd.testing.simulation.targets import Targets, is_open
from meshd.testing.simulation.weather import Weather
from meshd.testing.world import Machine, NotSettled, World, until

LASTS_S: Final = 30.0
"""Virtual seconds that each seed has at least."""
HEALED_S: Final = 120.0
"""Until nodes that are healed see each other, and the record can be written."""
ENDS_S: Final = 240.0
"""Until everything that was accepted has ended: engines that hang are given two minutes."""
CALM_S: Final = 12.0
"""Before what is asked anew has to be answered at once: a node that takes the log from one whose
record began anew meanwhile looks for another for as long."""
QUIET_S: Final = 30.0
"""Until nothing is left of it."""
POLL_S: Final = 0.1


@dataclass
class Run:
    """One seed, when it is over."""

    seed: int
    options: Options
    story: Story
    violations: list[str] = field(default_factory=list)
    virtual_s: float = 0.0
    trace: str = ""
    tally: Tally | None = None
    sums: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        return not self.violations


def simulate(seed: int, *, story: bool = False) -> Run:
    """Faults, peace, judgement.  Whatever goes wrong on the way is a violation."""
    run = Run(seed, options_of(seed), Story(keep_lines=story))
    simulation = _Simulation(run)
    try:
        trio.run(simulation.run, clock=MockClock(autojump_threshold=0))
    except Exception as error:  # a bug in a daemon, or here: it is this seed's
        run.violations.append("".join(traceback.format_exception(error)))
    return run


class NotSo(AssertionError):
    """Peace did not bring what it has to."""


class _Simulation:
    """What one run is made of."""

    def __init__(self, run: Run) -> None:
        self.run_ = run
        self.options, self.story = run.options, run.story
        self.watch = RecordWatch()
        self.calm: Calm | None = None
        """The end of the run, if it came to that."""

    async def run(self) -> None:
        run, options = self.run_, self.options
        with self.story.listening(), self.watch.watching(), limits_of(options):
            async with World.open(
                seed=run.seed, latency_s=options.latency_s, buffer_bytes=options.buffer_bytes
            ) as world:
                self.world = world
                network = world.network
                network.jitter_s = options.jitter_s
                network.datagram_loss = options.loss
                network.datagram_duplication = options.doubling
                world.on_end = self._note_counters
                self._make_parts()
                try:
                    await self._live()
                except* NotSo as group:
                    run.violations += _sentences(group)
                self._judge()
                run.virtual_s, run.trace = trio.current_time(), network.trace.digest

    def _make_parts(self) -> None:
        world, options, story, seed = self.world, self.options, self.story, self.run_.seed
        self.clients = Clients(world, options, story, random.Random(f"clients {seed}"))
        self.queues = Queues(
            world, options, story, random.Random(f"queues {seed}"), self.clients.somewhere
        )
        chance = random.Random(f"weather {seed}")
        targets = Targets(world, chance, options.aimed)
        self.weather = Weather(world, options, story, chance, targets, self._join)
        self.chance = random.Random(f"world {seed}")

    # --- phases

    async def _live(self) -> None:
        for number, engine in enumerate(self.options.engines):
            await self._add(f"n{number}", engine)
        await self._until("the mesh settles at its start", self.world.is_settled, HEALED_S)
        if self.options.votes_first:
            await self._until("as many vote as may", self._all_vote, HEALED_S)
        self.story.say("world", f"SETTLED: {self.options}")
        async with trio.open_nursery() as nursery:
            for number in range(self.options.workers):
                nursery.start_soon(self.queues.work, f"worker {number}")
            await self._bad_times(nursery)
            await self._good_times(nursery)
            nursery.cancel_scope.cancel()
        await self._until("nothing is left of what was asked", self._is_quiet, QUIET_S)
        await self._until("all records are equally far", self._is_even, QUIET_S)

    async def _bad_times(self, outlive: trio.Nursery) -> None:
        with trio.move_on_after(self.options.faulty_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.weather.run)
                nursery.start_soon(self.clients.run, outlive)
                nursery.start_soon(self.queues.run, outlive)

    async def _good_times(self, nursery: trio.Nursery) -> None:
        await self.weather.heal()
        members_first = sorted(
            self.world.machines.values(),
            key=lambda machine: machine.id is None or machine.name in self.weather.left,
        )
        for machine in members_first:
            await self._revive(machine)
        self.world.show_all()
        await self._until("healed nodes see each other", self.world.is_settled, HEALED_S)
        await self._until("the record can be written", self._record_is_well, HEALED_S)
        self.story.say("world", "PEACE")
        self.clients.peace = True
        healed_s = trio.current_time()
        for question in self.clients.unanswered_keys():
            machine = self.chance.choice(list(self.world.machines.values()))
            nursery.start_soon(self.clients.insist, question, machine)
        await self._watch(self._all_ended)
        await trio.sleep(CALM_S)
        for machine in self.world.machines.values():
            for key in ("", f"peace-{machine.name}"):
                question = self.clients.questions.new(key, length=10)
                asked = self.clients.ask(question, machine, must_work=True)
                nursery.start_soon(self.clients.follow, asked)
        await self._watch(self._all_over)
        self.calm = Calm(
            healed_s=healed_s, settle_s=CALM_S, within_s=ENDS_S, until_s=trio.current_time()
        )
        self.run_.violations += await self.queues.ends()
        await trio.sleep(max(0.0, LASTS_S - trio.current_time()))

    # --- machines

    async def _add(self, name: str, engine: EngineOptions | None) -> None:
        options = self.options
        engines = [] if engine is None else [engine_of(engine, thoughts=options.thoughts)]
        patience = limits.INTER_TOKEN_MIN_S if options.short_patience else limits.INTER_TOKEN_MAX_S
        await self.world.start(
            name,
            *engines,
            slots=engine.slots if engine is not None and options.slots_told else None,
            via=self._door(),
            drain_timeout_s=options.drain_s,
            limits=LimitsConfig(inter_token_s=patience),
            routing=RoutingConfig(
                policy=options.policy,
                hedge=options.hedge,
                same_name_is_same_model=options.same_name_is_same_model,
            ),
        )
        machine = self.world.machines[name]
        machine.disk.chance = random.Random(f"disk {name} {self.run_.seed}")

    def _door(self) -> Machine | None:
        """A member to join at."""
        doors = [m for m in self.world.machines.values() if m.id is not None and is_open(m)]
        return self.chance.choice(doors) if doors else None

    async def _join(self, name: str) -> None:
        """Have a machine join, a new one or one whose node has left; or not, if it cannot now."""
        machine, door = self.world.machines.get(name), self._door()
        if door is None:
            return
        try:
            if machine is None:
                await self._add(name, self.chance.choice(self.options.engines))
            else:
                made = await door.running.mesh.office.create_token(control.TokenOrder())
                await machine.start(join=door.peer_address, token=made.token)
        except (MeshdError, ExceptionGroup, NotSettled, AssertionError) as error:
            self.story.sometimes("a node could not join")
            self.story.say(name, f"could not join: {error!r}")
        else:
            self.story.sometimes("a node joined under load")
            self.story.say(name, "has joined")

    async def _revive(self, machine: Machine) -> None:
        """Have its daemon run again, as a member."""
        if machine.alive and machine.stopping:
            await machine.until_over()
        await self._until(
            f"the daemon of {machine.name} starts or ends",
            lambda: not machine.alive or is_open(machine),
            HEALED_S,
        )
        if machine.name in self.weather.left:
            if machine.alive:
                machine.terminate()
                await machine.until_over()
            self.weather.wipe(machine)
        elif not machine.alive and machine.id is not None:
            await self.weather.start(machine)
        give_up_at = trio.current_time() + HEALED_S
        while not is_open(machine):
            if trio.current_time() > give_up_at:
                raise NotSo(f"{machine.name} does not serve, though all is healed")
            await self._join(machine.name)
            await trio.sleep(1.0)

    # --- questions about all of it

    async def _until(self, what: str, is_so: Callable[[], bool], within_s: float) -> None:
        try:
            await until(is_so, within_s=within_s, poll_s=POLL_S)
        except NotSettled:
            raise NotSo(f"within {within_s:g} s it was not so: {what}{self._why()}") from None

    async def _watch(self, is_over: Callable[[], bool]) -> None:
        """Wait as long as what is under way may take; the checker says what did not end then."""
        with suppress(NotSettled):
            await until(is_over, within_s=ENDS_S, poll_s=POLL_S)

    def _why(self) -> str:
        """What may be behind that."""
        lines = []
        for machine in self.world.machines.values():
            if machine.node is None:
                lines.append(f"{machine.name}: no daemon runs")
                continue
            node = machine.node
            others = [m for m in self.world.machines.values() if m is not machine and m.id]
            unseen = [m.name for m in others if m.node is not None and not machine.sees(m)]
            unlinked = [m.name for m in others if m.id and not node.mesh.links.is_up(m.id)]
            lines.append(
                f"{machine.name}: does not see {unseen}, has no link to {unlinked}; record: "
                f"{node.record.report().problem or node.record.ledger.problem or 'well'}, "
                f"index {node.record.ledger.state.index}; left: {_left_at(machine)}"
            )
        running = [asked.name for asked in self.clients.asked if not asked.answer.over]
        lines.append(f"requests that have not ended: {running}")
        lines.append(f"keys without an answer: {self._open_keys()}")
        lines.append(f"jobs that have not ended: {self._open_jobs()}")
        return "".join(f"\n    {line}" for line in lines)

    def _record_is_well(self) -> bool:
        records = [m.running.record for m in self.world.machines.values()]
        return all(
            record.ledger.state.nodes.is_founded
            and record.ledger.problem is None
            and not record.report().problem
            for record in records
        )

    def _all_vote(self) -> bool:
        wanted = 1 if self.options.nodes < 3 else 3
        reports = [m.running.record.report() for m in self.world.machines.values()]
        return all(
            sum(row.part in ("leads", "votes") for row in report.voters) == wanted
            for report in reports
        )

    def _all_over(self) -> bool:
        return not self.clients.going_on and all(a.answer.over for a in self.clients.asked)

    def _all_ended(self) -> bool:
        return self._all_over() and not self._open_keys() and not self._open_jobs()

    def _open_keys(self) -> list[str]:
        return [question.key for question in self.clients.unanswered_keys()]

    def _open_jobs(self) -> list[str]:
        state = next(iter(self.world.machines.values())).running.record.ledger.state
        rows = state.jobs.live.page(0, len(state.jobs.live), lambda row: True)
        missing = [f"job {job.number}" for job in self.queues.jobs if not job.id]
        return [*missing, *(f"{job_name(row.id)} {row.state.name}" for row in rows)]

    def _is_quiet(self) -> bool:
        return not any(_left_at(machine) for machine in self.world.machines.values())

    def _is_even(self) -> bool:
        states = [m.running.record.ledger.state for m in self.world.machines.values()]
        return len({state.index for state in states}) == 1

    # --- judgement

    def _note_counters(self, machine: Machine) -> None:
        """What a daemon counted, before it is forgotten."""
        node = machine.running
        for counters in (
            node.data.forwarder.counters,
            node.mesh.switchboard.counters,
            node.jobs.finishing.counters,
        ):
            for name, count in counters.items():
                self.story.sometimes(name, count)

    def _judge(self) -> None:
        run, watch = self.run_, self.watch
        machines = [m for m in self.world.machines.values() if m.node is not None]
        for machine in machines:
            self._note_counters(machine)
        states = {m.name: m.running.record.ledger.state for m in machines}
        for name, state in states.items():
            watch.same_state(name, state)
        run.violations += watch.violations
        if self.calm is None:  # it did not come to an end that could be judged, and said why
            return
        report = watch.judge(states)
        if not report.ok:
            run.violations.append(str(report))
        run.tally, found, counts = judge_clients(self.clients, self.calm)
        run.violations += found
        run.sums.update(report.counts + counts)
        run.sums["answers"] += run.tally.sent
        run.sums["whole answers"] += run.tally.answered


def _sentences(group: BaseExceptionGroup[NotSo]) -> list[str]:
    found = []
    for error in group.exceptions:
        found += _sentences(error) if isinstance(error, BaseExceptionGroup) else [str(error)]
    return found


def _left_at(machine: Machine) -> dict[str, int]:
    """What a node is still at; empty: nothing."""
    if machine.node is None:
        return {"no daemon": 1}
    data, jobs = machine.node.data, machine.node.jobs
    left = {
        "relayed": data.forwarder.in_flight.count,
        "held": data.holder.in_flight.count,
        "served": data.service.in_flight.count,
        "keyed": jobs.keyed.in_flight.count,
        "slots": data.holder.admission.running,
        "queue": data.holder.admission.queued,
        "bytes": machine.node.room.held_bytes,
        "engine": sum(engine.running for engine in machine.engines),
    }
    return {what: count for what, count in left.items() if count}
