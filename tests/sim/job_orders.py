"""Jobs that are put in at whole nodes, and looked at until they are so."""

from __future__ import annotations

from typing import Any

import trio

from meshd.testing.world import Machine

CHAT = {
    "path": "/v1/chat/completions",
    "body": {"model": "tiny", "messages": [{"role": "user", "content": "Say something."}]},
}
JOBS = "/mesh/v1/jobs"


async def submit(machine: Machine, **order: Any) -> str:
    status, made = await machine.client.call("POST", JOBS, order)
    assert status == 201, made
    return str(made["id"])


async def until_state(machine: Machine, job: str, state: str, within_s: float = 60.0) -> Any:
    give_up_at = trio.current_time() + within_s
    while True:
        status, view = await machine.client.call("GET", f"{JOBS}/{job}")
        if status == 200 and view["state"] == state:
            return view
        assert trio.current_time() < give_up_at, (status, view)
        await trio.sleep(0.1)
