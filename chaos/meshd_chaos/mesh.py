"""A real mesh on one machine, every link of which can be broken.

    async with Mesh.open(5, seed=7) as mesh:
        mesh.entries()                  # {"anna": "http://127.0.0.1:20123", ...}
        mesh.machines["anna"].kill()
        mesh.links["ben", "carl"].cut()
        await mesh.heal()

Daemons and engines are processes of their own.  Each daemon is told, and tells the others, only the
address of the proxies in front of it (`advertise`), so that all that they say to each other passes
over links that this process holds.  Nothing needs root.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from meshd.errors import MeshdError
from meshd.testing.engines import RealLlama
from meshd.testing.models import Recipe, build
from meshd_chaos.addresses import HOST, Diallers, bound_pair
from meshd_chaos.clocks import Clocks
from meshd_chaos.datagram_proxy import DatagramProxy
from meshd_chaos.guardian import Guardian
from meshd_chaos.health import Health, examine
from meshd_chaos.links import Links
from meshd_chaos.machines import DaemonRefused, Engine, Machine
from meshd_chaos.models import CONTEXT_TOKENS, holders, recipes
from meshd_chaos.pacer import Pacer
from meshd_chaos.stream_proxy import StreamProxy

NODES_MAX: Final = 16
WHOLE_S: Final = 90.0
"""For a mesh to be whole, at the start and after faults: gossip redials lost members every 30 s."""
SERVES_S: Final = 30.0
"""For a daemon to serve: a start takes about 1 s of a core, a join a little more."""
_LOOK_S: Final = 0.25
_NAMES: Final = (
    *("anna", "ben", "carl", "dora", "emil", "fritz", "gerda", "hans", "ida", "jonas", "klara"),
    *("lukas", "mona", "nils", "olga", "paul", "quinn", "rosa", "sven", "tilda", "uwe", "vera"),
)
_SETTINGS: Final = """\
log_level = "info"
[routing]
same_name_is_same_model = true
"""
"""llama.cpp tells no digest; here the same name is the same model."""


class MeshFailed(MeshdError):
    """The mesh did not become what it should be; the text says what is missing."""


class Mesh:
    """Daemons, engines, and the links between them."""

    def __init__(self, folder: Path, seed: int, nursery: trio.Nursery) -> None:
        """Use `open`."""
        self.folder = folder
        """All that the daemons write, each in a folder of its name."""
        self.keep = False
        """Leave the folder behind: somebody should look at it."""
        self.seed = seed
        self.machines: dict[str, Machine] = {}
        """By name; those that have left are among them."""
        self.models: dict[str, Recipe] = {}
        """By name; `meshd.testing.models.expected_text` says what they answer."""
        self.links = Links(seed)
        self.clocks = Clocks(folder)
        self.surprises: list[str] = []
        """Daemons that ended by themselves, as sentences: that is never part of a fault."""
        self._newcomers = iter(_NAMES)
        self._nursery = nursery
        self._guardian = Guardian(folder)
        self._diallers = Diallers(self._pids)
        self._datagrams = DatagramProxy(self.links)
        self._tokens_per_s, self._slots = 60.0, 8

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        nodes: int,
        seed: int,
        *,
        models: int = 1,
        copies: int | None = None,
        tokens_per_s: float = 60.0,
        slots: int = 8,
    ) -> AsyncIterator[Mesh]:
        """A whole mesh of that many nodes, each of `models` at `copies` (default: all) of them.

        `tokens_per_s` is the pace of each stream, `slots` how many a copy runs at once.  Processes
        and folder are gone when the block ends, however it ends; the folder stays if `keep` is
        set.  Raises MeshFailed, EngineFailed or DaemonFailed.
        """
        if not 1 <= nodes <= NODES_MAX:
            raise MeshFailed(f"a mesh here has from 1 to {NODES_MAX} nodes, not {nodes}")
        folder = Path(tempfile.mkdtemp(prefix="meshd-chaos-"))
        try:
            async with trio.open_nursery() as nursery:
                mesh = cls(folder, seed, nursery)
                mesh._tokens_per_s, mesh._slots = tokens_per_s, slots
                mesh.models = recipes(models)
                try:
                    nursery.start_soon(mesh._watch)
                    names = [next(mesh._newcomers) for _ in range(nodes)]
                    held = holders(list(mesh.models), names, min(copies or nodes, nodes))
                    await mesh._begin(held)
                    yield mesh
                finally:
                    mesh._end()
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _only(group) from None

    # ---------------------------------------------------------------- what there is

    def entries(self) -> dict[str, str]:
        """Where clients reach the nodes, by name; also those that are down now."""
        return {machine.name: machine.url for machine in self.members()}

    def members(self) -> list[Machine]:
        """All machines but those that have left the mesh."""
        return [machine for machine in self.machines.values() if not machine.has_left]

    def running(self) -> list[Machine]:
        """The members whose daemon runs and is not frozen."""
        return [m for m in self.members() if m.runs and not m.is_frozen]

    async def health(self) -> Health:
        """What each daemon says now, and what is missing for the mesh to be whole."""
        return await examine(self.members(), list(self.models))

    # ---------------------------------------------------------------- coming and going

    async def start(self, machine: Machine) -> None:
        """Start a member's daemon again; it takes a moment to serve."""
        machine.daemon.join = machine.daemon.token = ""
        await machine.start()

    async def serves(self, machine: Machine, timeout_s: float = SERVES_S) -> None:
        """Wait until a daemon that was started answers.  Raises MeshFailed if it ends, or never."""
        with trio.move_on_after(timeout_s):
            while machine.runs and await machine.status() is None:  # noqa: ASYNC110 - a process
                await trio.sleep(_LOOK_S)
            if machine.runs:
                return
        what = "did not serve" if machine.runs else "ended"
        raise MeshFailed(f"{machine.name} {what} when it was started:\n{machine.daemon.log_text()}")

    async def join_new(self, models: Sequence[str]) -> Machine:
        """A new machine with engines for these models joins; it takes a moment to be seen by all.

        Raises MeshFailed if no member lets it in now.
        """
        name = next(self._newcomers, None)
        if name is None:
            raise MeshFailed(f"a mesh here has no more than {len(_NAMES)} machines in all")
        machine = await self._add(name, models)
        try:
            await self._join(machine)
            await self.serves(machine)
        except MeshFailed:
            machine.kill()
            machine.has_left = True
            raise
        return machine

    async def leave(self, machine: Machine) -> None:
        """Have a node leave for good; its engines end with it.  Raises DaemonRefused."""
        await machine.leave()
        for engine in machine.engines:
            machine.kill_engine(engine)

    def spawn(self, task: Callable[[], Awaitable[object]]) -> None:
        """Run it beside everything else, to the end of the mesh at most."""
        self._nursery.start_soon(task)

    # ---------------------------------------------------------------- whole again

    async def heal(self, timeout_s: float = WHOLE_S) -> None:
        """End every fault, start what is dead, wait until the mesh is whole.

        That is: all links are up, every process runs, every daemon sees all others and all models,
        and the record has a leader.  Raises MeshFailed that says what was missing to the end.
        """
        self.links.heal()
        for machine in self.members():
            self.clocks.set(machine.name, 0.0)
            machine.allow_writes(True)
            if machine.is_frozen:
                machine.thaw()
            for engine in machine.engines:
                machine.thaw_engine(engine)
                if not engine.runs:
                    await machine.start_engine(engine)
            if not machine.runs:
                await self.start(machine)
        await self.whole(timeout_s)

    async def whole(self, timeout_s: float = WHOLE_S) -> None:
        """Wait until the mesh is whole.  Raises MeshFailed."""
        missing = "nothing was heard of it"
        with trio.move_on_after(timeout_s):
            while missing:
                missing = (await self.health()).missing
                if missing:
                    await trio.sleep(_LOOK_S)  # polling real processes
        if missing:
            raise MeshFailed(f"the mesh was not whole after {timeout_s:.0f} s: {missing}")

    # ---------------------------------------------------------------- beginning and end

    async def _begin(self, held: dict[str, list[str]]) -> None:
        for name, recipe in self.models.items():
            self._gguf(name).write_bytes(build(recipe))
        async with trio.open_nursery() as nursery:
            for name, models in held.items():
                nursery.start_soon(self._add, name, models)
        founder, *others = (self.machines[name] for name in held)
        await founder.start()
        await self.serves(founder)
        for machine in others:
            await self._join(machine)
        await self.whole()

    async def _add(self, name: str, models: Sequence[str]) -> Machine:
        """A machine with engines for these models, and no daemon yet."""
        environment = self.clocks.environment(name)
        machine = Machine(name, self.folder, self._guardian, _SETTINGS, environment)
        self.machines[name] = machine
        proxy = StreamProxy(name, self.links, self._diallers.whose, machine.listener)
        proxy.target = (HOST, machine.peer_port)
        self._datagrams.add(name, machine.datagrams)
        self._datagrams.found(name, machine.peer_port)
        self._nursery.start_soon(proxy.run)
        self._nursery.start_soon(self._datagrams.run, name)
        for model in models:
            await self._add_engine(machine, model)
        return machine

    async def _join(self, machine: Machine) -> None:
        """Start the daemon of a new machine into the mesh.  Raises MeshFailed."""
        refusals = []
        for member in self.running():
            if member is machine:
                continue
            try:
                token = await member.new_token()
            except DaemonRefused as error:
                refusals.append(str(error))
                continue
            machine.daemon.join, machine.daemon.token = member.public, token
            await machine.start()
            return
        why = "; ".join(refusals) or "none runs"
        raise MeshFailed(f"no member made a token for {machine.name}: {why}")

    async def _watch(self) -> None:
        """See who ends by itself."""
        while True:
            await trio.sleep(_LOOK_S)  # polling real processes
            self.surprises += filter(None, (m.surprise() for m in self.machines.values()))

    async def _add_engine(self, machine: Machine, model: str) -> None:
        listener, other = bound_pair()
        other.close()
        pacer = Pacer(self._tokens_per_s, listener)
        self._nursery.start_soon(pacer.run)
        process = RealLlama(
            self._gguf(model), alias=model, slots=self._slots, context_tokens=CONTEXT_TOKENS
        )
        engine = Engine(model, process, pacer)
        machine.engines.append(engine)
        await machine.start_engine(engine)

    def _gguf(self, model: str) -> Path:
        return self.folder / f"{model}.gguf"

    def _pids(self) -> dict[str, int]:
        return {name: m.pid for name, m in self.machines.items() if m.runs}

    def _end(self) -> None:
        for machine in self.machines.values():
            machine.close()
        self._guardian.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a nursery wrapped, if there is but one."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
