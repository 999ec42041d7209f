"""Where answers go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from meshd.errors import MeshdError
from meshd.inference import Delta, Embedding, Usage

AnswerItem = Delta | Usage | Embedding


class SinkClosed(MeshdError):
    """Whoever the answer was for went away while it was being written."""


class AnswerSink(Protocol):
    """Where an answer goes."""

    async def emit(self, items: Sequence[AnswerItem]) -> None:
        """Pass these on, in order; waiting is the backpressure.

        Raises SinkClosed, or BackendFailed for what cannot be passed on.
        """
        ...

    def begun(self) -> None:
        """The request queues no more: an engine has it."""
        ...
