"""A mesh of real daemons and real engines on this machine, as the stage of a run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import msgspec
import trio

from meshd.control import RecordReport, StatusReport
from meshd.testing.daemons import Daemon, DaemonFailed, Gguf, joined
from meshd.testing.models import Recipe, build, expected_text
from meshd_chaos.excuses import Places
from meshd_chaos.records import NotTested
from meshd_chaos.scenario import Layout
from meshd_chaos.schedule import Step
from meshd_chaos.stage import CannotInject, Injected

NAMES: Final = (
    "anna", "ben", "cara", "dora", "emil", "fay", "gus", "hana",
    "ivo", "jana", "karl", "lena", "max", "nora", "olaf", "pia",
)  # fmt: skip
RECIPE: Final = Recipe(words=4000, context_tokens=16_384, name="chaos")


class KillParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    target: str = "holder"


PARAMETERS: Final[Mapping[str, type[msgspec.Struct]]] = {"kill": KillParameters}


class LocalStage:
    """Five daemons, say, each with an engine that has some of the models."""

    headers: Mapping[str, str] = {}

    def __init__(self, layout: Layout, daemons: list[Daemon]) -> None:
        self.models = tuple(f"model-{number}" for number in range(layout.models))
        self._layout = layout
        self._daemons = {daemon.name: daemon for daemon in daemons}
        self._killed: dict[int, Daemon] = {}
        self._urls = {daemon.name: daemon.api_url for daemon in daemons}

    def entries(self) -> Mapping[str, str]:
        return self._urls

    def expected(self, model: str, tokens: int) -> tuple[str | None, str | None]:
        finish = "length" if tokens < RECIPE.words else "stop"
        return expected_text(RECIPE, max_tokens=tokens), finish

    async def places(self) -> Places:
        first = next(iter(self._daemons.values()))
        report = await trio.to_thread.run_sync(first.order, "GET", "/control/record")
        record = msgspec.json.decode(report, type=RecordReport)
        voters = [row.name for row in record.voters if row.part != "follows"]
        holders = {
            model: [
                d.name for d in self._daemons.values() if any(g.alias == model for g in d.ggufs)
            ]
            for model in self.models
        }
        return Places(holders=holders, voters=voters)

    def not_tested(self, names: set[str]) -> list[NotTested]:
        return []

    async def inject(self, step: Step) -> Injected:
        chance = Random(step.seed)
        alive = [d for d in self._daemons.values() if d not in self._killed.values()]
        if len(alive) < 2:
            raise CannotInject("all daemons but one are down")
        daemon = chance.choice(alive)
        await trio.to_thread.run_sync(daemon.kill)
        self._killed[id(step)] = daemon
        return Injected(nodes=(daemon.name,), did=f"killed {daemon.name}'s daemon (-9)")

    async def heal(self, step: Step) -> None:
        daemon = self._killed.pop(id(step))
        daemon.join = daemon.token = ""
        await trio.to_thread.run_sync(daemon.start)
        self._urls[daemon.name] = daemon.api_url

    async def whole_again(self, timeout_s: float) -> list[str]:
        everyone = len(self._daemons)

        def sees_all(status: StatusReport) -> bool:
            return sum(node.state in ("alive", "self") for node in status.nodes) == everyone

        found: list[str] = []
        for daemon in self._daemons.values():
            wait = partial(daemon.wait_until, sees_all, "it sees all nodes", timeout_s)
            try:
                await trio.to_thread.run_sync(wait)
            except DaemonFailed as error:
                found.append(str(error).splitlines()[0])
        return found

    async def statuses(self) -> Mapping[str, StatusReport]:
        return {
            name: await trio.to_thread.run_sync(daemon.status)
            for name, daemon in self._daemons.items()
        }


@asynccontextmanager
async def local_stage(layout: Layout, folder: Path) -> AsyncIterator[LocalStage]:
    """Start it; everything is gone when the block ends."""
    gguf = folder / "chaos.gguf"
    gguf.write_bytes(build(RECIPE))
    daemons = [Daemon(folder / name, name) for name in NAMES[: layout.nodes]]
    for model in range(layout.models):
        for copy in range(layout.copies):
            daemon = daemons[(model + copy) % len(daemons)]
            held = Gguf(gguf, f"model-{model}", layout.slots, layout.slots * 4096)
            daemon.ggufs = [*daemon.ggufs, held]
    with ExitStack() as stack:
        for daemon in daemons:
            stack.callback(daemon.close)
        first, *others = daemons
        await trio.to_thread.run_sync(first.start)
        await trio.to_thread.run_sync(joined, first, others)
        for daemon in daemons:
            has_all = partial(_has_models, layout.models)
            await trio.to_thread.run_sync(daemon.wait_until, has_all, "it knows every model")
        yield LocalStage(layout, daemons)


def _has_models(count: int, status: StatusReport) -> bool:
    return status.models == count
