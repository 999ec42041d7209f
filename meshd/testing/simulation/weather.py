"""What goes wrong in one run, and how all of it is made good in the end."""

from __future__ import annotations

import errno
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final

import trio

from meshd.errors import DiskFailed, MeshdError
from meshd.testing.memory_engine import Fault, MemoryEngine
from meshd.testing.simulation.options import KINDS, Options
from meshd.testing.simulation.story import Story
from meshd.testing.simulation.targets import Targets, is_open
from meshd.testing.world import Machine, NotSettled, World, until

MACHINES: Final = 8
"""At most, those that join on the way counted."""
NOTICED_S: Final = 3.0
"""Until all who have to have noticed a fault: before that the mesh looks as settled as it was."""
SETTLED_S: Final = 60.0
_ENGINE_FAULTS: Final = [fault for fault in Fault if fault not in (Fault.HANG, Fault.HANG_LATER)]
_HANGING: Final = (Fault.HANG, Fault.HANG_LATER)


@dataclass
class Weather:
    """That of one world."""

    world: World
    options: Options
    story: Story
    chance: random.Random
    targets: Targets
    join: Callable[[str], Awaitable[Machine | None]]
    """Starts a machine of that name, which joins; None if it could not."""
    left: set[str] = field(default_factory=set)
    """Machines that still have the data of a node which is no member any more."""
    hung: list[MemoryEngine] = field(default_factory=list)
    """Engines that may be silent for good."""
    moves: int = 0

    async def run(self) -> None:
        """Until cancelled, which leaves things as they are: see `heal`."""
        faults = self.options.faults
        if not faults:
            return
        kinds, rates = list(faults), list(faults.values())
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self.chance.expovariate(sum(rates)))
                [kind] = self.chance.choices(kinds, rates)
                if self.options.one_at_a_time:
                    await self._fault(kind)
                    await trio.sleep(NOTICED_S)
                    await self._settled()
                else:
                    nursery.start_soon(self._fault, kind)

    async def _fault(self, kind: str) -> None:
        happen = _FAULTS[kind]
        await happen(self)

    async def _settled(self) -> None:
        """As far as it does; with one fault at a time everything is whole in between."""
        try:
            await until(self.world.is_settled, within_s=SETTLED_S)
        except NotSettled:
            self.story.sometimes("one fault at a time, and the mesh did not settle")

    def _began(self, kind: str, who: str, more: str = "") -> float:
        """Note it; how long it lasts."""
        lasts_s = self.chance.uniform(0.05, 1.0) * self.options.fault_s
        self.story.sometimes(f"fault: {kind}")
        self.story.say(who, f"FAULT {kind}{' ' if more else ''}{more} for {lasts_s:.2f} s")
        return lasts_s

    def _over(self, kind: str, who: str) -> None:
        self.story.say(who, f"{kind} is over")

    # --- links

    async def partition(self) -> None:
        if (pair := self.targets.pair()) is not None:
            await self._cut("partition", [pair], one_way=False)

    async def one_way(self) -> None:
        if (pair := self.targets.pair()) is not None:
            await self._cut("one way", [pair], one_way=True)

    async def isolate(self) -> None:
        name = self.targets.machine().name
        pairs = [(name, other) for other in self.world.machines if other != name]
        await self._cut("isolate", pairs, one_way=False)

    async def split(self) -> None:
        names = list(self.world.machines)
        half = self.chance.sample(names, len(names) // 2)
        rest = [name for name in names if name not in half]
        await self._cut("split", [(a, b) for a in half for b in rest], one_way=False)

    async def _cut(self, kind: str, pairs: list[tuple[str, str]], *, one_way: bool) -> None:
        if not pairs:
            return
        network = self.world.network
        text = ", ".join(f"{a} {'>' if one_way else '<>'} {b}" for a, b in pairs)
        lasts_s = self._began(kind, "network", text)
        for a, b in pairs:
            network.partition(a, b, one_way=one_way)
        await trio.sleep(lasts_s)
        for a, b in pairs:
            network.heal(a, b)
        self._over(kind, "network")

    async def reset(self) -> None:
        if (pair := self.targets.pair()) is not None:
            self._began("reset", "network", f"{pair[0]} <> {pair[1]}")
            self.world.network.reset(*pair)

    async def slow_link(self) -> None:
        pair = self.targets.pair()
        if pair is None:
            return
        slow_s = self.chance.choice([0.05, 0.2, 1.0])
        link = self.world.network.link(*pair)
        lasts_s = self._began("slow link", "network", f"{pair[0]} > {pair[1]} {slow_s} s")
        link.latency_s = slow_s
        await trio.sleep(lasts_s)
        link.latency_s = self.options.latency_s
        self._over("slow link", "network")

    async def bad_datagrams(self) -> None:
        network = self.world.network
        loss = self.chance.choice([0.2, 0.5, 0.95])
        lasts_s = self._began("bad datagrams", "network", f"{loss:.0%} are lost")
        network.datagram_loss, network.datagram_duplication = loss, 0.3
        network.jitter_s = 0.3
        await trio.sleep(lasts_s)
        self._calm_datagrams()
        self._over("bad datagrams", "network")

    def _calm_datagrams(self) -> None:
        network, options = self.world.network, self.options
        network.datagram_loss, network.datagram_duplication = options.loss, options.doubling
        network.jitter_s = options.jitter_s

    # --- daemons and machines

    async def kill(self) -> None:
        await self._down("kill", lambda machine: machine.kill())

    async def reboot(self) -> None:
        await self._down("reboot", lambda machine: machine.crash())

    async def power_loss(self) -> None:
        await self._down("power loss", lambda machine: machine.crash(silent=True))

    async def drain(self) -> None:
        await self._down("drain", lambda machine: machine.terminate())

    async def _down(
        self, kind: str, stop: Callable[[Machine], None], machine: Machine | None = None
    ) -> None:
        machine = machine or self.targets.living()
        if machine is None:
            return
        self.targets.busy.add(machine.name)
        lasts_s = self._began(kind, machine.name)
        stop(machine)
        await machine.until_over()
        await trio.sleep(lasts_s)
        await self.start(machine)
        self.targets.busy.discard(machine.name)

    async def start(self, machine: Machine) -> None:
        """Start its daemon, if that can be: a disk may be in the way."""
        try:
            await machine.start()
        except (MeshdError, ExceptionGroup) as error:
            self.story.sometimes("a daemon could not be started")
            self.story.say(machine.name, f"was not started: {error!r}")
        else:
            self.story.say(machine.name, "serves again")

    async def rolling_restart(self) -> None:
        self._began("rolling restart", "all")
        for machine in list(self.world.machines.values()):
            if is_open(machine) and machine.name not in self.targets.busy:
                await self._down("restart", lambda m: m.terminate(), machine)

    # --- engines

    async def engine_crash(self) -> None:
        if (found := self.targets.engine()) is None:
            return
        machine, engine = found
        lasts_s = self._began("engine crash", machine.name)
        engine.crash()
        await trio.sleep(lasts_s)
        await machine.start_engines()
        self._over("engine crash", machine.name)

    async def engine_freeze(self) -> None:
        if (found := self.targets.engine()) is None:
            return
        machine, engine = found
        lasts_s = self._began("engine freeze", machine.name)
        engine.freeze()
        await trio.sleep(lasts_s)
        engine.thaw()
        self._over("engine freeze", machine.name)

    async def engine_fault(self) -> None:
        if (found := self.targets.engine()) is None:
            return
        machine, engine = found
        hangs = self.chance.random() < 0.2
        engine.fault = self.chance.choice(_HANGING if hangs else _ENGINE_FAULTS)
        engine.fault_after = self.chance.choice([0, 1, 3, 15])
        if hangs:
            self.hung.append(engine)
        self._began("engine fault", machine.name, f"{engine.fault} after {engine.fault_after}")

    # --- disks and clocks

    async def full_disk(self) -> None:
        machine = self.targets.machine()
        disk, databases = machine.disk, machine.databases
        lasts_s = self._began("full disk", machine.name)
        used = sum(len(data) for data in disk.files.values())
        disk.capacity_bytes = used + self.chance.choice([0, 500, 20_000])
        databases.full = True
        await trio.sleep(lasts_s)
        disk.capacity_bytes, databases.full = None, False
        self._over("full disk", machine.name)

    async def broken_disk(self) -> None:
        machine = self.targets.machine()
        lasts_s = self._began("broken disk", machine.name)
        machine.disk.broken = machine.databases.broken = "it is broken on purpose"
        await trio.sleep(lasts_s)
        machine.disk.broken, machine.databases.broken = None, ""
        self._over("broken disk", machine.name)

    async def failed_sync(self) -> None:
        machine = self.targets.machine()
        disk = machine.disk
        self._began("failed sync", machine.name)

        def fail(step: str, path: PurePath) -> None:
            if step == "sync":
                disk.on_step = None
                raise DiskFailed(errno.EIO, f"cannot make {path} durable: on purpose")

        disk.on_step = fail

    async def clock_jump(self) -> None:
        machine = self.targets.machine()
        jump_s = self.chance.choice([-7200.0, -60.0, -1.0, 1.0, 60.0, 7200.0])
        self._began("clock jump", machine.name, f"by {jump_s:g} s")
        machine.clock.jump_wall(jump_s)

    async def clock_drift(self) -> None:
        machine = self.targets.machine()
        share = self.chance.choice([-0.2, -0.01, 0.01, 0.2])
        lasts_s = self._began("clock drift", machine.name, f"by {share:+.0%}")
        ends_at = trio.current_time() + lasts_s
        while trio.current_time() < ends_at:
            await trio.sleep(0.25)
            machine.clock.jump_wall(0.25 * share)

    async def sleep(self) -> None:
        machine = self.targets.machine()
        slept_s = self.chance.choice([5.0, 60.0, 3000.0])
        self._began("sleep", machine.name, f"of {slept_s:g} s")
        machine.clock.wake_after(slept_s)

    # --- members

    async def leave(self) -> None:
        """A node leaves under load, and its machine comes back as a new member."""
        machine = self.targets.living()
        if machine is None or len(self.world.machines) < 2:
            return
        self.targets.busy.add(machine.name)
        lasts_s = self._began("leave", machine.name)
        with trio.CancelScope(shield=True):  # what was begun cannot be taken back
            has_left = await self._leaves(machine)
        if has_left:
            await machine.until_over()
            self.wipe(machine)
            await trio.sleep(lasts_s)
            await self.join(machine.name)
        self.targets.busy.discard(machine.name)

    async def _leaves(self, machine: Machine) -> bool:
        try:
            await machine.running.departure.leave()
        except MeshdError as error:
            self.story.sometimes("a node could not leave")
            self.story.say(machine.name, f"cannot leave: {error}")
            return False
        self.story.sometimes("a node left")
        self.story.say(machine.name, "has left")
        self.left.add(machine.name)
        machine.terminate()
        return True

    def wipe(self, machine: Machine) -> None:
        """Make a blank machine of one whose node has left."""
        machine.wipe()
        self.left.discard(machine.name)

    async def join_one(self) -> None:
        """A new machine."""
        number = len(self.world.machines)
        if number < MACHINES:
            name = f"n{number}"
            self._began("join", name)
            self.targets.busy.add(name)
            await self.join(name)
            self.targets.busy.discard(name)

    async def move_house(self) -> None:
        """The machine gets another address; streams over the old one are dead."""
        machine = self.targets.machine()
        self._began("move house", machine.name)
        network = self.world.network
        for other in self.world.machines:
            if other != machine.name:
                network.reset(machine.name, other)
        self.moves += 1
        network.readdress(machine.name, [f"10.9.{self.moves // 250}.{self.moves % 250 + 1}"])

    # --- the end of it

    async def heal(self) -> None:
        """Everything is as it should be, and every daemon that was started runs."""
        self.story.say("world", "HEAL")
        network = self.world.network
        names = list(self.world.machines)
        for a in names:
            for b in names:
                if a != b:
                    network.heal(a, b)
                    network.link(a, b).latency_s = self.options.latency_s
        self._calm_datagrams()
        for machine in self.world.machines.values():
            machine.disk.broken, machine.disk.capacity_bytes = None, None
            machine.disk.on_step = None
            machine.databases.broken, machine.databases.full = "", False
        for engine in self.hung:
            engine.crash()
        for machine in list(self.world.machines.values()):
            for engine in machine.engines:
                engine.fault = None
                engine.thaw()
        await trio.sleep(0.1)  # until those that were killed have let go of their ports
        for machine in list(self.world.machines.values()):
            await machine.start_engines()


_FAULTS: Final[dict[str, Callable[[Weather], Awaitable[None]]]] = {
    "partition": Weather.partition,
    "one way": Weather.one_way,
    "isolate": Weather.isolate,
    "split": Weather.split,
    "reset": Weather.reset,
    "slow link": Weather.slow_link,
    "bad datagrams": Weather.bad_datagrams,
    "kill": Weather.kill,
    "reboot": Weather.reboot,
    "power loss": Weather.power_loss,
    "drain": Weather.drain,
    "rolling restart": Weather.rolling_restart,
    "engine crash": Weather.engine_crash,
    "engine freeze": Weather.engine_freeze,
    "engine fault": Weather.engine_fault,
    "full disk": Weather.full_disk,
    "broken disk": Weather.broken_disk,
    "failed sync": Weather.failed_sync,
    "clock jump": Weather.clock_jump,
    "clock drift": Weather.clock_drift,
    "sleep": Weather.sleep,
    "leave": Weather.leave,
    "join": Weather.join_one,
    "move house": Weather.move_house,
}
assert tuple(_FAULTS) == KINDS
