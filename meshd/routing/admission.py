"""Who may run now, who waits, who is sent away.  Pure.

Engines queue without limit and badly (llama.cpp: 1,000 waiting clients lose 823 connections;
Ollama's MAX_QUEUE does not guard a loaded model), so the holder admits in front of them: as many
as the engine has slots, a bounded queue in order of arrival, and a prompt "busy" beyond it.

A lane is one (backend, model).  Time comes in with every call; whatever should happen to others is
returned.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec

from meshd.limits import QUEUE_PER_NODE

Lane = tuple[str, str]

SERVICE_PRIOR_S = 5.0
SERVICE_EWMA = 0.2


@dataclass(eq=False, slots=True)
class Ticket:
    """One request at the door of one lane."""

    lane: Lane
    arrived_at: float
    give_up_at: float
    """When a queued ticket is sent away as busy (trio time)."""
    admitted_at: float | None = None


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """Go ahead now."""


class Queued(msgspec.Struct, frozen=True, gc=False):
    """Wait; `wait_s` is the prediction."""

    wait_s: float
    position: int


class Busy(msgspec.Struct, frozen=True, gc=False):
    """Not here, not now."""

    wait_s: float
    """How long it would have been."""


Verdict = Admitted | Queued | Busy


@dataclass(slots=True)
class _LaneState:
    slots: int
    running: set[Ticket] = field(default_factory=set)
    queue: deque[Ticket] = field(default_factory=deque)
    service_s: float = SERVICE_PRIOR_S


class Admission:
    """The doors of all lanes of one node."""

    def __init__(self, queue_limit: int = QUEUE_PER_NODE) -> None:
        self._lanes: dict[Lane, _LaneState] = {}
        self._queue_limit = queue_limit
        self._queued = 0

    @property
    def running(self) -> int:
        """Requests inside, over all lanes."""
        return sum(len(lane.running) for lane in self._lanes.values())

    @property
    def queued(self) -> int:
        """Requests waiting, over all lanes."""
        return self._queued

    def lane_load(self, lane: Lane) -> tuple[int, int]:
        """(running, queued) of one lane."""
        state = self._lanes.get(lane)
        return (len(state.running), len(state.queue)) if state else (0, 0)

    def ask(self, lane: Lane, slots: int, max_wait_s: float, now: float) -> tuple[Ticket, Verdict]:
        """A request wants in.  `max_wait_s` 0: now or never."""
        state = self._lanes.get(lane)
        if state is None:
            state = self._lanes[lane] = _LaneState(slots)
        state.slots = max(1, slots)
        ticket = Ticket(lane, now, now + max_wait_s)
        if len(state.running) < state.slots and not state.queue:
            ticket.admitted_at = now
            state.running.add(ticket)
            return ticket, Admitted()
        wait_s = self._predicted_wait_s(state, len(state.queue))
        if max_wait_s <= 0 or wait_s > max_wait_s or self._queued >= self._queue_limit:
            return ticket, Busy(wait_s)
        state.queue.append(ticket)
        self._queued += 1
        return ticket, Queued(wait_s, len(state.queue))

    def resize(self, lane: Lane, slots: int, now: float) -> list[Ticket]:
        """The engine takes so many now.  Returns those of the queue that are admitted by that."""
        state = self._lanes.get(lane)
        if state is None:
            return []
        state.slots = max(1, slots)
        return self._admit(state, now)

    def done(self, ticket: Ticket, now: float) -> list[Ticket]:
        """It left: finished, failed, or gave up waiting.  Returns those admitted in its place.

        Idempotent: a ticket that is not inside changes nothing.
        """
        state = self._lanes.get(ticket.lane)
        if state is None:
            return []
        if ticket in state.running:
            state.running.discard(ticket)
            assert ticket.admitted_at is not None
            took_s = max(0.0, now - ticket.admitted_at)
            state.service_s += SERVICE_EWMA * (took_s - state.service_s)
        elif ticket in state.queue:
            state.queue.remove(ticket)
            self._queued -= 1
        return self._admit(state, now)

    def _admit(self, state: _LaneState, now: float) -> list[Ticket]:
        admitted: list[Ticket] = []
        while state.queue and len(state.running) < state.slots:
            ticket = state.queue.popleft()
            self._queued -= 1
            ticket.admitted_at = now
            state.running.add(ticket)
            admitted.append(ticket)
        return admitted

    def _predicted_wait_s(self, state: _LaneState, ahead: int) -> float:
        """A slot frees up every service time / slots, and those ahead go first."""
        return (ahead + 1) * state.service_s / state.slots
