"""What end-to-end tests share: generated models and a mesh of real daemons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from meshd.testing.daemons import Daemon, Gguf, joined
from meshd.testing.models import Recipe, build

COUNTER = Recipe()
LONG = Recipe(words=20_000, context_tokens=65_536, name="long")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with counter.gguf (512 words) and long.gguf (20,000 words)."""
    if find_spec("xllamacpp") is None:
        pytest.skip("the bundled engine is not installed: pip install 'meshd[engine]'")
    folder = tmp_path_factory.mktemp("models")
    (folder / "counter.gguf").write_bytes(build(COUNTER))
    (folder / "long.gguf").write_bytes(build(LONG))
    return folder


@pytest.fixture(scope="module")
def pair(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """Two daemons in one mesh: `only-a` is at a, `only-b` (and an embedding model) at b."""
    folder = tmp_path_factory.mktemp("pair")
    counter = models / "counter.gguf"
    a = Daemon(folder / "a", "a", ggufs=[Gguf(counter, "only-a"), Gguf(counter, "both")])
    b = Daemon(
        folder / "b",
        "b",
        ggufs=[
            Gguf(counter, "only-b"),
            Gguf(counter, "both"),
            Gguf(counter, "vectors", embedding=True),
        ],
    )
    with ExitStack() as stack:
        stack.callback(b.close)
        stack.callback(a.close)
        a.start()
        joined(a, [b])
        for daemon in (a, b):
            daemon.wait_until(lambda status: status.models == 4, "it knows all four models")
        yield [a, b]
