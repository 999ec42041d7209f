"""One run on one engine, as its holder sees it: passed on, watched, timed, learned from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import trio

from meshd.backends import RunControl
from meshd.http import Sweeper
from meshd.inference import Delta, Embedding, Failure, Usage
from meshd.relay.sinks import AnswerSink
from meshd.relay.watchdog import Watchdog
from meshd.routing.admission import Lane
from meshd.routing.rates import Observation, RateBook


class EngineRun:
    """Stands between the engine and the sink of one answer.

    `emit` is what the engine's events go into (`emit_whole`: its vectors).  After `over` nothing is
    watched any more.
    """

    __slots__ = (
        "_control",
        "_first_at",
        "_lane",
        "_last_at",
        "_rates",
        "_sink",
        "_started_at",
        "_suspect",
        "_sweeper",
        "_usage",
        "_watch",
        "dog",
        "hung",
    )

    def __init__(
        self,
        lane: Lane,
        sink: AnswerSink,
        rates: RateBook,
        dog: Watchdog,
        control: RunControl,
        sweeper: Sweeper,
        suspect: Callable[[EngineRun], None],
    ) -> None:
        """`suspect` is told when the engine's silence is suspicious; `examined` answers it."""
        self.dog = dog
        self.hung: Failure | None = None
        """Why the engine was given up, if it was."""
        self._lane, self._sink, self._rates = lane, sink, rates
        self._control, self._sweeper, self._suspect = control, sweeper, suspect
        self._started_at = dog.last_at
        self._first_at = self._last_at = 0.0
        self._usage: Usage | None = None
        self._watch = sweeper.watch(self._bark, dog.due_at)

    async def emit(self, events: Sequence[Delta | Usage]) -> None:
        """Pass them on, and wait until the sink has taken them."""
        dog, watch = self.dog, self._watch
        watch.at = math.inf  # a client that reads slowly is not a hung engine
        now = trio.current_time()
        gap_s = dog.event(now)
        if self._first_at:
            dog.expect(self._rates.observe_gap(self._lane, gap_s))
        else:
            self._first_at = now
        self._last_at = now
        if type(events[-1]) is Usage:
            self._usage = events[-1]
        await self._sink.emit(events)
        dog.passed_on(trio.current_time())
        watch.at = dog.due_at

    async def emit_whole(self, embedding: Embedding) -> None:
        """All that the engine has to say came at once: its silence after that means nothing."""
        self._watch.at = math.inf
        self.dog.event(trio.current_time())
        await self._sink.emit([embedding])

    def examined(self, lives: bool) -> None:
        """The engine was asked whether it lives."""
        now = trio.current_time()
        if lives:
            self._watch.at = self.dog.lives(now)
        else:
            self._give_up(now)

    def over(self) -> None:
        """However it ended.  A run that told its token counts teaches the lane's rates."""
        self._sweeper.unwatch(self._watch)
        usage = self._usage
        if usage is None or not self._first_at:
            return
        load_s = usage.load_ns / 1e9
        waited_s = max(0.0, self._first_at - self._started_at - load_s)
        self._rates.observe(
            self._lane,
            Observation(
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                prefill_s=usage.prompt_ns / 1e9 or waited_s,
                decode_s=usage.completion_ns / 1e9 or self._last_at - self._first_at,
                load_s=load_s,
            ),
        )

    def _bark(self) -> None:
        now = trio.current_time()
        if now >= self.dog.hung_at:
            self._give_up(now)
        else:
            self._watch.at = self.dog.hung_at  # should nobody come to examine it
            self._suspect(self)

    def _give_up(self, now: float) -> None:
        if self.hung is None:
            self.hung = self.dog.failure(now)
            self._control.abort(self.hung.message)
