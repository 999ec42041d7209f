"""The leader's care for the voters: ask who is how, decide a step, take it (trio shell).

What to do is decided in `consensus.voters`; here is only where the facts come from and how a step
is carried out.  A node that does not lead does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec
import trio

from meshd import limits, logs
from meshd.consensus.driver import Driver, ProposalRefused, ProposalUnknown
from meshd.consensus.interface import Role, Status, TransferRefused
from meshd.consensus.voters import (
    Demote,
    Elector,
    Learn,
    Promote,
    Standing,
    Step,
    Transfer,
    Wish,
    next_step,
)
from meshd.errors import MeshdError
from meshd.ids import NodeId, short

log = logs.get("record")

LOOK_S = 1.0
"""Between two looks while something is to be done."""
HURRY_S = 30.0
"""A node that came takes part after this, or not so soon: its disk is slow, or not in order."""
REST_S = 10.0
"""Between two looks when nothing is."""
ANSWER_S = 1.0
"""Who takes longer to say how it is does not answer now."""
CAUGHT_UP_ENTRIES = 64
"""Behind the leader by no more than this: acknowledged within a round trip."""
LEARN_S = 30.0
"""For so long a node gets the log from the leader after it was about to get a vote, or lost its
own (so that it hears of that at once)."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself as a voter."""

    wish: Wish = Wish.AUTO
    on_mains: bool = True
    portable: bool = False
    uptime_s: float = 0.0
    sync_s: float = 0.0
    """What making something durable costs it; 0: not known."""
    runs: bool = True
    """Its journal and its core are in order."""
    index: int = 0
    """How much of the log it has that is committed."""
    is_void: bool = False
    """Its vote is, since it lost what it had promised."""


class Members(Protocol):
    """The other side of the links, and who is a member."""

    def members(self) -> Iterable[NodeId]:
        """All registered ones, this node among them."""
        ...

    def standing(self, node: NodeId) -> tuple[Standing, float]:
        """What membership says, and for how long it has not been alive, in seconds."""
        ...

    async def machine(self, node: NodeId) -> Machine:
        """Ask that node.  Raises MeshdError when it does not answer."""
        ...


class Electorate:
    """Runs at every node; works at the leader."""

    def __init__(
        self,
        me: NodeId,
        driver: Callable[[], Driver | None],
        members: Members,
        own: Callable[[], Machine],
        order: Callable[[NodeId], Wish],
    ) -> None:
        """`order` is what the record says of a node's vote."""
        self._me = me
        self._driver = driver
        self._members = members
        self._own = own
        self._order = order
        self._changed_at = -math.inf
        self._nudge = trio.Event()
        self._was_ready = False
        self._hurry_until = -math.inf
        """Until then whoever came and does not take part yet is looked after."""
        self._learn_until: dict[NodeId, float] = {}
        self.last_step: str = ""
        """What was done last, for a person."""
        self.void: frozenset[NodeId] = frozenset()
        """Whose vote is, as of the last look; only a leader looks."""

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            busy = False
            driver = self._driver()
            if driver is not None:
                status = driver.status()
                if status.role is Role.LEADER and status.ready:
                    busy = await self._look(driver)
            await trio.sleep(LOOK_S)  # links that come and go cause no more looks than this
            if not busy:
                with trio.move_on_after(REST_S - LOOK_S):
                    await self._nudge.wait()
            self._nudge = trio.Event()

    def stepped(self, driver: Driver) -> None:
        """After each turn of the log: whoever leads anew goes on with what was begun."""
        was_ready, self._was_ready = self._was_ready, driver.is_ready
        if self._was_ready and not was_ready:
            self.nudge()

    def nudge(self) -> None:
        """Somebody can be reached anew: look before the rest is over, until it takes part."""
        self._hurry_until = trio.current_time() + HURRY_S
        self._nudge.set()

    async def _look(self, driver: Driver) -> bool:
        """One look; whether it should soon be followed by another."""
        electors = await self.electors(driver)
        self.void = frozenset(node for node, elector in electors.items() if elector.is_void)
        status = driver.status()
        since_change_s = trio.current_time() - self._changed_at
        steps = self._steps(status.voters, electors, since_change_s)
        newcomers = [step.node for step in steps if isinstance(step, Learn | Promote)]
        self._teach(driver, newcomers, electors)
        if not steps:
            hurry = trio.current_time() < self._hurry_until
            return hurry and any(map(_is_to_come, electors.values()))
        if all(_is_taught(node, status) for node in newcomers):
            await self._take(driver, status, steps[0])
        return True

    def _steps(
        self, voters: Sequence[NodeId], electors: dict[NodeId, Elector], since_change_s: float
    ) -> list[Step]:
        """The next step, and those behind it if votes are to be given: who gets one learns first,
        and two who get one together learn together."""
        voters, electors = list(voters), dict(electors)
        steps: list[Step] = []
        while len(steps) < limits.RAFT_LEARNERS:
            step = next_step(self._me, voters, electors, since_change_s=since_change_s)
            match step:
                case Learn(node) if not electors[node].caught_up:
                    electors[node] = msgspec.structs.replace(electors[node], caught_up=True)
                case Promote(node):
                    voters.append(node)
                    since_change_s = 0.0
                case _:
                    return steps or ([step] if step is not None else [])
            steps.append(step)
        return steps

    # ---------------------------------------------------------------- facts

    async def electors(self, driver: Driver) -> dict[NodeId, Elector]:
        """All members, asked just now.  How far their logs are, a leader alone knows."""
        nodes = list(self._members.members())[: limits.ELECTORS]
        answers: dict[NodeId, Machine] = {self._me: self._own()}
        async with trio.open_nursery() as nursery:
            for node in nodes:
                if node != self._me and self._members.standing(node)[0] is Standing.ALIVE:
                    nursery.start_soon(self._ask, node, answers)
        status = driver.status()
        return {node: self._elector(node, answers.get(node), status) for node in nodes}

    async def _ask(self, node: NodeId, answers: dict[NodeId, Machine]) -> None:
        with trio.move_on_after(ANSWER_S):
            try:
                answers[node] = await self._members.machine(node)
            except MeshdError as error:
                log.debug("not heard about its vote", node=short(node), why=str(error))

    def _elector(self, node: NodeId, machine: Machine | None, status: Status) -> Elector:
        standing, away_s = self._members.standing(node)
        me = node == self._me
        peer = status.peers.get(node)
        answering = me or (machine is not None and machine.runs)
        said = machine or Machine()
        behind = status.last - (peer.match if peer is not None else said.index)
        return Elector(
            node=node,
            wish=said.wish,
            order=self._order(node),
            is_void=said.is_void,
            standing=Standing.ALIVE if me else standing,
            away_s=0.0 if me else away_s,
            answering=answering,
            caught_up=me or (answering and behind <= CAUGHT_UP_ENTRIES),
            on_mains=said.on_mains,
            portable=said.portable,
            uptime_s=said.uptime_s,
            sync_s=said.sync_s,
        )

    # ---------------------------------------------------------------- steps

    def _teach(
        self, driver: Driver, newcomers: Sequence[NodeId], electors: dict[NodeId, Elector]
    ) -> None:
        """Send the log to whoever is about to get a vote, or has just lost it."""
        now = trio.current_time()
        self._learn_until |= dict.fromkeys(newcomers, now + LEARN_S)
        self._learn_until = {node: at for node, at in self._learn_until.items() if at > now}
        status = driver.status()
        learners = sorted(
            node for node in self._learn_until
            if node in electors and node not in status.voters
        )  # fmt: skip
        if list(status.learners) != learners:
            driver.set_learners(learners)

    async def _take(self, driver: Driver, status: Status, step: Step) -> None:
        try:
            match step:
                case Learn():
                    return  # time will show
                case Promote(node, why):
                    voters = [*status.voters, node]
                    await self._change(driver, voters, f"a vote for {short(node)}: {why}")
                case Demote(node, why):
                    voters = [voter for voter in status.voters if voter != node]
                    self._learn_until[node] = trio.current_time() + LEARN_S
                    await self._change(driver, voters, f"no vote for {short(node)}: {why}")
                case Transfer(node, why):
                    driver.transfer(node)
                    self._note(f"the lead for {short(node)}: {why}")
        except (ProposalRefused, ProposalUnknown, TransferRefused) as error:
            log.info("the voters stay as they are for now", why=str(error))

    async def _change(self, driver: Driver, voters: Sequence[NodeId], what: str) -> None:
        await driver.change_voters(sorted(voters))
        self._changed_at = trio.current_time()
        self._note(what)

    def _note(self, what: str) -> None:
        self.last_step = what
        log.info("voters", what=what)


def _is_taught(node: NodeId, status: Status) -> bool:
    """It gets the log from this leader, and lacks next to nothing of it."""
    peer = status.peers.get(node)
    return peer is not None and status.last - peer.match <= CAUGHT_UP_ENTRIES


def _is_to_come(elector: Elector) -> bool:
    """It is there, and does not take part yet."""
    here = elector.standing is Standing.ALIVE
    return here and not (elector.answering and elector.caught_up)
