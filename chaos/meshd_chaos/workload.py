"""What clients will ask for, and when: all of it from the seed.  Pure.

    for request in plan(mix, models=("poet", "clerk"), seed=7, rate_per_s=20, duration_s=60): ...

Arrivals are open-loop (a Poisson process): nobody waits for an answer before asking again, as the
users of a mesh do not wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from meshd.testing.checker import Mode

Weight = Annotated[int, Meta(ge=0, le=1000)]
Share = Annotated[float, Meta(ge=0, le=1)]
Tokens = Annotated[int, Meta(ge=1, le=4000)]
Dialect = Literal["openai", "ollama"]
ModeName = Literal["streamed", "whole", "keyed", "queued"]
Name = TypeVar("Name", bound=str)

PATHS: Final = {"openai": "/v1/chat/completions", "ollama": "/api/chat"}
_MODES: Final[dict[ModeName, int]] = {"streamed": 5, "whole": 2, "keyed": 2, "queued": 1}


class Mix(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scenario's `[workload]`."""

    modes: dict[ModeName, Weight] = msgspec.field(default_factory=lambda: dict(_MODES))
    """How many of each, as weights."""
    dialects: dict[Dialect, Weight] = msgspec.field(
        default_factory=lambda: {"openai": 2, "ollama": 1}
    )
    tokens: tuple[Tokens, Tokens] = (20, 120)
    """The shortest and the longest answer."""
    leaving: Share = 0.02
    """Of the streamed requests: clients that go away in the middle."""
    asked_again: Share = 0.2
    """Of the keyed requests: asked once more at another node when they are answered."""
    keyed_streamed: Share = 0.7
    """Of the keyed requests: streamed."""


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One request that will be made."""

    name: str
    at_s: float
    """Seconds after the first one was due."""
    mode: Mode
    dialect: Dialect
    """Of a queued one: that of the request that is queued."""
    streamed: bool
    model: str
    tokens: int
    leaves_after: int | None = None
    """Pieces of text after which the client goes away."""
    asks_again: bool = False
    seed: int
    """Of what is chosen on the way: entries, pauses."""


def plan(
    mix: Mix, *, models: Sequence[str], seed: int, rate_per_s: float, duration_s: float
) -> list[Planned]:
    """All requests of a run, in the order in which they are due."""
    chance = Random(f"workload {seed}")
    made: list[Planned] = []
    at_s = 0.0
    while at_s < duration_s:
        mode = Mode(_drawn(chance, mix.modes))
        tokens = chance.randint(*mix.tokens)
        streamed = mode is Mode.STREAMED
        if mode is Mode.KEYED:
            streamed = chance.random() < mix.keyed_streamed
        leaves = mode is Mode.STREAMED and chance.random() < mix.leaving
        made.append(
            Planned(
                name=f"r{len(made)}",
                at_s=at_s,
                mode=mode,
                dialect=_drawn(chance, mix.dialects),
                streamed=streamed,
                model=chance.choice(models),
                tokens=tokens,
                leaves_after=chance.randint(1, max(1, tokens // 2)) if leaves else None,
                asks_again=mode is Mode.KEYED and chance.random() < mix.asked_again,
                seed=chance.getrandbits(32),
            )
        )
        at_s += chance.expovariate(rate_per_s)
    return made


def body_of(planned: Planned, prompt: str) -> dict[str, Any]:
    """The request's body."""
    body: dict[str, Any] = {
        "model": planned.model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": planned.streamed,
    }
    if planned.dialect == "openai":
        return body | {"max_tokens": planned.tokens, "temperature": 0}
    return body | {"options": {"num_predict": planned.tokens, "temperature": 0}}


def _drawn(chance: Random, weights: Mapping[Name, int]) -> Name:
    return chance.choices(list(weights), list(weights.values()))[0]
