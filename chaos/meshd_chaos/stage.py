"""What a run needs of the mesh it runs on, whoever made that mesh.

`local_stage` starts one on this machine and can break all of it; `target` is one that exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from meshd.control import StatusReport
from meshd_chaos.excuses import Places
from meshd_chaos.records import NotTested, Outage
from meshd_chaos.schedule import Step
from meshd_chaos.workload import Planned


class Injected(msgspec.Struct, frozen=True, kw_only=True):
    """A fault that is in force."""

    nodes: tuple[str, ...]
    did: str
    """A sentence."""


class Stage(Protocol):
    """A mesh, and the ways to break it."""

    @property
    def models(self) -> tuple[str, ...]: ...

    @property
    def nodes(self) -> tuple[str, ...]:
        """All that took part, also those that have left."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """That every request to it needs."""
        ...

    def entries(self) -> Mapping[str, str]:
        """The base URL of each node that clients may ask, by its name, now."""
        ...

    def prompt(self, request: str) -> str:
        """What the request of that name asks."""
        ...

    def fit(self, requests: Sequence[Planned]) -> list[Planned]:
        """Those requests as they can be made there."""
        ...

    def expected(self, planned: Planned) -> tuple[str | None, str | None]:
        """(text, finish_reason) of an undisturbed answer; None where nobody knows."""
        ...

    async def places(self) -> Places:
        """Who has which model, and who votes."""
        ...

    def not_tested(self, names: set[str]) -> list[NotTested]:
        """Those of the faults that this machine or this mesh does not allow."""
        ...

    async def inject(self, step: Step) -> Injected:
        """Raises CannotInject: then nothing was done."""
        ...

    async def heal(self, step: Step) -> tuple[Outage, ...] | None:
        """End what `inject` began with that step; the nodes it hit serve again on return.

        Returns whom it hit when, in trio's time, if each had a time of its own.
        Raises MeshdError if something cannot be undone.
        """
        ...

    async def whole_again(self, timeout_s: float) -> list[str]:
        """Wait until all nodes see each other; sentences about those that do not in that time."""
        ...

    def notes(self, *, keep: bool) -> list[str]:
        """What a reader of the run should know of the mesh, as sentences.

        `keep`: something was wrong, so what may show why stays behind, where it can.
        """
        ...

    async def statuses(self) -> Mapping[str, StatusReport]:
        """What each daemon says of itself; of a mesh that is only asked: nothing."""
        ...
