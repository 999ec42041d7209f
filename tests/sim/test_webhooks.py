"""Ends of jobs are told outside: at least once, whichever node is lost, and not for ever."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.http import HttpServer, Responder, ServerOptions, ServerRequest, Sweeper
from meshd.testing.world import Machine, World, until
from tests.sim import job_orders
from tests.sim.job_orders import JOBS
from tests.sim.meshes import voters

SECRET = "sixteen characters and more"
ADDRESS = "10.9.9.9"
URL = f"http://{ADDRESS}:80/done"
SETTINGS = {"webhook_hosts": (ADDRESS,), "webhook_secret": SECRET}


class Receiver:
    """A server outside of the mesh."""

    def __init__(self) -> None:
        self.calls: list[ServerRequest] = []
        self.times: list[float] = []
        self.answers: list[int] = []
        """Statuses to come; then 204."""

    async def handle(self, request: ServerRequest, responder: Responder) -> None:
        self.calls.append(request)
        self.times.append(trio.current_time())
        status = self.answers.pop(0) if self.answers else 204
        location = [(b"location", b"http://10.9.9.9/elsewhere")] if status == 302 else []
        await responder.send(status, location, b"")

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(call.body) for call in self.calls]


@asynccontextmanager
async def meshes(names: str, **settings: Any) -> AsyncIterator[tuple[Receiver, list[Machine]]]:
    async with World.open() as world:
        receiver, sweeper = Receiver(), Sweeper()
        listener = await world.network.host("hooks", [ADDRESS]).listen_clients(ADDRESS, 80)
        server = HttpServer(receiver.handle, sweeper, options=ServerOptions())
        world.nursery.start_soon(sweeper.run)
        world.nursery.start_soon(server.serve, listener)
        machines = [await world.start(name, **SETTINGS | settings) for name in names]
        await world.settled()
        await until(lambda: all(len(voters(m)) == len(names) for m in machines), within_s=60.0)
        yield receiver, machines


async def submit(machine: Machine, **order: Any) -> str:
    return await job_orders.submit(
        machine, **{"queue": "chat", "payload": 1, "webhook": URL} | order
    )


async def finish(machine: Machine, job: str) -> None:
    _, answer = await machine.client.call("POST", "/mesh/v1/queues/chat/claim", {"wait_s": 30})
    [view] = answer["jobs"]
    held = {"job": job, "fence": view["fence"], "result": "all well"}
    assert (await machine.client.call("POST", "/mesh/v1/queues/chat/complete", held))[0] == 200


def pending(machine: Machine) -> int:
    return len(machine.running.record.ledger.state.jobs.notices)


async def test_an_end_is_told_once_by_the_node_that_took_the_job(
    autojump_clock: MockClock,
) -> None:
    async with meshes("abc") as (receiver, [a, b, c]):
        job = await submit(b)
        await finish(c, job)
        await until(lambda: pending(a) == pending(b) == pending(c) == 0)
        other = await submit(a)
        await a.client.call("DELETE", f"{JOBS}/{other}")
        await until(lambda: len(receiver.calls) == 2)
        await trio.sleep(120)
        done, cancelled = receiver.told
        assert (done["type"], cancelled["type"]) == ("job.done", "job.cancelled")
        assert done["data"]["id"] == job
        assert done["data"]["result"] == "all well"
        first = receiver.calls[0]
        assert first.method == "POST"
        assert first.path == "/done"
        assert (first.header(b"webhook-signature") or b"").startswith(b"v1,")
        ids = {call.header(b"webhook-id") for call in receiver.calls}
        assert len(ids) == 2


async def test_it_is_tried_again_later_each_time_and_a_redirect_is_not_followed(
    autojump_clock: MockClock,
) -> None:
    async with meshes("a") as (receiver, [a]):
        receiver.answers = [500, 302, 404, 503]
        job = await submit(a)
        await finish(a, job)
        _, view = await a.client.call("GET", f"{JOBS}/{job}")
        assert view["webhook"] == "to be told"
        await until(lambda: len(receiver.calls) == 5 and pending(a) == 0)
        assert {call.path for call in receiver.calls} == {"/done"}
        assert len({call.header(b"webhook-id") for call in receiver.calls}) == 1
        pauses = [b - a for a, b in zip(receiver.times, receiver.times[1:], strict=False)]
        assert [round(pause / 2**n) for n, pause in enumerate(pauses)] == [1] * 4
        assert "webhook" not in (await a.client.call("GET", f"{JOBS}/{job}"))[1]


async def test_it_is_given_up_in_the_end_and_the_job_says_so(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WEBHOOK_TRIES", 4)
    async with meshes("a") as (receiver, [a]):
        receiver.answers = [500] * 4 + [410]
        for _ in range(2):
            job = await submit(a)
            await finish(a, job)
            await trio.sleep(60)
        assert len(receiver.calls) == 5  # 410 says that nobody wants to hear more
        _, view = await a.client.call("GET", f"{JOBS}/{job}")
        assert view["webhook"] == "given up: status 410"
        await trio.sleep(600)
        assert len(receiver.calls) == 5


async def test_the_loss_of_the_node_that_was_to_tell_it_loses_nothing(
    autojump_clock: MockClock,
) -> None:
    async with meshes("abc") as (receiver, machines):
        job = await submit(machines[1])
        receiver.answers = [503] * 3
        await finish(machines[0], job)
        await until(lambda: len(receiver.calls) == 2)
        machines[1].crash()
        await until(lambda: len(receiver.calls) == 4, within_s=120)
        await until(lambda: pending(machines[0]) == 0)
        assert len({call.header(b"webhook-id") for call in receiver.calls}) == 1


async def test_a_node_that_restarts_tells_what_it_had_not(autojump_clock: MockClock) -> None:
    async with meshes("a") as (receiver, [a]):
        receiver.answers = [503]
        job = await submit(a)
        await finish(a, job)
        await until(lambda: len(receiver.calls) == 1)
        a.kill()
        await a.until_over()
        await a.start()
        await until(lambda: len(receiver.calls) == 2 and pending(a) == 0)
        assert receiver.told[1]["data"]["result"] == "all well"


async def test_without_a_majority_what_was_told_is_not_told_again(
    autojump_clock: MockClock,
) -> None:
    async with meshes("abc") as (receiver, [a, b, c]):
        job = await submit(a)
        receiver.answers = [503]
        await finish(a, job)
        await until(lambda: len(receiver.calls) == 1)
        for machine in (b, c):
            machine.crash()
            await machine.until_over()
        await trio.sleep(60)
        assert len(receiver.calls) == 2
        await b.start()
        await until(lambda: pending(a) == 0, within_s=120)
        assert len(receiver.calls) == 2


async def test_hosts_that_the_config_does_not_name_are_refused(autojump_clock: MockClock) -> None:
    async with meshes("a", webhook_hosts=("bots.example.org",)) as (_, [a]):
        order = {"queue": "chat", "payload": 1, "webhook": URL}
        status, error = await a.client.call("POST", JOBS, order)
        assert status == 400
        assert "webhook_hosts" in error["error"]["message"]
