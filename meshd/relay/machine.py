"""One request's life at its entry, as a pure state machine (DESIGN.md, "One request").

Events come in as method calls with the time; what to do comes out as directives.  The trio shell
(`relay/forwarder.py`) carries them out and reports back.  The rungs of a failure: nothing delivered
-> the next holder; something delivered -> another run goes on after it, or repeats and goes on
(`splice.py`); neither possible -> an error in the dialect's own form, in the stream.

    PICKING --picked--> ASKING --accept(content)--> STREAMING --ended(finish seen)--> DONE
       ^                   |                            |
       +------ failed -----+----- failed, to go on -----+-- failed --> DONE (in-stream error)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import msgspec

from meshd import limits
from meshd.ids import NodeId
from meshd.inference import Delta, Embedding, Failure, FailureKind, Usage
from meshd.relay.directives import (
    Attempt,
    Avoid,
    Directive,
    Fail,
    Finish,
    Pick,
    Poison,
    Say,
)
from meshd.relay.ends import all_busy, cut, deadline, given_up, nobody, stopped
from meshd.relay.kinds import (
    BROKE_OFF,
    COSTS_NOTHING,
    ENGINE_DIED,
    FINAL,
    NOBODY_THERE,
    NOT_BEGUN,
    NOT_ITS_FAULT,
    WAIT_ELSEWHERE,
)
from meshd.relay.runs import Run, Spent
from meshd.relay.splice import Splice, Way
from meshd.routing.catalogue import Target
from meshd.routing.placement import TargetKey


class State(Enum):
    """Where the request is."""

    PICKING = auto()
    ASKING = auto()
    STREAMING = auto()
    DONE = auto()


@dataclass(slots=True)
class Relay:
    """The life of one request.

    `may_retry(now)` is the entry's retry budget: False says that enough of its recent requests
    were retries (a retry storm must not be made worse by us).
    """

    deadline_at: float
    may_retry: Callable[[float], bool]
    streaming: bool = True
    """False: the client gets one body at the end, so that until then nothing is delivered."""
    splice: Splice | None = None
    """What was delivered of a stream; None: what breaks off cannot be gone on with."""
    attempts_max: int = limits.ATTEMPTS
    repicks_max: int = limits.REPICKS
    queue_wait_s: float = limits.QUEUE_WAIT_S

    state: State = State.PICKING
    attempts: int = 0
    asks: int = 0
    """How often any holder was asked; "busy" is no attempt, but a new question after it is new."""
    delivered: bool = False
    finish_seen: bool = False
    first_at: float | None = None
    """When the first piece of an answer came."""
    silent_at: float = math.inf
    """When the current holder counts as gone unless heard; inf while it is this process."""
    _target: Target | None = None
    _lost: tuple[Run, ...] = ()
    """Runs that came to nothing, or broke off."""
    _run: Run | None = None
    """The one under way, or that the end of the answer came from."""
    _remote: bool = False
    _asked: int = 0
    _cause: Failure | None = None
    _last: Failure | None = None
    _engine_deaths: int = 0
    _excluded: set[TargetKey] = field(default_factory=set)
    _busy: dict[TargetKey, tuple[float, Target, bool]] = field(default_factory=dict)
    """Those that said busy: their predicted wait, and whether they are remote."""
    _doubted: bool = False
    """The holder's silence was noted."""
    _unreached: int = 0
    """How many holders could not be reached."""
    _queueing: bool = False
    _queue_until: float = math.inf
    """When it will have queued for long enough, wherever that was."""
    _retrying: bool = False
    """The next attempt is a retry, for which there must be budget: the last run gave nothing."""
    _stopping: bool = False
    """This entry ends: there is no next attempt."""
    _said_here: bool = False
    """The current holder has said something of the answer."""
    _gave: bool = False
    """The client of a stream was given something by it, that it did not have before."""
    _said_tokens: int = 0
    _usage_told: bool = False
    _spent: Spent = field(default_factory=Spent)
    _ways: list[Way] = field(default_factory=list)
    """How to go on with what was delivered: the first is being tried."""
    _like: Target | None = None
    """Whose answer broke off."""
    _unable: set[TargetKey] = field(default_factory=set)
    """Those that cannot go on after what another said."""

    # ------------------------------------------------------------------ events

    def start(self, now: float) -> list[Directive]:
        """The request was read whole and is well formed."""
        if now >= self.deadline_at:
            return self._fail(deadline())
        return [Pick(frozenset())]

    def picked(
        self, target: Target | None, others: int, remote: bool, now: float
    ) -> list[Directive]:
        """The answer to `Pick`: a holder and how many more could be asked, or None."""
        if self.state is State.DONE:
            return []
        if target is None:
            return self._nobody_left(now)
        if self._stopping or (self._retrying and not self.may_retry(now)):
            return self._fail(self._last)
        self._retrying = False
        # With others to ask, "busy" is the better answer than a place in a queue.
        queue = others == 0 and not self._busy
        return self._ask(target, queue, remote, now, others)

    def doubts(self, now: float) -> bool:
        """Whether the holder has been silent for so long that it is time to see who else is there:
        `ROLL_CALL_S` before it counts as gone.  True once a silence."""
        doubts = not self._doubted and now >= self.silent_at - limits.ROLL_CALL_S
        self._doubted = self._doubted or doubts
        return doubts

    def heard(self, now: float) -> None:
        """The holder gave a sign of life (any frame)."""
        if self._remote:
            self._doubted = False
            self.silent_at = now + limits.HOLDER_SILENT_S

    def sent(self, size_bytes: int, now: float) -> None:
        """The request is on its way: what is left of it in buffers still takes its time."""
        if self._remote:
            in_buffers = min(size_bytes, limits.SEND_BUFFER_BYTES)
            self.silent_at = (
                now + limits.HOLDER_SILENT_S + in_buffers / limits.SLOW_LINK_BYTES_PER_S
            )

    def accept(
        self, items: Sequence[Delta | Usage | Embedding], now: float
    ) -> Sequence[Delta | Usage | Embedding]:
        """Pieces of the answer came in; returns those that the client is to get.

        Raises `splice.DoesNotFit` if this run was to repeat the answer and did not.
        """
        self.heard(now)
        for item in items:
            if isinstance(item, Delta):
                self._said_tokens += item.finish_reason is None or item.has_content()
                if item.finish_reason is not None:
                    self.finish_seen = True
                if not self._said_here and item.has_content():
                    self._said_here = True
                    if self.first_at is None:
                        self.first_at = now
                    if self.streaming:
                        self.delivered = True
                        self.state = State.STREAMING
            elif isinstance(item, Embedding):
                self.finish_seen = True
                self.first_at = now
        if self.splice is not None:
            items = self.splice.take(items)
        if not self._gave and self.streaming:
            self._gave = any(isinstance(item, Delta) and item.has_content() for item in items)
        if items and type(items[-1]) is Usage:
            self._usage_told = True
            items = [*items[:-1], self._spent.labelled(items[-1], self._told_tokens)]
        return items

    def ended(self, now: float) -> list[Directive]:
        """The attempt returned in order."""
        if self.state is State.DONE:
            return []
        if not self.finish_seen:
            return self.failed(cut(), now)
        self.state = State.DONE
        self.silent_at = math.inf
        return [Finish()]

    def failed(self, failure: Failure, now: float) -> list[Directive]:
        """The attempt is over without a whole answer."""
        if self.state is State.DONE:
            return []
        if self._cause is None and failure.kind == FailureKind.CANCELLED:
            failure = given_up(failure)
        failure = self._cause or failure
        self._cause, self._last = None, failure
        self.silent_at = math.inf
        target = self._target
        assert target is not None, "failed() without an attempt"
        kind = failure.kind
        if self.finish_seen and kind in BROKE_OFF:
            self.state = State.DONE  # all of the answer was here; only its usage may be missing
            return [Finish()] if self._usage_told else [Say((self._counted(),)), Finish()]
        assert self._run is not None
        self._lost = (*self._lost, msgspec.structs.replace(self._run, failure=kind))
        self._run = None
        if self._said_here:
            self._spent.lost(self._told_tokens, self._said_tokens)
        out: list[Directive] = []
        if self._stopping:
            self.state = State.DONE
            return [Fail(failure, in_stream=self.delivered)]
        if kind in WAIT_ELSEWHERE and not (self._said_here and self.streaming):
            return self._go_on_after_busy(target, failure, now)
        if kind not in FINAL and kind not in NOT_ITS_FAULT:
            out.append(Avoid(target, failure))
        if kind in ENGINE_DIED:
            self._engine_deaths += 1
            if self._engine_deaths >= limits.BACKEND_DEATHS_BEFORE_POISON:
                return [*out, Poison(), *self._fail(failure)]
        if self._ways[:1] == [Way.CONTINUE] and kind == FailureKind.UNSUPPORTED:
            self._unable.add(target.key)
            self.attempts -= 1  # nothing ran
        elif kind == FailureKind.DIVERGED:
            self._ways.pop(0)  # the same engine may well go on in the other way
            if not self._ways:
                return self._fail(failure)
        else:
            self._excluded.add(target.key)
        if kind in NOT_BEGUN and self._unreached < limits.UNREACHED:
            self._unreached += 1
            self.attempts -= 1  # nothing ran
        if kind in FINAL or self.attempts >= self.attempts_max:
            return [*out, *self._fail(failure)]
        # A run that took the stream further was worth its while: what replaces it is no storm.
        self._retrying = self._retrying or not (self._gave or kind in COSTS_NOTHING)
        # Those that were busy before may have room by now: they are asked anew.
        self._busy.clear()
        self._asked = 0
        if self._said_here and self.streaming and kind != FailureKind.DIVERGED:
            return [*out, *self._go_on_elsewhere(target, failure)]
        self.state = State.PICKING
        return [*out, self._pick()]

    def hedged(self) -> tuple[int, int]:
        """A second run begins beside the first, which said nothing yet; its number and its name."""
        self.attempts += 1
        self.asks += 1
        return self.attempts, self.asks

    def moved(self, target: Target, remote: bool, now: float) -> None:
        """Of two runs this one goes on alone."""
        self._target, self._remote = target, remote
        self._run = Run(target.node, "")
        self.heard(now)

    def lost_one(self, target: Target, failure: Failure) -> list[Directive]:
        """One of two runs is over without a word of an answer, and the other goes on."""
        if failure.kind == FailureKind.CANCELLED:
            failure = given_up(failure)
        kind = failure.kind
        self._lost = (*self._lost, Run(target.node, kind))
        if kind in WAIT_ELSEWHERE:
            self.attempts -= 1  # nothing ran
            return []
        self._excluded.add(target.key)
        if kind in ENGINE_DIED:
            self._engine_deaths += 1
        return [] if kind in FINAL or kind in NOT_ITS_FAULT else [Avoid(target, failure)]

    def client_gone(self) -> str | None:
        """The client went away: why to abort the attempt, or None if there is nothing to abort."""
        return self._abort(Failure(FailureKind.CANCELLED, "the client went away", 499))

    def stop(self) -> str | None:
        """This entry ends and nobody waits for this one: why to abort the attempt, or None."""
        self._stopping = True
        self._last = stopped()
        return self._abort(self._last)

    def tick(self, now: float) -> str | None:
        """A watch ran out: why to abort the attempt, or None if all is well."""
        if now >= self.deadline_at:
            return self._abort(deadline())
        if now >= self.silent_at:
            return self._abort(
                Failure(
                    FailureKind.HOLDER_LOST,
                    f"the holder has not been heard for {limits.HOLDER_SILENT_S} s",
                    502,
                )
            )
        return None

    @property
    def abort_reason(self) -> str | None:
        """Why the attempt that is about to begin is to be aborted at once, if it is."""
        return None if self._cause is None else self._cause.message

    @property
    def asked(self) -> NodeId | None:
        """The node that was asked last, if any was."""
        return None if self._target is None else self._target.node

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, the last of which brought the answer, or is under way."""
        return self._lost if self._run is None else (*self._lost, self._run)

    @property
    def wake_at(self) -> float:
        """When `tick` has something to say, if nothing happens before."""
        doubt_s = 0.0 if self._doubted else limits.ROLL_CALL_S
        return min(self.deadline_at, self.silent_at - doubt_s)

    # ----------------------------------------------------------------- decisions

    def _go_on_elsewhere(self, target: Target, failure: Failure) -> list[Directive]:
        """A stream broke off: look for somebody who goes on with it."""
        self._ways = [] if self.splice is None else self.splice.ways()
        if not self._ways:
            return self._fail(failure)
        assert self.splice is not None
        if self.splice.is_full():
            self.state = State.DONE
            return [Say((Delta(finish_reason="length"), self.splice.usage())), Finish()]
        self._like = target
        self._unable.clear()
        self.state = State.PICKING
        return [self._pick()]

    def _pick(self) -> Pick:
        if not self._ways:
            return Pick(frozenset(self._excluded | self._busy.keys()))
        unable = self._unable if self._ways[0] is Way.CONTINUE else frozenset()
        exclude = frozenset(self._excluded | self._busy.keys() | unable)
        return Pick(exclude, self._ways[0], self._like)

    def _ask(
        self, target: Target, queue: bool, remote: bool, now: float, others: int = 0
    ) -> list[Directive]:
        self.state = State.ASKING
        self._said_here = self._gave = self._usage_told = False
        self._said_tokens = 0
        self._queueing = queue
        if queue and self._queue_until == math.inf:
            self._queue_until = min(now + self.queue_wait_s, self.deadline_at)
        wait_s = max(0.0, self._queue_until - now) if queue else 0.0
        self._target, self._remote = target, remote
        self.finish_seen = False
        if not self.delivered:
            self.first_at = None
        self._asked += 1
        self.attempts += 1
        self.asks += 1
        # A large body on a slow link takes its time, and the holder cannot answer before it has
        # it; the silence that counts begins when all of it is sent (`heard`).
        self.silent_at = now + limits.DIAL_S + limits.HTTP_SEND_STALL_S if remote else math.inf
        way, request = None, None
        if self._ways:
            assert self.splice is not None
            way = self._ways[0]
            request = self.splice.begin(way)
        self._run = Run(target.node, "", way.name.lower() if way is not None else "")
        return [Attempt(target, self.attempts, wait_s, self.asks, way, request, others)]

    def _go_on_after_busy(self, target: Target, failure: Failure, now: float) -> list[Directive]:
        self.attempts -= 1  # nothing ran
        if failure.kind == FailureKind.DRAINING:
            self._excluded.add(target.key)
        else:
            self._busy[target.key] = (failure.retry_after_s or 0.0, target, self._remote)
        self.state = State.PICKING
        if self._queueing and failure.kind == FailureKind.BUSY:
            return self._fail(all_busy([busy[0] for busy in self._busy.values()]))
        if self._asked <= self.repicks_max:
            return [self._pick()]
        return self._nobody_left(now)

    def _nobody_left(self, now: float) -> list[Directive]:
        """Nobody new to ask: queue at the best of the busy ones, or give up."""
        waiting = [b for b in self._busy.values() if b[1].key not in self._excluded]
        if waiting and now < self.deadline_at:
            _, target, remote = min(waiting, key=lambda busy: busy[0])
            return self._ask(target, True, remote, now)
        if len(self._ways) > 1:
            self._ways.pop(0)
            return [self._pick()]
        if self._busy:
            return self._fail(all_busy([busy[0] for busy in self._busy.values()]))
        return self._fail(self._last)

    @property
    def _told_tokens(self) -> int:
        return 0 if self.splice is None else self.splice.told_tokens

    def _counted(self) -> Usage:
        """The usage of an answer whose engine died before it told."""
        if self.splice is None:
            return Usage(completion_tokens=self._said_tokens)
        return self._spent.labelled(self.splice.usage(), self._told_tokens)

    def _abort(self, cause: Failure) -> str | None:
        if self.state is State.DONE or self._cause is not None:
            return None
        self._cause = cause
        return cause.message

    def _fail(self, failure: Failure | None) -> list[Directive]:
        """`failure` None: there was nobody to ask."""
        self.state = State.DONE
        self.silent_at = math.inf
        if failure is None:
            failure = nobody()
        elif failure.kind in NOBODY_THERE and not self.delivered:
            failure = nobody(failure.message)  # nothing ran: a later try may well succeed
        return [Fail(failure, in_stream=self.delivered)]
