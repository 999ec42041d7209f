"""What a check found, in sentences for a person.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What is wrong."""

    NOT_LINEARIZABLE = "not linearizable"
    FENCE = "fence"  # it did not rise, was given twice, or a stale one was obeyed
    LOST = "lost"  # accepted, and never answered; acknowledged, and gone
    DOUBLED = "doubled"  # two answers to one question; text that came twice
    UNEXPECTED = "unexpected"  # an answer, a job or a result that nobody asked for or made
    WRONG = "wrong"  # differs from what an undisturbed run gives
    DIVERGED = "diverged"  # two nodes that say different things about one job
    UNFINISHED = "unfinished"  # still not at its end after everything was healed
    UNAVAILABLE = "unavailable"  # failed, refused or too slow once everything was healed
    FAILED = "failed"  # more explicit errors than a run may have


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that must not be."""

    kind: Kind
    subject: str
    sentence: str
    evidence: Sequence[object] = ()
    """The operations (requests, views) involved: as few as show it."""

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.sentence}", *(f"    {thing}" for thing in self.evidence)]
        return "\n".join(lines)


@dataclass
class Report:
    """What all checks together say.  Add them up with `+`."""

    violations: list[Violation] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    """Sentences about what could not be checked to the end.  That is a failure to check."""
    counts: Counter[str] = field(default_factory=Counter)
    """How much was looked at, and how it went: so that nobody takes nothing for success."""

    @property
    def ok(self) -> bool:
        """Nothing is wrong, and everything was looked at."""
        return not self.violations and not self.undecided

    def __add__(self, other: Report) -> Report:
        return Report(
            self.violations + other.violations,
            self.undecided + other.undecided,
            self.counts + other.counts,
        )

    def __str__(self) -> str:
        lines = [str(violation) for violation in self.violations]
        lines += [f"undecided: {sentence}" for sentence in self.undecided]
        looked_at = ", ".join(f"{count:,} {what}" for what, count in sorted(self.counts.items()))
        lines.append(f"{'ok' if self.ok else 'NOT ok'}: {looked_at or 'nothing was looked at'}")
        return "\n".join(lines)
