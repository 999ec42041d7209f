"""The end of a run: whatever is not well again is found, one planted violation after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import pytest
import trio

from meshd.control import NodeRow, StatusReport
from meshd.testing.checker import Answer, How, Mode, Piece, Seam, judge_answers
from meshd_chaos.aftermath import look_back, must_end
from meshd_chaos.clients import Clients
from meshd_chaos.excuses import Places
from meshd_chaos.records import NotTested
from meshd_chaos.run import with_first_tokens
from meshd_chaos.scenario import Expect
from meshd_chaos.schedule import Step
from meshd_chaos.stage import Injected
from meshd_chaos.workload import Planned

TEXT = " one two"


@dataclass
class Mesh:
    """A healed mesh of two nodes, in which everything is as it should be; and a stage."""

    said: dict[str, str] = field(default_factory=lambda: {"anna": TEXT, "ben": TEXT})
    states: dict[str, str] = field(default_factory=lambda: {"anna": "done", "ben": "done"})
    running: dict[str, int] = field(default_factory=lambda: {"anna": 0, "ben": 0})
    status = 200
    models: tuple[str, ...] = ("poet",)
    nodes: tuple[str, ...] = ("anna", "ben")
    headers: Mapping[str, str] = field(default_factory=dict)

    def answer(self, request: httpx.Request) -> httpx.Response:
        name = request.url.host
        if request.url.path.startswith("/mesh/v1/jobs/"):
            return httpx.Response(200, json={"id": "j1", "state": self.states[name]})
        choice = {"message": {"content": self.said[name]}, "finish_reason": "length"}
        body = {"id": "c", "created": 1, "model": "poet", "choices": [choice]}
        return httpx.Response(self.status, content=json.dumps(body))

    def entries(self) -> Mapping[str, str]:
        return {name: f"http://{name}" for name in self.nodes}

    def prompt(self, request: str) -> str:
        return request

    def fit(self, requests: Sequence[Planned]) -> list[Planned]:
        return list(requests)

    def expected(self, planned: Planned) -> tuple[str | None, str | None]:
        return TEXT, "length"

    async def places(self) -> Places:
        return Places(holders={}, voters=[])

    def not_tested(self, names: set[str]) -> list[NotTested]:
        return []

    async def inject(self, step: Step) -> Injected:
        raise NotImplementedError

    async def heal(self, step: Step) -> None:
        raise NotImplementedError

    async def whole_again(self, timeout_s: float) -> list[str]:
        return []

    async def statuses(self) -> Mapping[str, StatusReport]:
        return {name: report(name, count) for name, count in self.running.items()}


def report(name: str, running: int) -> StatusReport:
    zero: dict[str, Any] = {"models": 1, "warm": 1, "queued": 0, "slots": 4, "seen_s": None}
    node = NodeRow(
        id=name, name=name, addresses=[], state="self", version="1", founder=False, drained=False,
        running=running, **zero,
    )  # fmt: skip
    about: dict[str, Any] = {"version": "1", "mesh": "m", "members_version": 1, "client_url": ""}
    return StatusReport(
        node=node, peer_port=1, pid=1, uptime_s=1.0, nodes=[], backends=[], models=1, counters={},
        problems=[], **about,
    )  # fmt: skip


async def found(mesh: Mesh) -> list[str]:
    transport = httpx.MockTransport(mesh.answer)
    async with httpx.AsyncClient(transport=transport) as http:
        clients = Clients(http, mesh, seed=1, jobs={"j1": "k1"})
        return await look_back(mesh, clients)


def spoil(change: Callable[[Mesh], object]) -> Mesh:
    mesh = Mesh()
    change(mesh)
    return mesh


async def test_nothing_is_found_in_a_mesh_that_is_well(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert await found(Mesh()) == []


@pytest.mark.parametrize(
    ("mesh", "told"),
    [
        (spoil(lambda m: m.said.update(ben=" one")),
         "after the heal ben, asked for poet, said ' one' instead of ' one two'"),
        (spoil(lambda m: setattr(m, "status", 503)),
         "after the heal anna, asked for poet, gave no whole answer: refused"),
        (spoil(lambda m: m.states.update(ben="queued")),
         "job j1 was accepted, and the nodes say of it: anna: done, ben: queued"),
        (spoil(lambda m: m.states.update(anna="claimed", ben="claimed")),
         "job j1 was accepted, and the nodes say of it: anna: claimed, ben: claimed"),
        (spoil(lambda m: m.running.update(ben=2)),
         "ben still runs 2 and has 0 waiting, though nobody waits for an answer"),
    ],
)  # fmt: skip
async def test_each_thing_that_is_not_well_is_told(
    mesh: Mesh, told: str, autojump_clock: trio.testing.MockClock
) -> None:
    assert any(told in sentence for sentence in await found(mesh))


def answer(request: str, *ways: str) -> Answer:
    seams = [Seam(way=way, at_s=1.0, gap_s=0.5) for way in ways]
    return Answer(
        request=request, mode=Mode.STREAMED, dialect="openai", model="poet", entry="anna",
        sent_at_s=0.0, ended_at_s=2.0, how=How.WHOLE, accepted=True, seams=seams,
    )  # fmt: skip


def test_a_run_that_tested_nothing_has_not_passed() -> None:
    tally = judge_answers([answer("r1", "continue"), answer("r2", "repeat"), answer("r3")])
    assert must_end(Expect(faults=1, recovered=1, repeated=1), tally, faults=1) == []
    for expect, told in (
        (Expect(faults=2), "1 faults were injected, and the scenario wants 2 at least"),
        (Expect(recovered=2), "1 answers went on after their holder failed"),
        (Expect(repeated=2), "1 answers were got by repeating a key elsewhere"),
    ):
        (sentence,) = must_end(expect, tally, faults=1)
        assert told in sentence


def test_of_a_gap_the_usual_wait_for_a_first_token_is_known() -> None:
    undisturbed = [
        msgspec.structs.replace(answer(f"r{wait}"), pieces=[Piece(wait / 10, "a")])
        for wait in (1, 2, 9)
    ]
    went_on = answer("r", "continue", "resume")
    *_, last = with_first_tokens([*undisturbed, went_on])
    assert [seam.first_token_s for seam in last.seams] == [0.2, 0.2]
    assert with_first_tokens([went_on]) == [went_on]
