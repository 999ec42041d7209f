"""What a starting daemon shows the person who started it, and the one thing that it asks.  Pure.

`node.py` calls these as things happen; `cli/screen.py` writes them on a terminal, tests collect
them.  Everything that is not for this person goes to the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SightedMesh:
    """A mesh that mDNS shows."""

    mesh: str
    """Its id."""
    node: str
    """The name of a member that announces it."""
    address: str
    """HOST:PORT, as `--join` takes it."""
    ca: str = ""
    """The id of its CA's key, as that member says."""


class Screen(Protocol):
    """One daemon's screen.  All but `confirm_digits` return at once and never raise.

    A mesh is called by its name, or by its id, which is shown in short.
    """

    def founded(self, *, name: str, mesh: str, join_addresses: Sequence[str]) -> None:
        """A new mesh of one was made; `join_addresses` (HOST:PORT, best first) reach it."""
        ...

    def meshes_in_sight(self, meshes: Sequence[SightedMesh], *, choose: bool = False) -> None:
        """Others are announced on this network: how to join one of them.

        `choose`: this machine was told to join the one in sight, and there are several.
        """
        ...

    def joining(self, *, address: str, with_token: bool) -> None:
        """A member is being asked to let this machine in."""
        ...

    @property
    def can_ask(self) -> bool:
        """Whether there is a person who could answer `confirm_digits`."""
        ...

    async def confirm_digits(self, *, digits: str, name: str, address: str) -> bool:
        """Pairing, on the newcomer: do the digits stand on a screen of that mesh too?

        `name` is the mesh's, `address` that of the member that was asked.  False if the person
        says no, or if there is nobody to ask.  May be cancelled.
        """
        ...

    def waiting_for_approval(self, *, digits: str) -> None:
        """Pairing, on the newcomer: yes was said here; now somebody must say it there."""
        ...

    def joined(self, *, name: str, mesh: str, members: Sequence[str], wanted: str = "") -> None:
        """This machine is a member now; `wanted` is the name it asked for, if that was taken."""
        ...

    def newcomer(self, *, digits: str, name: str, address: str) -> None:
        """Pairing, on a member: somebody waits for `meshd approve DIGITS`."""
        ...

    def admitted(self, *, name: str, address: str) -> None:
        """Somebody has become a member."""
        ...

    def serving(
        self,
        *,
        name: str,
        client_url: str,
        peer_port: int,
        nodes: int,
        models: Sequence[str],
        engines: Sequence[str],
    ) -> None:
        """Requests are taken at `client_url` from now on.  Names of models and engines here."""
        ...

    def draining(self, *, running: int, timeout_s: float) -> None:
        """Stopping: no new requests; those that run get `timeout_s` to end."""
        ...

    def stopped(self, *, unfinished: int) -> None:
        """All is closed; so many requests were cut."""
        ...

    def warning(self, sentence: str) -> None:
        """Something to know or to do, in a sentence."""
        ...
