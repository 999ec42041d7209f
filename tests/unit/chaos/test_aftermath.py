"""The end of a run: whatever is not well again is found, one planted violation after the other."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import msgspec
import pytest
import trio

from meshd.testing.checker import Answer, How, Mode, Piece, Seam, judge_answers
from meshd_chaos.aftermath import look_back, must_end
from meshd_chaos.clients import Clients
from meshd_chaos.run import with_first_tokens
from meshd_chaos.scenario import Expect
from tests.unit.chaos.made_up_mesh import Mesh


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
    went_on = answer("r", "continue", "regenerate")
    *_, last = with_first_tokens([*undisturbed, went_on])
    assert [seam.first_token_s for seam in last.seams] == [0.2, 0.2]
    assert with_first_tokens([went_on]) == [went_on]
