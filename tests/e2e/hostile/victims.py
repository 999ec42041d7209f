"""The daemons that are attacked, and how they count it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meshd import limits
from meshd.testing.daemons import Daemon
from tests.e2e.attackers import Impostor, count, port_of

BODY_BYTES = 64 * limits.KIB
MIB = limits.MIB


@dataclass
class Victims:
    """`a` founded the mesh and has the model `m`; `c` is in it; `b` is too, but is an impostor."""

    a: Daemon
    c: Daemon
    b: Impostor
    other: Impostor
    """Of another mesh."""
    token: str
    """That b and c joined with."""
    folder: Path

    @property
    def api_port(self) -> int:
        return port_of(self.a.api_url)

    @property
    def peer_port(self) -> int:
        return port_of(self.a.peer_address)


def counts(daemon: Daemon, attack: Callable[[], object], *names: str) -> int:
    """By how much an attack moves these counters."""
    before = count(daemon, *names)
    attack()
    return count(daemon, *names) - before
