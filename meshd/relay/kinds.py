"""What the kinds of failures mean to a request.  Pure."""

from __future__ import annotations

from typing import Final

from meshd.inference import FailureKind

BROKE_OFF: Final = frozenset({FailureKind.BROKEN, FailureKind.SILENT, FailureKind.HOLDER_LOST})
"""The answer broke off; all of it may have been there."""
ENGINE_DIED: Final = frozenset({FailureKind.BROKEN, FailureKind.SILENT})
"""Perhaps by this very request."""
FINAL: Final = frozenset(
    {
        FailureKind.BAD_REQUEST,
        FailureKind.DEADLINE,
        FailureKind.CANCELLED,
        FailureKind.NO_ROOM,
    }
)
"""Another holder would say the same, or nobody is to be asked any more."""
WAIT_ELSEWHERE: Final = frozenset({FailureKind.BUSY, FailureKind.DRAINING})
"""Nothing ran there."""
NOT_BEGUN: Final = frozenset({FailureKind.UNREACHABLE, FailureKind.ENGINE_AWAY})
"""Node or engine could not be dialled, so that nothing ran."""
NOBODY_THERE: Final = NOT_BEGUN | {FailureKind.DRAINING}
"""A later try may well succeed."""
NOT_ITS_FAULT: Final = frozenset(
    {
        FailureKind.NOT_FOUND,
        FailureKind.CONTEXT_OVERFLOW,
        FailureKind.UNSUPPORTED,
        FailureKind.DIVERGED,
    }
)
"""Another holder may be able to; this one is not avoided."""
BLAMELESS: Final = FINAL | NOT_ITS_FAULT
"""Nothing is held against the holder."""
COSTS_NOTHING: Final = NOT_ITS_FAULT | NOT_BEGUN
"""Nothing that an engine was at was lost by it: the next attempt needs no budget."""
OF_THE_NODE: Final = frozenset({FailureKind.HOLDER_LOST, FailureKind.UNREACHABLE})
"""The node itself does not answer, not only an engine of it."""
