"""Real llama.cpp and real Ollama, and the manager of backends that looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from meshd.backends import Backends
from meshd.testing.engines import (
    CLOSED,
    THINK,
    TOOL,
    RealLlama,
    RealOllama,
    why_no_llama,
    why_no_ollama,
)
from meshd.testing.models import Recipe, build
from tests.e2e.engines.asking import COUNTER, HALVES, SLOW, THINKING, WHITE, Start, serving
from tests.e2e.weather import CALLING


@pytest.fixture(scope="package")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Path]:
    """Where the file of a recipe's model is."""
    folder = tmp_path_factory.mktemp("models")
    known: dict[Recipe, Path] = {}

    def path(recipe: Recipe) -> Path:
        if recipe not in known:
            known[recipe] = folder / f"model-{len(known)}.gguf"
            known[recipe].write_bytes(build(recipe))
        return known[recipe]

    return path


@pytest.fixture
def llama(gguf: Callable[[Recipe], Path]) -> Iterator[Start]:
    """Starts llama.cpp servers that end with the test."""
    if why_no_llama():
        pytest.skip(why_no_llama())
    engines: list[RealLlama] = []

    def start(recipe: Recipe = COUNTER, **settings: object) -> RealLlama:
        engine = RealLlama(gguf(recipe), **settings)  # type: ignore[arg-type]
        engines.append(engine)
        return engine.start()

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture(scope="package")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealOllama]:
    """One Ollama with a model for each purpose, for all tests here."""
    if why_no_ollama():
        pytest.skip(why_no_ollama())
    with RealOllama(tmp_path_factory.mktemp("ollama")) as engine:
        engine.load("tiny", build(COUNTER))
        engine.load("thinking", build(THINKING), template=THINK)
        engine.load("closed", build(COUNTER), template=CLOSED)
        engine.load("calling", build(CALLING), template=TOOL)
        engine.load("halves", build(HALVES))
        engine.load("white", build(WHITE))
        engine.load("slow", build(SLOW), parameters={"num_ctx": 4096})
        yield engine


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Backends]]:
    def open_(*urls: str, bundled: Sequence[Path] = ()) -> AbstractAsyncContextManager[Backends]:
        return serving(tmp_path / "claims", *urls, bundled=bundled)

    return open_


@pytest.fixture(params=["llama.cpp", "ollama"])
def engine_url(request: pytest.FixtureRequest) -> Callable[[Recipe], str]:
    """The URL of an engine of each kind that has the model."""
    if request.param == "ollama":
        url = request.getfixturevalue("ollama").url
        return lambda recipe: url
    start = request.getfixturevalue("llama")
    names = {
        THINKING: "thinking",
        CALLING: "calling",
        HALVES: "halves",
        SLOW: "slow",
        WHITE: "white",
    }
    options = ("--kv-f32", "--embedding")
    return lambda recipe: start(recipe, alias=names.get(recipe, "tiny"), options=options).url
