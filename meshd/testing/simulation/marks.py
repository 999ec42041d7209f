"""What has to happen in one of many seeds, or the seeds test less than they seem to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from meshd.testing.simulation.options import KINDS

_RELAY: Final = (
    "retries",
    "went_on_by_continue",
    "went_on_by_regenerate",
    "failed_in_stream",
    "client_gone",
    "log: an answer goes on over another link",
    "log: an attempt failed",
    "log: a holder failed",
    "whole after more than one attempt",
    "thoughts after more than one attempt",
)
_JOBS: Final = (
    "log: a claim under which nothing runs is given back",
    "log: a keyed request stops here",
    "log: a lease is over",
    "log: a job runs",
    "log: an answer was withheld",
    "log: a run is not heard",
    "answer: replayed",
    "went on by its key",
    "went on by its job",
    "went on after a number of events",
)
_RECORD: Final = (
    "log: the record cannot be written from here",
    "log: the record can be written again",
    "log: the record stopped here; trying again",
    "log: voters",
    "log: a write that a crash had broken off was cut",
)
_MEMBERS: Final = (
    "a node left",
    "a node joined under load",
    "log: the mesh has another CA",
    "log: woke up",
    "log: gossip key rotated",
)
_ANSWERS: Final = (
    *(f"answer: {how}" for how in ("whole", "error", "refused", "broken", "left")),
    "answer: not without a quorum",
)

MUST_HAPPEN: Final = (
    *(f"fault: {kind}" for kind in KINDS),
    *_RELAY,
    *_JOBS,
    *_RECORD,
    *_MEMBERS,
    *_ANSWERS,
)
"""Marks of a `Story`: the log lines of nodes, what they counted, and what was injected."""

ENOUGH: Final = 300
"""Seeds in which all of it happens."""


def never_happened(marks: Mapping[str, int], seeds: int) -> list[str]:
    """What did not, though there were enough seeds for it."""
    return [mark for mark in MUST_HAPPEN if seeds >= ENOUGH and not marks.get(mark)]
