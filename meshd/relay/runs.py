"""The runs that one answer took: who had them, how they went, what they cost.  Pure.

A run that broke off was paid for all the same: its prompt was read, and what it said was generated.
It never told how many tokens that was, so its pieces are counted, and its prompt is taken to have
been as long as that of the run that came to an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from meshd.ids import NodeId
from meshd.inference import Delta, Embedding, Usage
from meshd.relay.splice import Way
from meshd.routing.catalogue import Target


class Run(msgspec.Struct, frozen=True, gc=False):
    """One of them."""

    node: NodeId
    failure: str
    """A `FailureKind`; "": it came to an end, or is under way."""
    way: str = ""
    """How it went on with what others had said: continue | regenerate; "": from the start."""


@dataclass(slots=True)
class RunUnderWay:
    """The one that is at the answer, and what it has said."""

    target: Target
    remote: bool
    way: Way | None = None
    """How it goes on with what others had said; None: from the start."""
    queued: bool = False
    """It was allowed to wait for room."""
    said: bool = False
    """Something of an answer came from it."""
    said_tokens: int = 0
    finish_seen: bool = False
    """All of the answer is here, but for what it cost."""
    gave: bool = False
    """The client of a stream was given something by it, that it did not have before."""
    usage_told: bool = False

    def says(self, items: Sequence[Delta | Usage | Embedding]) -> bool:
        """It says these; whether its answer begins with them."""
        said_before = self.said
        for item in items:
            if isinstance(item, Delta):
                self.said_tokens += item.finish_reason is None or item.has_content()
                if item.finish_reason is not None:
                    self.finish_seen = True
                if not self.said and item.has_content():
                    self.said = True
            elif isinstance(item, Embedding):
                self.said = self.finish_seen = True
        return self.said and not said_before

    def gives(self, items: Sequence[Delta | Usage | Embedding]) -> None:
        """The client of a stream gets these of it."""
        if not self.gave:
            self.gave = any(isinstance(item, Delta) and item.has_content() for item in items)

    def ended_by(self, failure: str) -> Run:
        """What is told of it when it is over; "": it came to an end, or is under way."""
        way = "" if self.way is None else self.way.name.lower()
        return Run(self.target.node, failure, way)


class Spent:
    """What an answer cost over all its runs, beside what its client got."""

    __slots__ = ("_completion_tokens", "_runs", "_told_tokens")

    def __init__(self) -> None:
        self._runs = 0
        self._told_tokens = 0
        self._completion_tokens = 0

    def lost(self, told_tokens: int, said_tokens: int) -> None:
        """A run broke off that had been told so many tokens of the answer, and said so many."""
        self._runs += 1
        self._told_tokens += told_tokens
        self._completion_tokens += said_tokens

    def labelled(self, usage: Usage, told_tokens: int) -> Usage:
        """The usage of the answer, with what was spent on it if that is more.

        `told_tokens`: of the run that came to an end.
        """
        if not self._runs:
            return usage
        told = self._told_tokens + told_tokens
        return msgspec.structs.replace(
            usage,
            spent_prompt_tokens=usage.prompt_tokens * (self._runs + 1) + told,
            spent_completion_tokens=(
                self._completion_tokens + max(0, usage.completion_tokens - told_tokens)
            ),
        )
