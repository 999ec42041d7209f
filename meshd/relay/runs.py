"""The runs that one answer took: who had them, how they went, what they cost.  Pure.

A run that broke off was paid for all the same: its prompt was read, and what it said was generated.
It never told how many tokens that was, so its pieces are counted, and its prompt is taken to have
been as long as that of the run that came to an end.
"""

from __future__ import annotations

import msgspec

from meshd.ids import NodeId
from meshd.inference import Usage


class Run(msgspec.Struct, frozen=True, gc=False):
    """One of them."""

    node: NodeId
    failure: str
    """A `FailureKind`; "": it came to an end, or is under way."""
    way: str = ""
    """How it went on with what others had said: continue | regenerate; "": from the start."""


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
