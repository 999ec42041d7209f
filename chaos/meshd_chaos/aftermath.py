"""After the faults: what must hold of the mesh when all is well again."""

from __future__ import annotations

from contextlib import suppress

import httpx
import trio

from meshd.testing.checker import Answer, Mode, Phase, Read, Seen, Tally
from meshd_chaos.clients import Clients
from meshd_chaos.job_views import JobView, decoded
from meshd_chaos.scenario import Expect
from meshd_chaos.stage import Stage
from meshd_chaos.transcript import Garbled
from meshd_chaos.workload import Planned

IDLE_S = 15.0
"""Until nothing runs any more: orphans and the runs of keys that were given up end by then."""
END_S = 30.0
"""Until whatever was asked has to have ended, counted from the heal, or from when it was asked."""
WATCH_S = END_S + 1.0
"""So long it is watched: what takes too long has to be known to."""
_POLL_S = 0.2


def must_end(expect: Expect, tally: Tally, faults: int, resumed: int) -> list[str]:
    """What the scenario itself asks for: a run that tested nothing has not passed."""
    repeated = tally.recovered_by.get("repeat", 0)
    recovered = sum(tally.recovered_by.values()) - repeated
    wanted = (
        (faults, expect.faults, "faults were injected"),
        (recovered, expect.recovered, "answers went on after their holder failed"),
        (repeated, expect.repeated, "answers were got by repeating a key elsewhere"),
        (resumed, expect.resumed, "answers went on over another link"),
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
        with trio.move_on_after(WATCH_S):
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


async def read_jobs(stage: Stage, clients: Clients) -> None:
    """Ask every node what became of each acknowledged job, for the checker.

    A node that does not answer within `WATCH_S` is asked no more: that is a violation already.
    """

    async def ask(entry: str, url: str) -> None:
        for job in clients.jobs:
            number = clients.history.called(f"after at {entry}", job, Read())
            with trio.move_on_after(WATCH_S):
                clients.history.returned(number, await _read(clients, f"{url}/mesh/v1/jobs/{job}"))
                continue
            return

    async with trio.open_nursery() as nursery:
        for entry, url in stage.entries().items():
            nursery.start_soon(ask, entry, url)


async def _read(clients: Clients, url: str) -> Seen:
    """A linearizable look, as soon as that node can have one."""
    while True:
        with suppress(httpx.HTTPError, Garbled):
            told = await clients.http.get(
                url, params={"read": "linear"}, headers=dict(clients.stage.headers), timeout=WATCH_S
            )
            if told.status_code == 200:
                return decoded(told.content, JobView).seen
            if told.status_code == 404:
                return Seen(Phase.ABSENT)
        await trio.sleep(_POLL_S)


async def nothing_runs(stage: Stage) -> list[str]:
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
