"""One run of whole nodes with accidents, by seed: `python -m tests.sim.replay SEED [FILE]`.

Prints how many events there were and the hash of all of them; FILE gets a line for each, so that
two runs that ought to be equal can be compared.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import structlog
import trio
from trio.testing import MockClock

from meshd.testing.memory_engine import Dialect, Fault, MemoryEngine
from meshd.testing.schedule import Trace
from meshd.testing.world import World, until

LASTS_S = 12.0


async def run(seed: int, *, keep_lines: bool = False) -> Trace:
    """Three nodes, a request every half second, and something goes wrong every second."""
    dice = random.Random(seed)
    async with World.open(seed=seed) as world:
        trace = world.network.trace
        trace.lines = [] if keep_lines else None
        for name, dialect in (("a", Dialect.LLAMA_CPP), ("b", Dialect.OLLAMA), ("c", None)):
            engines = [MemoryEngine("tiny", dialect)] if dialect else []
            await world.start(name, *engines)
        await world.settled()
        machines = list(world.machines.values())
        answers = []
        ends_at = trio.current_time() + LASTS_S
        while trio.current_time() < ends_at:
            for _ in range(2):
                machine = dice.choice(machines)
                if machine.node is not None:
                    count = dice.choice([3, 50, 300])
                    answers.append(machine.client.openai("tiny", max_tokens=count))
                    world.nursery.start_soon(answers[-1].run)
                await trio.sleep(dice.random())
            machine = dice.choice(machines)
            match dice.randrange(4):
                case 0 if machine.node is not None:
                    machine.kill()
                    await machine.until_over()
                    await machine.start()
                case 1:
                    world.network.isolate(machine.name)
                    await trio.sleep(dice.random() * 3)
                    world.network.rejoin(machine.name)
                case 2 if machine.engines:
                    machine.engines[0].fault = dice.choice([Fault.DIE, Fault.HANG_LATER])
                case 3:
                    machine.clock.jump_wall(dice.choice([-3600, 3600]))
        await until(lambda: all(answer.over for answer in answers), within_s=600.0)
        for answer in answers:
            trace.note(f"{answer.how} by {answer.holder}", answer.text.encode())
        return trace


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    keep = len(sys.argv) > 2
    clock = MockClock(autojump_threshold=0)
    seed = int(sys.argv[1])

    async def traced() -> Trace:
        return await run(seed, keep_lines=keep)

    trace = trio.run(traced, clock=clock)
    if keep:
        Path(sys.argv[2]).write_text("\n".join(trace.lines or []) + "\n")
    print(trace.events, trace.digest)


if __name__ == "__main__":
    main()
