"""What every nemesis is: a fault with parameters, injected into a mesh and healed again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

import msgspec

from meshd.errors import MeshdError
from meshd_chaos.mesh import Mesh
from meshd_chaos.records import Outage


class CannotInject(MeshdError):
    """Why a fault could not be injected now, as a sentence.  It counts as not tested."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A fault as it was injected."""

    nodes: tuple[str, ...]
    """Whom it hit; () for all links."""
    did: str
    """A sentence, e.g. "killed anna's daemon (-9), holder of 4 streams"."""
    is_moment: bool = False
    """It was over at once: there is nothing to heal."""


class Nemesis(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, dict=True):
    """One fault; its fields are what a scenario may say of it.

    Each is injected once and healed once: make another for another time.
    """

    def __post_init__(self) -> None:
        self._remedies: list[Callable[[], Awaitable[None] | None]] = []

    @classmethod
    def probe(cls) -> str:
        """Why this machine cannot inject it, as a sentence; "": it can."""
        return ""

    async def inject(self, mesh: Mesh, chance: Random) -> Hit:
        """Do it, to whom its parameters and chance say.

        Raises CannotInject if it cannot be done now; then nothing was done.
        """
        raise NotImplementedError  # each fault has its own; a msgspec.Struct cannot be an ABC

    async def heal(self, mesh: Mesh) -> None:
        """End it, the last thing done first.  The mesh then needs time to be whole.

        Raises MeshdError if something cannot be undone.
        """
        while self._remedies:
            done = self._remedies.pop()()
            if done is not None:
                await done

    def outages(self) -> tuple[Outage, ...] | None:
        """Whom it hit when, once it is healed, in trio's time; None: all that `inject` named, for
        all the time in between."""
        return None

    def remedy(self, undo: Callable[[], Awaitable[None] | None]) -> None:
        """What `heal` has to do."""
        self._remedies.append(undo)
