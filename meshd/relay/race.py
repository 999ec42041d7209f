"""Two runs of one request, of which the first to say something is the answer ("hedging").  Pure.

    ALONE --late, a second one begins--> RACING --one says something--> WON
      `------- says something ----------------------------------------> WON
    RACING --one fails--> the other is ALONE, for good;  ALONE --fails--> LOST

Whatever comes before a run's first piece of an answer is kept for it; of the run that was beaten
nothing is ever passed on (relay/DESIGN.md, "Hedging").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshd.inference import Delta, Embedding, Failure, FailureKind
from meshd.relay.holder_watch import HolderWatch
from meshd.relay.sinks import AnswerItem
from meshd.routing.catalogue import Target


@dataclass(eq=False, slots=True)
class Racer:
    """One of the runs."""

    target: Target
    remote: bool
    number: int
    """Which attempt of the request it is."""
    watch: HolderWatch = field(init=False)
    """Of its holder, until one of the runs has won."""
    kept: list[AnswerItem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = HolderWatch(remote=self.remote)


class Race:
    """One attempt that may become two."""

    def __init__(self, first: Racer, late_at: float) -> None:
        self.runs = [first]
        """Those that have not failed and were not beaten."""
        self.winner: Racer | None = None
        self._late_at = late_at

    # ------------------------------------------------------------------ events

    def is_late(self, now: float) -> bool:
        """Whether it is time to look for a second run.  True once."""
        late = now >= self._late_at and self.winner is None
        if late:
            self._late_at = math.inf
        return late

    def begins(self, second: Racer) -> bool:
        """A second run was found; whether it is to begin still."""
        if self.winner is not None or len(self.runs) != 1:
            return False
        self.runs.append(second)
        return True

    def says(self, run: Racer, items: Sequence[AnswerItem]) -> tuple[Sequence[AnswerItem], bool]:
        """What of these is to be passed on, and whether this run won just now."""
        if self.winner is run:
            return items, False
        if self.winner is not None or run not in self.runs:
            return (), False
        run.kept.extend(items)
        if not any(map(_is_answer, items)):
            return (), False
        self.winner, kept = run, run.kept
        run.kept = []
        return kept, True

    def beaten(self) -> list[Racer]:
        """The runs to call off, after one has won."""
        out = [run for run in self.runs if run is not self.winner]
        self.runs = [run for run in self.runs if run is self.winner]
        return out

    def failed(self, run: Racer) -> bool:
        """That run is over without an answer; whether the other one goes on."""
        if run in self.runs:
            self.runs.remove(run)
        self._late_at = math.inf
        return self.winner is not run and bool(self.runs)

    def silent(self, now: float) -> list[Racer]:
        """The runs to be given up, whose holders were not heard for too long; each once."""
        if self.winner is not None:
            return []
        out = [run for run in self.runs if run.watch.is_gone(now)]
        for run in out:
            run.watch.stop()
        return out

    def was_deaf(self, late_s: float) -> None:
        """This process did not get to listen for so long: what arrived is still to be read."""
        for run in self.runs:
            run.watch.was_deaf(late_s)

    @property
    def wake_at(self) -> float:
        """When `is_late` or `silent` has something to say, if nothing happens before."""
        if self.winner is not None:
            return math.inf
        return min(self._late_at, *(run.watch.gone_at for run in self.runs), math.inf)


def _is_answer(item: AnswerItem) -> bool:
    if isinstance(item, Delta):
        return item.has_content() or item.finish_reason is not None
    return isinstance(item, Embedding)


def ends_both(failure: Failure) -> bool:
    """Whether the other run would fail so too: it is the request's own fault."""
    return failure.kind in (FailureKind.BAD_REQUEST, FailureKind.NO_ROOM)
