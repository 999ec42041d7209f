"""What a run leaves behind: the form that `--json` prints, the report draws and a verdict judges.

All times are seconds since the run's first request was due.  Pure.
"""

from __future__ import annotations

from typing import Final

import msgspec

from meshd.testing.checker import Answer, JobOperation, Tally

VERSION: Final = 1
LATE_S: Final = 0.5
"""A loop that is later than that had too little of the processor to tell much: holders are given up
after 1.5 s of silence, and a dial after 1 s."""

Value = str | int | float | bool


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """When one of a fault's nodes was hit."""

    node: str
    began_at_s: float
    ended_at_s: float | None = None
    """When it served again; None: it never did."""


class FaultRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One fault as it was injected."""

    name: str
    """Of the nemesis, e.g. "kill"."""
    parameters: dict[str, Value] = {}
    """As the scenario asked for them."""
    nodes: tuple[str, ...]
    """Whom it hit; () for all links."""
    did: str
    """A sentence: "killed anna's daemon (-9), holder of 4 streams"."""
    began_at_s: float
    ended_at_s: float | None = None
    """When it was healed; None: it is for good, or a moment."""
    outages: tuple[Outage, ...] | None = None
    """Whom it hit when, if each node had a time of its own; None: all of them for all of it."""

    def each(self) -> list[FaultRecord]:
        """The same, one record for each time at which it hit somebody."""
        if self.outages is None:
            return [self]
        return [
            msgspec.structs.replace(
                self,
                nodes=(outage.node,),
                began_at_s=outage.began_at_s,
                ended_at_s=outage.ended_at_s,
                outages=None,
            )
            for outage in self.outages
        ]


class NotTested(msgspec.Struct, frozen=True, kw_only=True):
    """A fault that was asked for and could not be injected.  It never counts as passed."""

    name: str
    why: str
    """A sentence."""
    at_s: float | None = None
    """None: known before the run began."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario on one mesh."""

    version: int = VERSION
    scenario: str
    about: str
    """The scenario's own sentence."""
    given_as: str = ""
    """The scenario as it was asked for: a name, or the path of a file."""
    flags: tuple[str, ...] = ()
    """The words of the command that said on which mesh; without secrets."""
    seed: int
    nodes: tuple[str, ...]
    """All that took part, also those that joined meanwhile."""
    rate_per_s: float
    duration_s: float
    began: str
    """The wall clock when it began, RFC 3339."""
    machine: str
    """E.g. "Linux 6.1, 2 cores, Python 3.11.7"."""
    meshd: str
    """The version of meshd."""
    faults: tuple[FaultRecord, ...] = ()
    not_tested: tuple[NotTested, ...] = ()
    answers: tuple[Answer, ...] = ()
    operations: tuple[JobOperation, ...] = ()
    """What clients asked of queued jobs, and were told."""
    healed_at_s: float | None = None
    """When all faults were over and the mesh was whole again; None: it never was."""
    late_s: float = 0.0
    """How late the harness's own loop was at worst: it lived on the same machine as the mesh."""
    tally: Tally
    resumed: int = 0
    """How many answers went on over another link: the same run, and no mark of it in the answer."""
    violations: tuple[str, ...] = ()
    """All that must not be: the tally's and those of the mesh after the heal."""
    notes: tuple[str, ...] = ()
    """What else a reader should know, as sentences: where state was kept, what was unusual."""

    @property
    def ok(self) -> bool:
        return not self.violations

    @property
    def busy(self) -> str:
        """A warning if the machine was too busy for this run to tell much; else ""."""
        if self.late_s <= LATE_S:
            return ""
        return (
            f"this machine was too busy: the harness was up to {self.late_s:.1f} s late, as the"
            " daemons were; run fewer nodes, at a lower rate, or with nothing beside it"
        )


class RunSet(msgspec.Struct, frozen=True, kw_only=True):
    """What one `meshd-chaos run` came to."""

    version: int = VERSION
    runs: tuple[Run, ...]
    not_run: tuple[NotTested, ...] = ()
    """Scenarios that this machine does not allow, or had no mesh to run on; the name is theirs."""
