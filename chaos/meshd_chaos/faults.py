"""The faults of a run: when each begins and ends, and what cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import trio

from meshd.errors import MeshdError
from meshd_chaos.nemeses import CannotInject
from meshd_chaos.records import FaultRecord, NotTested, Outage, Value
from meshd_chaos.schedule import Step
from meshd_chaos.stage import Stage


class Faults:
    """Carries out steps, each at its time, and heals what is left."""

    def __init__(self, stage: Stage, *, at_once: int, say: Callable[[str], None]) -> None:
        self._stage, self._say = stage, say
        self._turns = trio.Semaphore(at_once)
        self._in_force: dict[int, tuple[Step, int]] = {}
        """Steps to heal, and where their records are; by the step's identity."""
        self.records: list[FaultRecord] = []
        self.not_tested: list[NotTested] = []
        self.not_healed: list[str] = []
        """Sentences: what the harness itself could not put right."""
        self.now_s: Callable[[], float] = trio.current_time

    @property
    def in_force(self) -> list[str]:
        """The sentences of those that are not healed yet."""
        return [self.records[place].did for _, place in self._in_force.values()]

    async def run(self, steps: Sequence[Step], until_s: float) -> None:
        """All steps; those whose turn does not come until then are left out."""
        names = {step.fault.name for step in steps}
        self.not_tested += self._stage.not_tested(names)
        impossible = {fault.name for fault in self.not_tested}
        for fault in self.not_tested:
            self._say(f"not tested: {fault.name}: {fault.why}")
        began_at = trio.current_time() - self.now_s()
        async with trio.open_nursery() as nursery:
            for step in steps:
                if step.fault.name not in impossible:
                    await trio.sleep_until(began_at + step.at_s)
                    nursery.start_soon(self._carry_out, step, until_s)

    async def _carry_out(self, step: Step, until_s: float) -> None:
        async with self._turns:
            if self.now_s() >= until_s:
                return
            # What was begun is known to be in force, or did not happen: never in between.
            with trio.CancelScope(shield=True):
                await self._inject(step)
            await trio.sleep(step.for_s)
            await self._heal(step)

    async def _inject(self, step: Step) -> None:
        began_at_s = self.now_s()
        name = step.fault.name
        try:
            injected = await self._stage.inject(step)
        except CannotInject as error:
            self.not_tested.append(NotTested(name=name, why=str(error), at_s=began_at_s))
            self._say(f"not tested: {name}: {error}")
            return
        record = FaultRecord(
            name=name,
            parameters={key: _value(value) for key, value in step.fault.parameters.items()},
            nodes=injected.nodes,
            did=injected.did,
            began_at_s=began_at_s,
        )
        self.records.append(record)
        self._say(injected.did)
        self._in_force[id(step)] = (step, len(self.records) - 1)

    async def heal_all(self) -> None:
        """End all that is in force."""
        for step, _ in list(self._in_force.values()):
            await self._heal(step)

    async def _heal(self, step: Step) -> None:
        if id(step) not in self._in_force:
            return
        with trio.CancelScope(shield=True):
            outages = None
            try:
                outages = await self._stage.heal(step)
            except MeshdError as error:
                self.not_healed.append(f"{step.fault.name} could not be healed: {error}")
            _, place = self._in_force.pop(id(step))
            record = self.records[place]
            self.records[place] = msgspec.structs.replace(
                record, ended_at_s=self.now_s(), outages=self._in_time(outages)
            )

    def _in_time(self, outages: Sequence[Outage] | None) -> tuple[Outage, ...] | None:
        """The same in the time of the run."""
        if outages is None:
            return None
        began_at = trio.current_time() - self.now_s()
        return tuple(
            Outage(
                node=outage.node,
                began_at_s=outage.began_at_s - began_at,
                ended_at_s=None if outage.ended_at_s is None else outage.ended_at_s - began_at,
            )
            for outage in outages
        )


def _value(value: object) -> Value:
    return value if isinstance(value, str | int | float | bool) else str(value)
