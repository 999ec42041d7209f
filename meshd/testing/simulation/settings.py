"""What a seed chose, as it is set: engines of that kind, and bounds of that size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from unittest.mock import patch

from meshd import limits
from meshd.testing.memory_answers import Template
from meshd.testing.memory_engine import MemoryEngine
from meshd.testing.simulation.options import EngineOptions, Options

_WAITS_MIN: Final = 2
"""First tokens that an entry has to have seen before it hedges."""


def engine_of(options: EngineOptions, *, thoughts: int) -> MemoryEngine:
    """An engine with the one model of all worlds, which thinks so many words first."""
    return MemoryEngine(
        "tiny",
        options.dialect,
        slots=options.slots,
        tokens_per_s=options.tokens_per_s,
        prefill_s=options.prefill_s,
        load_s=options.load_s,
        digest=options.digest,
        thoughts=thoughts,
        template=Template(options.continues, options.raw_continues),
    )


@contextmanager
def limits_of(options: Options) -> Iterator[None]:
    """Bounds that are so large in production that nothing in half a minute would reach them."""
    with (
        patch.object(limits, "RECORD_SNAPSHOT_EVERY", options.snapshot_every),
        patch.object(limits, "HEDGE_WAITS_MIN", _WAITS_MIN),
        patch.object(limits, "RAFT_TRAILING", min(limits.RAFT_TRAILING, options.snapshot_every)),
    ):
        yield
