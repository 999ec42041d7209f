"""Whole nodes in memory: the daemon's own `Node`s on ports in memory, in trio's time.

    async with World.open() as world:
        a = await world.start("a", MemoryEngine("tiny"))
        b = await world.start("b")                       # joins a's mesh by a token
        await world.settled()                            # all see each other and every model
        answer = b.client.openai("tiny")
        await answer.run()

Under `MockClock` (pytest-trio's `autojump_clock`) this takes no time.  Everything but the ports is
what runs in production: keys, certificates, joining, gossip, links, relay, dialects, HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import trio

from meshd import control
from meshd.config import BackendConfig, Config
from meshd.http import Sweeper
from meshd.ids import Address, NodeId
from meshd.membership.sightings import Sighting
from meshd.node import Node, enter
from meshd.paths import Paths
from meshd.ports import Ports
from meshd.screen import SightedMesh
from meshd.testing.clock import SimClock
from meshd.testing.database import MemoryDatabases
from meshd.testing.disk import MemoryDisk
from meshd.testing.entropy import SeededEntropy
from meshd.testing.machine import SimHost
from meshd.testing.memory_client import MemoryClient
from meshd.testing.memory_engine import MemoryEngine, MemoryEngines
from meshd.testing.memory_process import MemoryProcess
from meshd.testing.network import MemoryHost, MemoryNetwork
from meshd.testing.schedule import seeded_schedule

API_PORT = 11435
PEER_PORT = 11436
ENGINE_PORT = 8080
SETTLE_S = 60.0
POLL_S = 0.01

WHERE: ContextVar[str] = ContextVar("WHERE", default="")
"""The name of the machine whose daemon this task is a part of; "": it is a client's or a test's."""

_HOME = PurePosixPath("/home/me")
PATHS = Paths(
    config=_HOME / "config.toml",
    data=_HOME / "data",
    socket=_HOME / "run" / "meshd.sock",
    claims=_HOME / "run" / "claims",
    keys=_HOME / "data" / "api-keys.json",
    lock=_HOME / "data" / "lock",
    log=_HOME / "meshd.log",
)


class NotSettled(AssertionError):
    """Something was waited for that never came."""


@dataclass
class MemoryScreen:
    """`meshd.screen.Screen`: notes what a person would have been shown."""

    shown: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    consents: bool = False
    """What that person says to digits."""

    def founded(self, **what: object) -> None:
        self.shown.append(("founded", what))

    def meshes_in_sight(self, meshes: Sequence[SightedMesh], *, choose: bool = False) -> None:
        self.shown.append(("meshes_in_sight", {"meshes": meshes}))

    def joining(self, **what: object) -> None:
        self.shown.append(("joining", what))

    @property
    def can_ask(self) -> bool:
        return True

    async def confirm_digits(self, **what: object) -> bool:
        self.shown.append(("confirm_digits", what))
        await trio.lowlevel.checkpoint()
        return self.consents

    def waiting_for_approval(self, **what: object) -> None:
        self.shown.append(("waiting_for_approval", what))

    def joined(self, **what: object) -> None:
        self.shown.append(("joined", what))

    def newcomer(self, **what: object) -> None:
        self.shown.append(("newcomer", what))

    def admitted(self, **what: object) -> None:
        self.shown.append(("admitted", what))

    def serving(self, **what: object) -> None:
        self.shown.append(("serving", what))

    def draining(self, **what: object) -> None:
        self.shown.append(("draining", what))

    def stopped(self, **what: object) -> None:
        self.shown.append(("stopped", what))

    def warning(self, sentence: str) -> None:
        self.shown.append(("warning", {"sentence": sentence}))

    def last(self, what: str) -> dict[str, object] | None:
        """The last thing of that kind, None if there was none."""
        return next((said for kind, said in reversed(self.shown) if kind == what), None)


class Machine:
    """One host with its engines, its disk, and the daemon on it, which may come and go."""

    def __init__(
        self, world: World, name: str, engines: Sequence[MemoryEngine], config: Config
    ) -> None:
        self.world = world
        self.name = name
        self.engines = list(engines)
        self.host: MemoryHost = world.network.host(name)
        self.disk = MemoryDisk()
        self.databases = MemoryDatabases()
        self.clock = SimClock()
        self.screen = MemoryScreen()
        self.config = config
        self.node: Node | None = None
        """None while no daemon runs here."""
        self.id: NodeId | None = None
        """Of the daemon that runs, or last ran, here."""
        self.client = MemoryClient(self.host, Address("127.0.0.1", API_PORT), world.sweeper)
        """Programs on this host, which use its own daemon."""
        self.starts = 0
        """Daemons that were started here, so far."""
        self.died: set[int] = set()
        """Which of them were killed, or lost their machine."""
        self._failed: Exception | None = None
        self._process = MemoryProcess(self.host)
        self._stop = trio.Event()
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._over.set()

    @property
    def alive(self) -> bool:
        """Whether a daemon runs here, be it starting or stopping."""
        return not self._over.is_set()

    @property
    def stopping(self) -> bool:
        """Whether the last one was told to stop, or was killed."""
        return self._stop.is_set() or self.starts in self.died

    @property
    def running(self) -> Node:
        """The daemon's node."""
        assert self.node is not None, f"no daemon runs on {self.name}"
        return self.node

    @property
    def peer_address(self) -> str:
        """Where newcomers knock."""
        return f"{self.host.addresses[0]}:{PEER_PORT}"

    def count(self, counter: str) -> int:
        """What its entry counted: requests, answered, failed, retries, client_gone, ..."""
        data = self.running.data
        return data.forwarder.counters[counter] + data.remotes.counters[counter]

    def sees(self, other: Machine) -> bool:
        """Whether this node counts the daemon that runs, or last ran, there among the living."""
        assert other.id is not None, f"no daemon ever served on {other.name}"
        return self.running.data.placement.is_present(other.id)

    # --- life

    async def start(self, *, join: str = "", token: str = "") -> None:
        """`meshd start`, on engines that serve; returns when it serves.

        Raises what keeps the daemon from starting.
        """
        await self.start_engines()
        self.starts += 1
        self._stop, self._scope, self._over = trio.Event(), trio.CancelScope(), trio.Event()
        self._process, self._failed = MemoryProcess(self.host), None
        self.screen = MemoryScreen()
        self.world.nursery.start_soon(self._live, join, token)
        await until(lambda: self._over.is_set() or self.screen.last("serving") is not None)
        if self._failed is not None:
            raise self._failed

    async def start_engines(self) -> None:
        """Those that crashed serve again, on the same ports."""
        for i, engine in enumerate(self.engines):
            if not engine.serving:
                await self.world.nursery.start(engine.serve, self.host, ENGINE_PORT + i)

    def terminate(self) -> None:
        """SIGTERM: the daemon drains and ends; `until_over` waits for that."""
        self._stop.set()

    def kill(self) -> None:
        """kill -9 of the daemon alone: its engines go on."""
        self.died.add(self.starts)
        self._scope.cancel()
        self._process.die("this process was killed")
        self.disk.release()

    def wipe(self) -> None:
        """All that daemons have kept here is deleted; none runs.  The next one has to join anew."""
        assert not self.alive, f"a daemon runs on {self.name}"
        self.id = None
        self.disk, self.databases = MemoryDisk(chance=self.disk.chance), MemoryDatabases()

    def crash(self, *, silent: bool = False) -> None:
        """The whole machine stops; `silent`: as by a power failure, so that nobody is told."""
        self.died.add(self.starts)
        self._scope.cancel()
        self.host.crash(silent=silent)
        for engine in self.engines:
            engine.crash()
        self.disk.lose_power()

    async def until_over(self) -> None:
        """Until no daemon runs here."""
        await self._over.wait()

    async def _live(self, join: str, token: str) -> None:
        WHERE.set(self.name)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    entropy = SeededEntropy(f"{self.world.seed} {self.name} {self.starts}")
                    bundled = MemoryEngines(self.host, nursery)
                    ports = Ports(
                        self._process,
                        self.clock,
                        self.disk,
                        entropy,
                        bundled,
                        SimHost(),
                        self.databases,
                    )
                    await self._run(ports, join, token)
                    nursery.cancel_scope.cancel()
        except Exception as error:  # what ended the daemon is for the test to see
            if self.screen.last("serving") is not None:
                raise  # it died while it served: the test must not go on as if nothing were
            self._failed = error
        finally:
            self._process.die()
            if self.node is not None:
                self.world.on_end(self)
            self.node = None
            self.disk.release()
            self._over.set()

    async def _run(self, ports: Ports, join: str, token: str) -> None:
        config = replace(self.config, join=join)
        listener = await ports.network.listen_peers(config.port)
        datagrams = await ports.network.listen_datagrams(config.port)
        standing = await enter(ports, config, PATHS, self.screen, listener, token)
        self.node = Node(ports, config, PATHS, self.screen, standing, listener, datagrams)
        self.id = self.node.mesh.id
        await self.node.run(self._stop)


class World:
    """A network with machines on it.  Made by `open`."""

    def __init__(self, nursery: trio.Nursery, network: MemoryNetwork, seed: int) -> None:
        self.nursery = nursery
        self.network = network
        self.seed = seed
        self.machines: dict[str, Machine] = {}
        self.sweeper = Sweeper()
        """For clients: a program of its own."""
        nursery.start_soon(self.sweeper.run)
        self.on_end: Callable[[Machine], None] = lambda machine: None
        """Called when a daemon has ended, however it did, while its node can still be looked at."""

    @staticmethod
    @asynccontextmanager
    async def open(
        *, seed: int = 1, latency_s: float = 0.001, buffer_bytes: int = 65536
    ) -> AsyncIterator[World]:
        """A world without machines; it ends, with all that runs in it, when the block ends.

        The same seed gives the same run: every byte at its time (`network.trace`), if what is done
        in the block follows from the seed as well.
        """
        network = MemoryNetwork(seed=seed, latency_s=latency_s, buffer_bytes=buffer_bytes)
        with seeded_schedule(seed):
            async with trio.open_nursery() as nursery:
                yield World(nursery, network, seed)
                nursery.cancel_scope.cancel()

    async def start(
        self,
        name: str,
        *engines: MemoryEngine,
        slots: int | None = None,
        via: Machine | None = None,
        **settings: object,
    ) -> Machine:
        """A machine with these engines and a daemon: the first founds a mesh, the others join it.

        They do by a token of `via`, the first if not given.  `slots` is what the config says of
        each engine; `settings` are fields of `Config`.
        """
        backends = tuple(
            BackendConfig(f"http://127.0.0.1:{ENGINE_PORT + i}", slots=slots)
            for i in range(len(engines))
        )
        config = Config(
            name=name,
            port=PEER_PORT,
            api_port=API_PORT,
            detect=False,
            mdns=False,
            backends=backends,
            **settings,  # type: ignore[arg-type]
        )
        door = via or next(iter(self.machines.values()), None)
        machine = self.machines[name] = Machine(self, name, engines, config)
        if door is None:
            await machine.start()
        else:
            made = await door.running.mesh.office.create_token(control.TokenOrder())
            await machine.start(join=door.peer_address, token=made.token)
        return machine

    def show_all(self) -> None:
        """Announce every machine to all others, as mDNS does within one network."""
        running = [m for m in self.machines.values() if m.node is not None]
        for seen in running:
            mesh = seen.running.mesh
            addresses = tuple(Address(host, PEER_PORT) for host in seen.host.addresses)
            sighting = Sighting(mesh.registry.mesh, mesh.id, seen.name, addresses, (1, 1))
            for machine in running:
                if machine is not seen:
                    machine.running.mesh.sighted(sighting)

    async def settled(self) -> None:
        """Until every node that runs sees all others alive and offers all their models."""
        await until(self.is_settled)

    def is_settled(self) -> bool:
        """Whether they do now."""
        nodes = [m.running for m in self.machines.values() if m.node is not None]
        offered = {node.mesh.id: node.data.backends.inventory() for node in nodes}
        return all(
            node.mesh.links.is_up(other)
            and node.data.placement.is_present(other)
            and node.data.placement.catalogue.inventory_of(other) == inventory
            for node in nodes
            for other, inventory in offered.items()
            if other != node.mesh.id
        )


async def until(
    is_so: Callable[[], bool], *, within_s: float = SETTLE_S, poll_s: float = POLL_S
) -> None:
    """Until it is so, looked at every `poll_s`; raises NotSettled."""
    give_up_at = trio.current_time() + within_s
    while not is_so():
        if trio.current_time() > give_up_at:
            raise NotSettled(f"it was not so within {within_s:g} s")
        await trio.sleep(poll_s)
