"""One request's life at its entry, as a pure state machine (DESIGN.md).

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

from meshd import limits
from meshd.ids import NodeId
from meshd.inference import Delta, Embedding, Failure, FailureKind, Usage
from meshd.relay import ends
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
from meshd.relay.holder_watch import HolderWatch
from meshd.relay.kinds import (
    BLAMELESS,
    BROKE_OFF,
    COSTS_NOTHING,
    FINAL,
    NOBODY_THERE,
    WAIT_ELSEWHERE,
)
from meshd.relay.prospects import Busy, Prospects
from meshd.relay.runs import Run, RunUnderWay, Spent
from meshd.relay.splice import Splice, Way
from meshd.relay.tries import Tries
from meshd.routing.catalogue import Target


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
    queue_wait_s: float = limits.QUEUE_WAIT_S

    state: State = State.PICKING
    tries: Tries = field(default_factory=Tries)
    delivered: bool = False
    first_at: float | None = None
    """When the first piece of an answer came."""
    holder_watch: HolderWatch = field(default_factory=lambda: HolderWatch(remote=False))
    """Of the holder that is being asked."""
    _run: RunUnderWay | None = None
    """The one under way, or that the end of the answer came from."""
    _lost: tuple[Run, ...] = ()
    """Runs that came to nothing, or broke off."""
    _spent: Spent = field(default_factory=Spent)
    _prospects: Prospects = field(default_factory=Prospects)
    _ways: list[Way] = field(default_factory=list)
    """How to go on with what was delivered: the first is being tried."""
    _like: Target | None = None
    """Whose answer broke off."""
    _queue_until: float = math.inf
    """When it will have queued for long enough, wherever that was."""
    _retrying: bool = False
    """The next attempt is a retry, for which there must be budget: the last run gave nothing."""
    _stopping: bool = False
    """This entry ends: there is no next attempt."""
    _cause: Failure | None = None
    """Why this entry has aborted the run under way, if it has."""
    _last: Failure | None = None

    # ------------------------------------------------------------------ events

    def start(self, now: float) -> list[Directive]:
        """The request was read whole and is well formed."""
        if now >= self.deadline_at:
            return self._fail(ends.deadline())
        return [self._pick()]

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
        queue = others == 0 and not self._prospects.waits_s
        return self._ask(target, remote, now, queue=queue, others=others)

    def accept(
        self, items: Sequence[Delta | Usage | Embedding], now: float
    ) -> Sequence[Delta | Usage | Embedding]:
        """Pieces of the answer came in; returns those that the client is to get.

        Raises `splice.DoesNotFit` if this run was to repeat the answer and did not.
        """
        run = self._run
        assert run is not None, "accept() without an attempt"
        self.holder_watch.heard(now)
        if run.says(items):
            self._answer_begins(now)
        if self.splice is not None:
            items = self.splice.take(items)
        if self.streaming:
            run.gives(items)
        if items and type(items[-1]) is Usage:
            run.usage_told = True
            items = [*items[:-1], self._spent.labelled(items[-1], self._told_tokens)]
        return items

    def ended(self, now: float) -> list[Directive]:
        """The attempt returned in order."""
        if self.state is State.DONE:
            return []
        if self._run is None or not self._run.finish_seen:
            return self.failed(ends.cut(), now)
        return self._finish()

    def failed(self, failure: Failure, now: float) -> list[Directive]:
        """The attempt is over without a whole answer."""
        if self.state is State.DONE:
            return []
        run = self._run
        assert run is not None, "failed() without an attempt"
        failure = self._named(failure)
        if run.finish_seen and failure.kind in BROKE_OFF:
            return self._finish() if run.usage_told else [Say((self._counted(),)), *self._finish()]
        self._lose(run, failure)
        if self._stopping:
            return self._end(failure)
        if failure.kind in WAIT_ELSEWHERE and not (run.said and self.streaming):
            return self._go_on_after_busy(run, failure, now)
        self.tries.failed(failure.kind)
        self._leave_out(run.target, failure.kind)
        out = _avoided(run.target, failure)
        if self.tries.kill_engines:
            return [*out, Poison(), *self._fail(failure)]
        if self._is_hopeless(failure.kind):
            return [*out, *self._fail(failure)]
        return [*out, *self._go_on_after_failure(run, failure)]

    def hedged(self) -> tuple[int, int]:
        """A second run begins beside the first, which said nothing yet; its number and its name."""
        self.tries.ask()
        return self.tries.attempts, self.tries.asks

    def moved(self, target: Target, remote: bool, now: float) -> None:
        """Of two runs this one goes on alone."""
        self._run = RunUnderWay(target, remote)
        self.holder_watch = HolderWatch(remote=remote)
        self.holder_watch.heard(now)

    def lost_one(self, target: Target, failure: Failure) -> list[Directive]:
        """One of two runs is over without a word of an answer, and the other goes on."""
        if failure.kind == FailureKind.CANCELLED:
            failure = ends.given_up(failure)
        self._lost = (*self._lost, Run(target.node, failure.kind))
        if failure.kind in WAIT_ELSEWHERE:
            self.tries.nothing_ran()
            return []
        self.tries.failed(failure.kind)
        self._leave_out(target, failure.kind)
        return _avoided(target, failure)

    def client_gone(self) -> str | None:
        """The client went away: why to abort the attempt, or None if there is nothing to abort."""
        return self._abort(ends.client_left())

    def stop(self) -> str | None:
        """This entry ends and nobody waits for this one: why to abort the attempt, or None."""
        self._stopping = True
        self._last = ends.stopped()
        return self._abort(self._last)

    def tick(self, now: float) -> str | None:
        """A watch ran out: why to abort the attempt, or None if all is well."""
        if now >= self.deadline_at:
            return self._abort(ends.deadline())
        if self.holder_watch.is_gone(now):
            return self._abort(ends.unheard())
        return None

    @property
    def wake_at(self) -> float:
        """When `tick` or the watch has something to say, if nothing happens before."""
        return min(self.deadline_at, self.holder_watch.wake_at)

    @property
    def abort_reason(self) -> str | None:
        """Why the attempt that is about to begin is to be aborted at once, if it is."""
        return None if self._cause is None else self._cause.message

    @property
    def asked(self) -> NodeId | None:
        """The node that was asked last, if any was."""
        runs = self.runs
        return runs[-1].node if runs else None

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, the last of which brought the answer, or is under way."""
        return self._lost if self._run is None else (*self._lost, self._run.ended_by(""))

    # ---------------------------------------------------------------- who is asked

    def _pick(self) -> Pick:
        self.state = State.PICKING
        if not self._ways:
            return Pick(self._prospects.not_to_be_asked(None))
        way = self._ways[0]
        return Pick(self._prospects.not_to_be_asked(way), way, self._like)

    def _ask(
        self, target: Target, remote: bool, now: float, *, queue: bool, others: int = 0
    ) -> list[Directive]:
        self.state = State.ASKING
        if not self.delivered:
            self.first_at = None
        self.tries.ask()
        self.holder_watch = HolderWatch(remote=remote)
        self.holder_watch.asked(now)
        way, request = None, None
        if self._ways:
            assert self.splice is not None
            way = self._ways[0]
            request = self.splice.begin(way)
        self._run = RunUnderWay(target, remote, way, queue)
        wait_s = self._queue_for_s(now) if queue else 0.0
        number, ask = self.tries.attempts, self.tries.asks
        return [Attempt(target, number, wait_s, ask, way, request, others)]

    def _queue_for_s(self, now: float) -> float:
        """How long it may queue from now on; what it has queued elsewhere counts."""
        if self._queue_until == math.inf:
            self._queue_until = min(now + self.queue_wait_s, self.deadline_at)
        return max(0.0, self._queue_until - now)

    def _nobody_left(self, now: float) -> list[Directive]:
        """Nobody new to ask: queue at the best of the busy ones, or give up."""
        queue = self._prospects.shortest_queue()
        if queue is not None and now < self.deadline_at:
            return self._ask(queue.target, queue.remote, now, queue=True)
        if len(self._ways) > 1:
            self._ways.pop(0)
            return [self._pick()]
        if waits_s := self._prospects.waits_s:
            return self._fail(ends.all_busy(waits_s))
        return self._fail(self._last)

    # ------------------------------------------------------------- after a failure

    def _named(self, failure: Failure) -> Failure:
        """What the end of a run is to be called: this entry may have aborted it, and knows why."""
        if self._cause is not None:
            failure, self._cause = self._cause, None
        elif failure.kind == FailureKind.CANCELLED:
            failure = ends.given_up(failure)
        self._last = failure
        return failure

    def _lose(self, run: RunUnderWay, failure: Failure) -> None:
        """That run is over, and was not the answer's last."""
        self._lost = (*self._lost, run.ended_by(failure.kind))
        self._run = None
        self.holder_watch.stop()
        if run.said:
            self._spent.lost(self._told_tokens, run.said_tokens)

    def _leave_out(self, target: Target, kind: str) -> None:
        """That holder is not asked again, at all or in this way."""
        if kind == FailureKind.UNSUPPORTED and self._ways[:1] == [Way.CONTINUE]:
            self._prospects.cannot_continue(target)
            self.tries.nothing_ran()
        elif kind == FailureKind.DIVERGED:
            del self._ways[:1]  # the same engine may well go on in the other way
        else:
            self._prospects.rule_out(target)

    def _is_hopeless(self, kind: str) -> bool:
        """Whether nobody else is to be asked."""
        no_way = kind == FailureKind.DIVERGED and not self._ways
        return no_way or kind in FINAL or self.tries.are_spent

    def _go_on_after_failure(self, run: RunUnderWay, failure: Failure) -> list[Directive]:
        # A run that took the stream further was worth its while: what replaces it is no storm.
        self._retrying = self._retrying or not (run.gave or failure.kind in COSTS_NOTHING)
        self._prospects.may_have_room()
        if run.said and self.streaming and failure.kind != FailureKind.DIVERGED:
            return self._go_on_with_the_stream(run.target, failure)
        return [self._pick()]

    def _go_on_with_the_stream(self, target: Target, failure: Failure) -> list[Directive]:
        """It broke off: look for somebody who goes on with it."""
        self._ways = [] if self.splice is None else self.splice.ways()
        if not self._ways:
            return self._fail(failure)
        assert self.splice is not None
        if self.splice.is_full():
            end = Say((Delta(finish_reason="length"), self.splice.usage()))
            return [end, *self._finish()]
        self._like = target
        self._prospects.may_continue()
        return [self._pick()]

    def _go_on_after_busy(self, run: RunUnderWay, failure: Failure, now: float) -> list[Directive]:
        self.tries.nothing_ran()
        if failure.kind == FailureKind.DRAINING:
            self._prospects.rule_out(run.target)
        else:
            self._prospects.was_busy(Busy(failure.retry_after_s or 0.0, run.target, run.remote))
        if run.queued and failure.kind == FailureKind.BUSY:
            return self._fail(ends.all_busy(self._prospects.waits_s))
        if self.tries.may_repick:
            return [self._pick()]
        return self._nobody_left(now)

    # ------------------------------------------------------------------- the answer

    def _answer_begins(self, now: float) -> None:
        if self.first_at is None:
            self.first_at = now
        if self.streaming:
            self.delivered = True
            self.state = State.STREAMING

    @property
    def _told_tokens(self) -> int:
        return 0 if self.splice is None else self.splice.told_tokens

    def _counted(self) -> Usage:
        """The usage of an answer whose engine died before it told."""
        if self.splice is not None:
            return self._spent.labelled(self.splice.usage(), self._told_tokens)
        return Usage(completion_tokens=0 if self._run is None else self._run.said_tokens)

    # --------------------------------------------------------------------- the end

    def _abort(self, cause: Failure) -> str | None:
        if self.state is State.DONE or self._cause is not None:
            return None
        self._cause = cause
        return cause.message

    def _finish(self) -> list[Directive]:
        self.state = State.DONE
        self.holder_watch.stop()
        return [Finish()]

    def _fail(self, failure: Failure | None) -> list[Directive]:
        """`failure` None: there was nobody to ask."""
        if failure is None:
            failure = ends.nobody()
        elif failure.kind in NOBODY_THERE and not self.delivered:
            failure = ends.nobody(failure.message)  # nothing ran: a later try may well succeed
        return self._end(failure)

    def _end(self, failure: Failure) -> list[Directive]:
        self.state = State.DONE
        self.holder_watch.stop()
        return [Fail(failure, in_stream=self.delivered)]


def _avoided(target: Target, failure: Failure) -> list[Directive]:
    """What others are told of a holder that failed."""
    return [] if failure.kind in BLAMELESS else [Avoid(target, failure)]
