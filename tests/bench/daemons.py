"""The real daemon, with everything on, as a contender: one node, or an entry and a holder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from meshd.testing.daemons import Daemon, joined

SLOTS = 512
"""More than any benchmark has clients: admission is on, but it turns nobody away."""


def _holder(folder: Path, backend: int) -> Daemon:
    settings = f'[[backend]]\nurl = "http://127.0.0.1:{backend}"\nslots = {SLOTS}'
    return Daemon(folder / "holder", "holder", settings=settings)


def _port(daemon: Daemon) -> int:
    return int(daemon.api_url.rpartition(":")[2])


@contextmanager
def mesh(backend: int, *, hops: int) -> Iterator[list[Daemon]]:
    """Daemons whose first is the entry and whose last has the backend, all serving its model."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshd-bench-")))
        holder = _holder(folder, backend)
        daemons = [holder]
        stack.callback(holder.close)
        holder.start()
        if hops == 2:
            entry = Daemon(folder / "entry", "entry")
            stack.callback(entry.close)
            joined(holder, [entry])
            daemons = [entry, holder]
        for daemon in daemons:
            daemon.wait_until(lambda status: status.models > 0, "it knows the model")
        yield daemons


@contextmanager
def one_hop(backend: int) -> Iterator[int]:
    """A contender: one daemon in front of the backend."""
    with mesh(backend, hops=1) as daemons:
        yield _port(daemons[0])


@contextmanager
def two_hops(backend: int) -> Iterator[int]:
    """A contender: an entry without engines, and a holder."""
    with mesh(backend, hops=2) as daemons:
        yield _port(daemons[0])
