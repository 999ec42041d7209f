"""What a seed decides about one run: who takes part, what goes wrong, and what is asked."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from meshd.testing.memory_engine import Dialect

LENGTHS: Final = (1, 5, 20, 20, 60, 150)
"""Words that clients ask for."""

LINKS: Final = ("partition", "one way", "isolate", "split", "reset", "slow link", "bad datagrams")
LIVES: Final = ("kill", "reboot", "power loss", "drain", "rolling restart")
ENGINES: Final = ("engine crash", "engine freeze", "engine fault")
DISKS: Final = ("full disk", "broken disk", "failed sync")
CLOCKS: Final = ("clock jump", "clock drift", "sleep")
MEMBERS: Final = ("leave", "join", "move house")
KINDS: Final = (*LINKS, *LIVES, *ENGINES, *DISKS, *CLOCKS, *MEMBERS)
"""Everything that can go wrong; `weather.py` has a method for each."""

GENTLE: Final = (*LINKS, *LIVES, "engine crash", *DISKS, *CLOCKS, *MEMBERS)
"""What may not make a single request fail, one at a time."""
_EVEN_ALONE: Final = (*LIVES, *ENGINES, *DISKS, *CLOCKS, "join")
"""What can befall a mesh of one."""
_DIGESTS: Final = ("d" * 64, "e" * 64)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """One engine.  See `MemoryEngine`."""

    dialect: Dialect
    digest: str
    slots: int
    tokens_per_s: float
    prefill_s: float
    load_s: float
    continues: bool
    raw_continues: bool


@dataclass(frozen=True, slots=True)
class Options:
    """What a seed has chosen.  Rates are per virtual second."""

    engines: tuple[EngineOptions | None, ...]
    """One entry a node; None: it has no engine."""
    faulty_s: float
    faults: Mapping[str, float]
    """The rate of each kind of `KINDS` that happens in this run."""
    one_at_a_time: bool
    """No fault begins before the last one is over and the mesh has settled."""
    is_gentle: bool
    """One at a time, nothing that befalls the engine of a machine but its end, and at least three
    engines that go on for each other: then no request without a key may fail."""
    votes_first: bool
    """Whether nothing goes wrong before as many nodes vote as may."""
    fault_s: float
    """How long faults last, at most."""
    aimed: float
    """The share of faults that look for a machine whose engine is at work."""
    asks: float
    """Requests of clients."""
    jobs: float
    """Jobs that are put in."""
    thoughts: int
    """Words that the model thinks before it says any."""
    workers: int
    keyed: float
    """The share of requests with an Idempotency-Key."""
    repeats: float
    """The share of those that repeat a key of before."""
    repeatable: float
    """The share of requests whose answer can be had a second time: greedy, or with a seed."""
    leavers: float
    """The share of clients that go away."""
    goes_on: float
    """The share of those who ask for a key's stream that go on from where they were."""
    slow_readers: float
    latency_s: float
    jitter_s: float
    loss: float
    doubling: float
    """Of datagrams, as the two before."""
    buffer_bytes: int
    policy: str
    same_name_is_same_model: bool
    hedge: bool
    """Whether a second holder is asked besides one that is late, by config."""
    short_patience: bool
    """Whether engines that say nothing are given up early, by config."""
    slots_told: bool
    """Whether the config says how many slots engines have."""
    drain_s: float
    snapshot_every: int
    """Entries of the record."""

    @property
    def nodes(self) -> int:
        return len(self.engines)


def options_of(seed: int) -> Options:
    """Some kinds of trouble and not others: together they hide each other."""
    chance = random.Random(f"options {seed}")
    nodes = chance.choice([1, 2, 3, 3, 4, 4, 5, 6])
    is_gentle = nodes >= 3 and chance.random() < 0.25
    engines = _engines(chance, nodes, alike=is_gentle)
    return Options(
        engines=engines,
        faulty_s=chance.choice([12.0, 18.0, 25.0]),
        faults=_faults(chance, GENTLE if is_gentle else KINDS if nodes > 1 else _EVEN_ALONE),
        one_at_a_time=is_gentle or (nodes >= 3 and chance.random() < 0.2),
        is_gentle=is_gentle,
        votes_first=is_gentle or chance.random() < 0.7,
        fault_s=chance.choice([1.0, 4.0, 10.0]),
        aimed=chance.choice([0.0, 0.5, 1.0]),
        asks=min(5.0, _capacity(engines) * chance.choice([0.1, 0.3, 0.5, 0.5, 2.0])),
        jobs=chance.choice([0.0, 0.2, 0.7]),
        workers=chance.choice([0, 1, 3]),
        keyed=chance.choice([0.0, 0.3, 0.7]),
        repeats=chance.choice([0.2, 0.6]),
        repeatable=chance.choice([0.1, 0.3, 0.9]),
        leavers=chance.choice([0.0, 0.1]),
        goes_on=chance.choice([0.0, 0.5, 1.0]),
        slow_readers=chance.choice([0.0, 0.1, 0.3]),
        latency_s=chance.choice([0.0002, 0.001, 0.02]),
        jitter_s=chance.choice([0.0, 0.002, 0.05]),
        loss=chance.choice([0.0, 0.0, 0.02, 0.1]),
        doubling=chance.choice([0.0, 0.0, 0.05]),
        buffer_bytes=chance.choice([2048, 65536, 65536]),
        policy=chance.choice(["predicted", "predicted", "predicted", "round_robin", "random"]),
        same_name_is_same_model=chance.random() < 0.6,
        short_patience=chance.random() < 0.7,
        slots_told=chance.random() < 0.5,
        drain_s=chance.choice([1.0, 5.0, 30.0]),
        snapshot_every=chance.choice([20, 60, 10_000]),
        hedge=chance.random() < 0.4,
        thoughts=chance.choice([0, 0, 0, 4, 15]),
    )


def _capacity(engines: Sequence[EngineOptions | None]) -> float:
    """Requests per second that all engines together can answer."""
    words_per_s = sum(e.slots * e.tokens_per_s for e in engines if e is not None)
    return words_per_s / (sum(LENGTHS) / len(LENGTHS))


def _engines(chance: random.Random, nodes: int, *, alike: bool) -> tuple[EngineOptions | None, ...]:
    """At least one; of one kind, or mixed.  `alike`: at least three that go on for each other."""
    dialects = chance.choice([[Dialect.OLLAMA], [Dialect.LLAMA_CPP], list(Dialect)])
    digests = chance.choice([_DIGESTS[:1], _DIGESTS[:1], _DIGESTS])
    if alike:
        dialects, digests = [Dialect.OLLAMA], _DIGESTS[:1]
    continuing = 1.0 if alike else chance.choice([0.0, 0.5, 1.0, 1.0])
    speed = chance.choice([15.0, 40.0, 100.0])
    at_least = 3 if alike else min(nodes, 2)
    share = chance.choice([0.3, 0.7, 1.0])  # of the others: the fewer, the more is relayed
    with_engine = [number < at_least or chance.random() < share for number in range(nodes)]
    chance.shuffle(with_engine)
    return tuple(
        EngineOptions(
            dialect=chance.choice(dialects),
            digest=chance.choice(digests),
            slots=chance.choice([1, 2, 4]),
            tokens_per_s=speed * chance.choice([0.5, 1.0, 1.0, 2.0]),
            prefill_s=chance.choice([0.0, 0.05, 0.5]),
            load_s=chance.choice([0.0, 0.0, 1.0, 6.0]),
            continues=chance.random() < continuing,
            raw_continues=chance.random() < continuing / 2,
        )
        if has_engine
        else None
        for has_engine in with_engine
    )


def _faults(chance: random.Random, possible: Sequence[str]) -> dict[str, float]:
    if chance.random() < 0.05:
        return {}
    kinds = [kind for kind in possible if chance.random() < 0.3]
    rate = chance.choice([0.1, 0.3, 0.8])
    return {kind: rate / len(kinds) * chance.choice([0.5, 1.0, 2.0]) for kind in kinds}
