"""One key asked for again and again, anywhere, while links break and daemons die."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from meshd.testing.memory_client import MemoryAnswer
from meshd.testing.memory_engine import MemoryEngine
from meshd.testing.models import expected_text
from meshd.testing.world import Machine, World, until
from tests.sim.meshes import three
from tests.sim.test_keyed_streams import over, said

TOKENS = 40
OVER_S = 200.0
"""Longer than any run with all its leases."""


class Weather:
    """What goes wrong, and who asks meanwhile; all of it follows from the seed."""

    def __init__(self, world: World, nodes: list[Machine], chance: random.Random) -> None:
        self.world, self.nodes, self.chance = world, nodes, chance
        self.answers: list[tuple[Machine, MemoryAnswer]] = []
        self.killed: set[str] = set()

    def ask(self) -> MemoryAnswer:
        """The same request, at a node whose daemon runs."""
        machine = self.chance.choice([node for node in self.nodes if node.node is not None])
        answer = machine.client.openai("tiny", "idempotency-key: k", max_tokens=TOKENS)
        self.answers.append((machine, answer))
        self.world.nursery.start_soon(answer.run)
        return answer

    async def blow(self) -> None:
        """A few accidents, each of which passes."""
        network, chance = self.world.network, self.chance
        for _ in range(chance.randint(1, 3)):
            await trio.sleep(chance.uniform(0.1, 4.0))
            a, b = chance.sample(self.nodes, 2)
            lasts_s = chance.uniform(1.0, 12.0)
            match chance.choice(["reset", "isolate", "partition", "kill"]):
                case "reset":
                    network.reset(a.name, b.name)
                case "isolate":
                    network.isolate(a.name)
                    await trio.sleep(lasts_s)
                    network.rejoin(a.name)
                case "partition":
                    network.partition(a.name, b.name, one_way=chance.random() < 0.5)
                    await trio.sleep(lasts_s)
                    network.heal(a.name, b.name)
                case "kill":
                    self.killed.add(a.name)
                    a.kill()
                    await a.until_over()
                    await trio.sleep(lasts_s / 2)
                    await a.start()


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_no_two_clients_see_two_ends_of_one_key(
    autojump_clock: MockClock, seed: int
) -> None:
    chance = random.Random(seed)
    async with World.open(seed=seed) as world:
        engines = [MemoryEngine("tiny", tokens_per_s=chance.choice([5, 10, 40])) for _ in "bc"]
        nodes = list(await three(world, *engines))
        weather = Weather(world, nodes, chance)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(weather.blow)
            for _ in range(chance.randint(3, 8)):
                weather.ask()
                await trio.sleep(chance.uniform(0.0, 1.5))
        await over(*(answer for _, answer in weather.answers), within_s=OVER_S)
        await world.settled()
        final = weather.ask()
        await over(final, within_s=OVER_S)
        while final.how == "refused" and final.status == 503:  # the record has no leader yet
            await trio.sleep(1.0)
            final = weather.ask()
            await over(final, within_s=OVER_S)
        assert (final.how, final.text) == ("whole", expected_text(max_tokens=TOKENS)), final.error
        for machine, answer in weather.answers:
            match answer.how:
                case "whole":
                    assert said(answer) == said(final)
                case "refused":
                    assert answer.status in (502, 503), answer.error
                case "broken":
                    assert machine.name in weather.killed, answer.broken
                case how:
                    assert how == "error", "no answer is cut"
        await until(lambda: not any(n.running.jobs.keyed.in_flight.count for n in nodes))
        assert not any(node.running.room.held_bytes for node in nodes)
