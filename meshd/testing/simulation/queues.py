"""Jobs in queues: who puts them in, who works on them, and what became of each."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from meshd.errors import MeshdError
from meshd.testing.simulation.lives import FOR_GOOD
from meshd.testing.simulation.options import Options
from meshd.testing.simulation.questions import thought_and_said
from meshd.testing.simulation.story import Story
from meshd.testing.simulation.targets import is_open
from meshd.testing.world import Machine, World

JOBS: Final = "/mesh/v1/jobs"
QUEUE: Final = "work"
LEASE_S: Final = 5.0
PAUSE_S: Final = 0.5
_WORDS: Final = 20
_LARGE: Final = "x" * 10_000


@dataclass
class Job:
    """One that was put in."""

    number: int
    order: dict[str, Any]
    is_request: bool
    """To a model; else it is for workers."""
    thoughts: str
    """What a model thinks before it says what is `expected`."""
    expected: str
    id: str = ""
    """"" until it is known to be in."""
    completed: list[tuple[int, Any]] = field(default_factory=list)
    """Fences under which workers completed it and were told so, and with what."""


@dataclass
class Queues:
    """Those of one world."""

    world: World
    options: Options
    story: Story
    chance: random.Random
    somewhere: Callable[[], Machine | None]
    jobs: list[Job] = field(default_factory=list)
    by_id: dict[str, Job] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    async def run(self, nursery: trio.Nursery) -> None:
        """Put jobs in, until cancelled; those who do live in that nursery, and go on."""
        while self.options.jobs:
            await trio.sleep(self.chance.expovariate(self.options.jobs))
            nursery.start_soon(self.put_in, self._new())

    def _new(self) -> Job:
        number = len(self.jobs)
        is_request = not self.options.workers or self.chance.random() < 0.4
        order: dict[str, Any] = {"max_attempts": 10}
        if is_request:
            text = f"Count, please. job {number}"
            body = {"model": "tiny", "max_tokens": _WORDS,
                    "messages": [{"role": "user", "content": text}]}  # fmt: skip
            order["request"] = {"path": "/v1/chat/completions", "body": body}
        else:
            payload = {"job": number, "more": _LARGE if self.chance.random() < 0.2 else ""}
            order |= {"queue": QUEUE, "payload": payload}
        job = Job(number, order, is_request, *thought_and_said(_WORDS, self.options.thoughts))
        self.jobs.append(job)
        return job

    async def put_in(self, job: Job) -> None:
        """Until it is known to be in; each time with its key, so that it is in once."""
        key = f"idempotency-key: job-{job.number}"
        while not job.id:
            if (machine := self.somewhere()) is not None:
                answer = machine.client.post(JOBS, job.order, key)
                await answer.run()
                if answer.status in (200, 201) and answer.data is not None:
                    job.id = str(answer.data["id"])
                    self.by_id[job.id] = job
                    self.story.say(machine.name, f"job {job.number} is in: {job.id}")
                    return
                if answer.status not in (0, 200, 429, 503):
                    self.violations.append(
                        f"job {job.number} was refused with {answer.status}: {answer.error}"
                    )
                    return
            await trio.sleep(PAUSE_S)

    # --- workers

    async def work(self, name: str) -> None:
        """Be a worker, until cancelled."""
        while True:
            machine = self.somewhere()
            if machine is not None:
                order = {"worker": name, "lease_s": LEASE_S, "wait_s": 5.0}
                told = await _call(machine, "POST", f"/mesh/v1/queues/{QUEUE}/claim", order)
                if told is not None and told[0] == 200:
                    for view in told[1]["jobs"]:
                        await self._do(name, view)
                    continue
            await trio.sleep(PAUSE_S)

    async def _do(self, name: str, view: dict[str, Any]) -> None:
        """What workers do with a job: most of it right, some slowly, some not at all."""
        job, fence = view["id"], view["fence"]
        known = self.by_id.get(job)
        self.story.say(name, f"works on {job} under fence {fence}")
        if known is not None and view["request"] != known.order["payload"]:
            self.violations.append(f"{name} was given {job} with another payload")
        held = {"job": job, "fence": fence, "lease_s": LEASE_S}
        match self.chance.choice(["do", "do", "do", "renew", "drop", "fail", "release", "late"]):
            case "renew":
                for _ in range(2):
                    await trio.sleep(LEASE_S / 2)
                    await self._say("renew", held)
                await self._complete(name, held)
            case "drop":
                return
            case "fail":
                await self._say("fail", held | {"reason": "no luck"})
            case "release":
                await self._say("release", held)
            case "late":
                await trio.sleep(2 * LEASE_S)
                await self._complete(name, held)
            case _:
                await trio.sleep(self.chance.uniform(0.0, 1.0))
                await self._complete(name, held)

    async def _complete(self, name: str, held: dict[str, Any]) -> None:
        """Until it is known whether that was taken."""
        result = {"by": name, "fence": held["fence"]}
        told = None
        while told is None:
            told = await self._say("complete", held | {"result": result})
            await trio.sleep(0.0 if told else PAUSE_S)
        if told == 200 and held["job"] in self.by_id:
            self.by_id[held["job"]].completed.append((held["fence"], result))

    async def _say(self, verb: str, held: dict[str, Any]) -> int | None:
        """The status; None if it is not known what came of it."""
        machine = self.somewhere()
        if machine is None:
            return None
        told = await _call(machine, "POST", f"/mesh/v1/queues/{QUEUE}/{verb}", held)
        status = None if told is None else told[0]
        self.story.say(machine.name, f"{verb} {held['job']} under {held['fence']}: {status}")
        return None if status in (None, 429, 503) else status

    # --- the end

    async def ends(self) -> list[str]:
        """What is wrong with how jobs ended, asked for at any node that knows them.

        One that joined by a snapshot never heard of jobs which were over by then.
        """
        found = list(self.violations)
        for job in self.jobs:
            if not job.id:
                found.append(f"job {job.number} was never taken")
                continue
            told = None
            for machine in filter(is_open, self.world.machines.values()):
                told = await _call(machine, "GET", f"{JOBS}/{job.id}?read=linear", None)
                if told is not None and told[0] == 200:
                    break
            if told is None or told[0] != 200:
                found.append(f"{job.id} cannot be asked for at any node: {told}")
            elif wrong := _wrong(job, told[1]):
                found.append(f"{job.id} (job {job.number}) {wrong}")
        return found


def _wrong(job: Job, view: dict[str, Any]) -> str:
    """What is wrong with the end of a job; "": nothing."""
    state, result = view["state"], view.get("result")
    if state == "dead" and view.get("tries", 0) >= view.get("max_attempts", 0):
        return "" if not job.completed else "was completed, and is dead"
    if state == "failed" and job.is_request and _was_to_fail(result):
        return ""
    if state != "done":
        return f"is {state}: {result or view.get('reason', '')}"
    if job.is_request:
        said = result["choices"][0]["message"] if result else {}
        answer = (said.get("reasoning_content") or "", said.get("content"))
        return "" if answer == (job.thoughts, job.expected) else f"was answered {answer!r}"
    given = [what for _, what in job.completed]
    if any(what != result for what in given):
        return f"has the result {result}, and was completed with {given}"
    return ""


def _was_to_fail(result: Any) -> bool:
    """Whether what was injected makes such a request fail for good."""
    message = str(result["error"]["message"]) if result else ""
    return any(words in message for words in FOR_GOOD.values())


async def _call(machine: Machine, method: str, path: str, body: Any) -> tuple[int, Any] | None:
    """None: the connection broke, or could not be made."""
    try:
        return await machine.client.call(method, path, body)
    except MeshdError:
        return None
