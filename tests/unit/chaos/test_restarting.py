"""A restart of one node after the other: its record says who was down when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import trio
from trio.testing import MockClock

from meshd_chaos.faults import Faults
from meshd_chaos.mesh import Mesh
from meshd_chaos.nemeses.membership import Restart
from meshd_chaos.records import Outage
from meshd_chaos.scenario import Fault
from meshd_chaos.schedule import Step
from meshd_chaos.stage import Injected
from tests.unit.chaos.made_up_mesh import Mesh as MadeUpMesh

STOPS_S, STARTS_S = 1.0, 2.0


@dataclass
class Machine:
    name: str
    runs: bool = True
    is_frozen: bool = False

    async def stop(self) -> None:
        await trio.sleep(STOPS_S)


@dataclass
class Machines:
    """What a restart needs of a mesh."""

    nursery: trio.Nursery
    there: list[Machine] = field(
        default_factory=lambda: [Machine("anna"), Machine("ben", is_frozen=True), Machine("carl")]
    )

    def running(self) -> list[Machine]:
        return self.there

    def spawn(self, task: Callable[[], Any]) -> None:
        self.nursery.start_soon(task)

    async def start(self, machine: Machine) -> None:
        await trio.sleep(STARTS_S)

    async def serves(self, machine: Machine) -> None:
        await trio.lowlevel.checkpoint()


@dataclass
class Rolling(MadeUpMesh):
    """A stage on which all is restarted."""

    machines: Any = None
    fault: Restart = field(default_factory=lambda: Restart(target="all"))

    async def inject(self, step: Step) -> Injected:
        hit = await self.fault.inject(cast(Mesh, self.machines), Random(1))
        return Injected(nodes=hit.nodes, did=hit.did)

    async def heal(self, step: Step) -> tuple[Outage, ...] | None:
        await self.fault.heal(cast(Mesh, self.machines))
        return self.fault.outages()


async def test_each_node_was_down_in_its_own_time_and_who_was_left_out_never(
    autojump_clock: MockClock,
) -> None:
    await trio.sleep(100)
    began_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        faults = Faults(Rolling(machines=Machines(nursery)), at_once=1, say=lambda text: None)
        faults.now_s = lambda: trio.current_time() - began_at
        plan = Fault(name="restart", parameters={"target": "all"})
        await faults.run([Step(at_s=2.0, for_s=0.1, fault=plan, seed=1)], until_s=10.0)
    (record,) = faults.records
    assert record.outages == (
        Outage(node="anna", began_at_s=2.0, ended_at_s=5.0),
        Outage(node="carl", began_at_s=5.0, ended_at_s=8.0),
    )
    assert (record.nodes, record.began_at_s, record.ended_at_s) == (("anna", "ben", "carl"), 2, 8)
    assert [(one.nodes, one.began_at_s) for one in record.each()] == [
        (("anna",), 2),
        (("carl",), 5),
    ]
