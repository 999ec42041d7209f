"""One host with engines in memory and the manager of backends, and how tests look at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import PurePath

import trio

from meshd.backends import Backends, RunControl
from meshd.config import BackendConfig
from meshd.http import Sweeper
from meshd.inference import Delta, Kind, Message, Request, Usage
from meshd.ports import Ports
from meshd.testing.clock import SimClock
from meshd.testing.database import MemoryDatabases
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy
from meshd.testing.machine import SimHost
from meshd.testing.memory_engine import MemoryEngine, MemoryEngines
from meshd.testing.network import MemoryHost, MemoryNetwork

CLAIMS = PurePath("/run/claims")
CHAT = Request(Kind.CHAT, "tiny", messages=[Message("user", "hi")])


@dataclass
class Bench:
    """One host with engines, and the manager under test."""

    host: MemoryHost
    nursery: trio.Nursery
    disk: MemoryDisk
    engines: MemoryEngines
    sweeper: Sweeper
    changes: list[float] = field(default_factory=list)

    def backends(self, *urls: str | BackendConfig, detect: bool = False) -> Backends:
        configured = [u if isinstance(u, BackendConfig) else BackendConfig(u) for u in urls]
        ports = Ports(
            self.host,
            SimClock(),
            self.disk,
            SeededEntropy(1),
            self.engines,
            SimHost(),
            MemoryDatabases(),
        )
        return Backends(
            ports,
            sweeper=self.sweeper,
            node="n" * 26,
            generation=1,
            configured=configured,
            detect=detect,
            claims_dir=CLAIMS,
            on_change=lambda: self.changes.append(trio.current_time()),
        )

    async def start(self, backends: Backends) -> None:
        self.nursery.start_soon(backends.run)
        await backends.first_probe_done()

    async def started(self, *urls: str | BackendConfig, detect: bool = False) -> Backends:
        """A manager that has looked at every engine once."""
        backends = self.backends(*urls, detect=detect)
        await self.start(backends)
        return backends

    async def engine(self, port: int = 8080, **settings: object) -> MemoryEngine:
        engine = MemoryEngine(**settings)  # type: ignore[arg-type]
        await self.nursery.start(engine.serve, self.host, port)
        return engine


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    async with trio.open_nursery() as nursery:
        host = MemoryNetwork(seed=1).host("a", ["10.0.0.1"])
        sweeper = Sweeper()
        nursery.start_soon(sweeper.run)
        yield Bench(host, nursery, MemoryDisk(), MemoryEngines(host, nursery), sweeper)
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Until it is so, which must be within 300 virtual seconds."""
    for _ in range(30_000):
        if condition():
            return
        await trio.sleep(0.01)
    raise AssertionError("it never came to that")


@dataclass
class Answer:
    text: str = ""
    finish: str | None = None
    usage: Usage | None = None
    batches: int = 0

    async def emit(self, events: object) -> None:
        self.batches += 1
        for event in events:  # type: ignore[attr-defined]
            if isinstance(event, Usage):
                self.usage = event
            else:
                assert isinstance(event, Delta)
                self.text += event.text
                self.finish = event.finish_reason or self.finish


async def ask(backends: Backends, request: Request = CHAT) -> Answer:
    backend, model = backends.holders(request.model)[0]
    answer = Answer()
    await backend.run(request, model, answer.emit, RunControl())
    return answer


def names(backends: Backends) -> list[tuple[str, str]]:
    return [(b.id, m.name) for b in backends.inventory().backends for m in b.models]


def states(backends: Backends) -> list[str]:
    return [row.state for row in backends.rows()]
