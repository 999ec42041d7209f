"""After the faults: what must hold of the mesh when all is well again."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import msgspec
import trio

from meshd.testing.checker import Answer, Mode, Tally
from meshd_chaos.clients import Clients, JobView
from meshd_chaos.scenario import Expect
from meshd_chaos.stage import Stage
from meshd_chaos.workload import Planned

AGREE_S = 15.0
"""Until all nodes say the same of all jobs: each applies the log by itself."""
IDLE_S = 15.0
"""Until nothing runs any more: orphans and the runs of keys that were given up end by then."""
END_S = 30.0
"""Until whatever was asked has to have ended, counted from the heal, or from when it was asked."""
_POLL_S = 0.2


async def look_back(stage: Stage, clients: Clients) -> list[str]:
    """All checks of the healed mesh; a sentence for each thing that is not so."""
    found = await _agree(stage, clients)
    found += await _nothing_runs(stage)
    return found


def must_end(expect: Expect, tally: Tally, faults: int) -> list[str]:
    """What the scenario itself asks for: a run that tested nothing has not passed."""
    repeated = tally.recovered_by.get("repeat", 0)
    recovered = sum(tally.recovered_by.values()) - repeated
    wanted = (
        (faults, expect.faults, "faults were injected"),
        (recovered, expect.recovered, "answers went on after their holder failed"),
        (repeated, expect.repeated, "answers were got by repeating a key elsewhere"),
    )
    return [
        f"{count} {what}, and the scenario wants {least} at least: it tested too little"
        for count, least, what in wanted
        if count < least
    ]


async def ask_anew(stage: Stage, clients: Clients) -> list[Answer]:
    """A new request for each model through each entry of the healed mesh, for the checker: each has
    to be answered whole."""
    answers: list[Answer] = []

    async def ask(entry: str, model: str) -> None:
        (planned,) = stage.fit([_last_question(entry, model)])
        tried = clients.begin(planned, planned.name, entry)
        with trio.move_on_after(END_S):
            await clients.post(planned, tried)
        answers.append(clients.lived(planned, tried))

    async with trio.open_nursery() as nursery:
        for entry in stage.entries():
            for model in stage.models:
                nursery.start_soon(ask, entry, model)
    return sorted(answers, key=lambda answer: answer.request)


def _last_question(entry: str, model: str) -> Planned:
    return Planned(
        name=f"after-{entry}-{model}",
        at_s=0.0,
        mode=Mode.WHOLE,
        dialect="openai",
        streamed=False,
        model=model,
        tokens=5,
        seed=0,
    )


async def _agree(stage: Stage, clients: Clients) -> list[str]:
    """Every node's record says the same of each acknowledged job, and that it is over."""
    problems: list[str] = []
    with trio.move_on_after(AGREE_S):
        while True:
            problems = await _disagreements(stage, clients)
            if not problems:
                break
            await trio.sleep(_POLL_S)
    return problems


async def _disagreements(stage: Stage, clients: Clients) -> list[str]:
    found: list[str] = []
    entries = stage.entries()
    for job in clients.jobs:
        seen: dict[str, str] = {}

        async def look(entry: str, url: str, job: str = job, seen: dict[str, str] = seen) -> None:
            seen[entry] = await _job(clients.http, stage.headers, f"{url}/mesh/v1/jobs/{job}")

        async with trio.open_nursery() as nursery:
            for entry, url in entries.items():
                nursery.start_soon(look, entry, url)
        if len(set(seen.values())) > 1 or not set(seen.values()) <= {"done", "failed", "dead"}:
            words = ", ".join(f"{entry}: {state}" for entry, state in sorted(seen.items()))
            found.append(f"job {job} was accepted, and the nodes say of it: {words}")
    return found


async def _job(http: httpx.AsyncClient, headers: Mapping[str, str], url: str) -> str:
    try:
        answer = await http.get(url, headers=dict(headers), timeout=END_S)
    except httpx.HTTPError as error:
        return repr(error)
    if answer.status_code != 200:
        return str(answer.status_code)
    try:
        return msgspec.json.decode(answer.content, type=JobView).state
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"what is no job ({error})"


async def _nothing_runs(stage: Stage) -> list[str]:
    """No node is at anything any more."""
    found: list[str] = []
    with trio.move_on_after(IDLE_S):
        while True:
            statuses = await stage.statuses()
            found = [
                f"{name} still runs {status.node.running} and has {status.node.queued} waiting, "
                "though nobody waits for an answer"
                for name, status in sorted(statuses.items())
                if status.node.running or status.node.queued
            ]
            if not found:
                break
            await trio.sleep(_POLL_S)
    return found
