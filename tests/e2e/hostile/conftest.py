"""A mesh of real daemons for all attacks, and what must hold after each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshd.testing.daemons import Daemon, Gguf, joined
from tests.e2e.attackers import Impostor, ask, log_lines
from tests.e2e.hostile.victims import BODY_BYTES, Victims


@pytest.fixture(scope="package")
def mesh(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    """One mesh for all attacks: what one leaves behind the next would meet."""
    folder = tmp_path_factory.mktemp("hostile")
    settings = f"[limits]\nbody_bytes = {BODY_BYTES}"
    a = Daemon(folder / "a", "a", ggufs=[Gguf(models / "counter.gguf", "m")], settings=settings)
    b, c, other = (Daemon(folder / name, name) for name in ("b", "c", "other"))
    with ExitStack() as stack:
        for daemon in (a, b, c, other):
            stack.callback(daemon.close)
        a.start()
        other.start()
        joined(a, [b, c])
        assert (b.stop(), other.stop()) == (0, 0)
        for daemon in (a, c):
            daemon.wait_until(lambda s: s.models == 1, "it knows the model")
        yield Victims(a, c, Impostor(b.folder), Impostor(other.folder), b.token, folder)


@pytest.fixture(autouse=True)
def unharmed(mesh: Victims) -> Iterator[None]:
    """After every attack both members still answer, and nothing unforeseen is in their logs."""
    before = [len(log_lines(daemon)) for daemon in (mesh.a, mesh.c)]
    yield
    for daemon, lines in zip((mesh.a, mesh.c), before, strict=True):
        assert ask(daemon)
        new = log_lines(daemon)[lines:]
        assert not [line for line in new if "Traceback" in line or "Error" in line], new
