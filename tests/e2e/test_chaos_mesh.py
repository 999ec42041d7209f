"""The harness's mesh: real daemons whose links can be broken, and what becomes of their answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from random import Random

import httpx
import msgspec
import psutil
import pytest
import trio

from meshd.testing.models import expected_text
from meshd_chaos.mesh import Mesh
from meshd_chaos.nemeses import NEMESES

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None, reason="the bundled engine is not installed"
)

TOKENS = 90
NEVER_S = 60.0


async def answer(mesh: Mesh, entry: str, begun: trio.Event | None = None) -> tuple[str, str]:
    """The text of a streamed answer, and who held it at first."""
    body = {
        "model": "poet",
        "messages": [{"role": "user", "content": "Count, please."}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
    }
    text, url = "", f"{mesh.entries()[entry]}/v1/chat/completions"
    async with (
        httpx.AsyncClient(timeout=NEVER_S) as client,
        client.stream("POST", url, json=body) as stream,
    ):
        assert stream.status_code == 200
        async for line in stream.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                assert "error" not in event, event
                text += "".join(c["delta"].get("content") or "" for c in event["choices"])
            if begun is not None and text:
                begun.set()
        return text, stream.headers["x-meshd-node"]


@pytest.mark.timeout(180)
async def test_streams_outlive_what_the_nemeses_do_and_the_mesh_is_whole_again() -> None:
    async with Mesh.open(3, seed=1) as mesh:
        whole = expected_text(mesh.models["poet"], max_tokens=TOKENS)
        addresses = {
            name: {node.name: node.addresses for node in status.nodes}
            for name, status in (await mesh.health()).statuses.items()
        }
        for seen in addresses.values():
            assert seen == {name: [m.public] for name, m in mesh.machines.items()}

        for name in ("kill-backend", "zombie"):
            nemesis = msgspec.convert({"target": "holder"}, NEMESES[name])
            answers: list[str] = []

            async def ask(entry: str, begun: trio.Event, answers: list[str] = answers) -> None:
                answers.append((await answer(mesh, entry, begun))[0])

            async with trio.open_nursery() as nursery:
                for entry in mesh.entries():
                    begun = trio.Event()
                    nursery.start_soon(ask, entry, begun)
                    await begun.wait()
                hit = await nemesis.inject(mesh, Random(name))
                assert set(hit.nodes) <= set(mesh.entries())
            assert answers == [whole] * 3, hit.did
            await nemesis.heal(mesh)
            await mesh.heal()
            assert all(link.is_well for link in mesh.links)

        victim = mesh.machines[(await mesh.health()).leader]
        victim.kill()
        entry = next(machine.name for machine in mesh.running())
        assert (await answer(mesh, entry))[0] == whole
        await mesh.heal()
        assert (await answer(mesh, victim.name))[0] == whole


HARNESS = """
import trio
from meshd_chaos.mesh import Mesh

async def main():
    async with Mesh.open(1, seed=1) as mesh:
        (machine,) = mesh.machines.values()
        machine.freeze()
        print(machine.pid, machine.engines[0].process.pid, mesh.folder, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_the_harness_nothing_of_it_is_left(end: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(
        [sys.executable, "-c", HARNESS], stdout=subprocess.PIPE, env=environment, text=True
    ) as harness:
        assert harness.stdout is not None
        *pids, folder = harness.stdout.readline().split()
        processes = [psutil.Process(int(pid)) for pid in pids]
        harness.send_signal(end)
        assert harness.wait(NEVER_S) != 0
    assert not psutil.wait_procs(processes, timeout=NEVER_S)[1]
    if end is signal.SIGINT:
        assert not Path(folder).exists()
