"""What the leader does about time: ends leases, and moves the record clock (trio shell).

The record clock moves only when something waits for it (a job's start or deadline, a key's end) or
when something else was written anyway and it has fallen behind: a mesh in which nothing happens
writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import trio

from meshd import limits, logs
from meshd.beat import next_beat
from meshd.consensus.driver import Driver, ProposalRefused, ProposalUnknown
from meshd.consensus.interface import Role
from meshd.jobs.leases import Leases
from meshd.ledger.ledger import Ledger
from meshd.record import results
from meshd.record.commands import Entry, encode
from meshd.record.commands_jobs import Expire, LetGo
from meshd.record.commands_registry import Command, Tick
from meshd.record.events import ClockMoved, Event, NodeRemoved
from meshd.record.results import RecordRefused

log = logs.get("jobs")

LOOK_S = 1.0
"""How often a node looks whether it leads, and the leader whether time is due, at most."""
BEHIND_MS = 10_000
"""The clock follows what is written at this distance."""
STALE_MS = 60_000
"""A clock that is further behind has stood still."""
WRITE_S = 4.0
"""For something new to be written down; then the client is told to try again.

Longer than it takes to choose a leader, and less than common clients wait for an answer.
"""


class Duties:
    """Runs at every node; works at the leader."""

    def __init__(
        self,
        ledger: Ledger,
        wall_unix_s: Callable[[], float],
        steady_s: Callable[[], float],
    ) -> None:
        """`wall_unix_s` is the median of the clocks of the nodes that this one hears.

        `steady_s` is a clock of this machine that nobody can set, and that counts its sleep.
        """
        self._ledger = ledger
        self._wall_unix_s = wall_unix_s
        self._steady_s = steady_s
        self._clock_moved_at = steady_s()
        self._strays: set[str] = set()
        """Nodes that were removed and may still have jobs."""
        self._leases = Leases()
        self._term = -1
        """That in which this node leads, while it does."""
        self._ticked_index = 0
        """How far the record was when its clock was last moved."""
        self._wake = trio.Event()

    def happened(self, events: Sequence[Event]) -> None:
        """Events that were just applied here, in order."""
        now = trio.current_time()
        for event in events:
            self._leases.happened(event, now)
            if isinstance(event, ClockMoved):
                self._clock_moved_at = self._steady_s()
            elif isinstance(event, NodeRemoved):
                self._strays.add(event.node)
        self._wake.set()

    async def now_unix_ms(self) -> int:
        """What time it is, for a command that counts from now (at any node).

        The record clock stands still while nothing is written, and what counts from a time long
        past would be over as soon as it moves: so it is moved first.  Raises as Ledger.execute.
        """
        clock = self._ledger.state.clock
        wall_ms = int(self._wall_unix_s() * 1000)
        if wall_ms - clock.now_unix_ms > STALE_MS and not clock.row.held_unix_ms:
            tick = Tick(unix_ms=wall_ms, elapsed_ms=self._elapsed_ms())
            await self._ledger.execute(tick, timeout_s=WRITE_S)
            clock = self._ledger.state.clock
        if clock.row.held_unix_ms:  # the nodes' clocks are not believed
            return clock.now_unix_ms
        return max(clock.now_unix_ms, wall_ms)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            driver = self._ledger.driver
            status = None if driver is None else driver.status()
            if driver is None or status is None or status.role is not Role.LEADER:
                self._term = -1
                await next_beat(LOOK_S)
                continue
            if status.ready:
                if status.term != self._term:
                    self._begin(status.term)
                try:
                    await self._work(driver)
                except (ProposalRefused, ProposalUnknown) as error:
                    log.debug("not written; again soon", why=str(error))
            await self._rest()

    async def _work(self, driver: Driver) -> None:
        """Whatever is due.

        Raises ProposalRefused and ProposalUnknown at the first command that is not known to be
        written.  All that is still due is due in the next round too, if this node leads then: its
        timers are not those of another leader.
        """
        now = trio.current_time()
        for job, fence in self._leases.due(now):
            log.info("a lease is over", job=job, fence=fence)
            await self._propose(driver, Expire(job=job, fence=fence))
        for node in sorted(self._strays):
            said = await self._propose(driver, LetGo(node=node))
            if said.get("more") is False:
                self._strays.discard(node)
        tick = self._tick_wanted()
        while tick is not None:
            said = await self._propose(driver, tick)
            self._ticked_index = self._ledger.state.index
            if not said.get("more"):
                return

    def _begin(self, term: int) -> None:
        """This node leads from now on."""
        self._term = term
        state = self._ledger.state
        claims = state.jobs.live.claims()
        self._leases.begin(claims, trio.current_time())
        holders = {row.claim.node for row in claims if row.claim is not None}
        self._strays |= {node for node in holders if state.nodes.get(node) is None}

    def _tick_wanted(self) -> Tick | None:
        """What to move the record clock by, if it should move now."""
        state = self._ledger.state
        if not state.nodes.is_founded:
            return None
        wall_ms, record_ms = int(self._wall_unix_s() * 1000), state.clock.now_unix_ms
        elapsed_ms = self._elapsed_ms()
        expected_ms = record_ms + elapsed_ms
        # Of a leap nobody believes the clock, only the time that was measured here.
        leapt = wall_ms - expected_ms > limits.CLOCK_STEP_S * 1000
        # Of clocks that were set back, half of that, until they have caught up (record/clock.py).
        behind_ms = record_ms + elapsed_ms // 2
        then_ms = expected_ms if leapt else behind_ms if wall_ms < record_ms else wall_ms
        due_ms = state.next_due_unix_ms()
        due = due_ms is not None and record_ms < due_ms <= then_ms
        written = state.index > self._ticked_index and then_ms - record_ms > BEHIND_MS
        return Tick(unix_ms=wall_ms, elapsed_ms=elapsed_ms) if due or written else None

    def _elapsed_ms(self) -> int:
        """Since the record clock moved, as measured here."""
        return max(0, int((self._steady_s() - self._clock_moved_at) * 1000))

    async def _propose(self, driver: Driver, command: Command) -> dict[str, Any]:
        """The fields of its result; none if the record refused it.

        Raises ProposalRefused, ProposalUnknown.
        """
        outcome = await driver.propose(encode(Entry(command)))
        try:
            return results.read(outcome.result)
        except RecordRefused as refusal:
            log.debug("refused", why=str(refusal))  # an old fence: the holder was quicker
            return {}

    async def _rest(self) -> None:
        """Until a lease is due, something is applied, or a look is."""
        at = min(trio.current_time() + LOOK_S, self._leases.next_due_at() or math.inf)
        with trio.move_on_at(at):
            await self._wake.wait()
        self._wake = trio.Event()
