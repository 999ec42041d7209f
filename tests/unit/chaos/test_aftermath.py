"""The end of a run: what is still at work, what it tested at all, what a gap was made of."""

from __future__ import annotations

import msgspec
import trio

from meshd.testing.checker import Answer, How, Mode, Piece, Seam, judge_answers
from meshd_chaos.aftermath import must_end, nothing_runs
from meshd_chaos.run import with_first_tokens
from meshd_chaos.scenario import Expect
from tests.unit.chaos.made_up_mesh import Mesh


async def test_a_node_that_is_still_at_something_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert await nothing_runs(Mesh()) == []
    told = "ben still runs 2 and has 0 waiting, though nobody waits for an answer"
    assert await nothing_runs(Mesh(running={"anna": 0, "ben": 2})) == [told]


def answer(request: str, *ways: str) -> Answer:
    seams = [Seam(way=way, at_s=1.0, gap_s=0.5) for way in ways]
    return Answer(
        request=request, mode=Mode.STREAMED, dialect="openai", model="poet", entry="anna",
        sent_at_s=0.0, ended_at_s=2.0, how=How.WHOLE, accepted=True, seams=seams,
    )  # fmt: skip


def test_a_run_that_tested_nothing_has_not_passed() -> None:
    tally = judge_answers([answer("r1", "continue"), answer("r2", "repeat"), answer("r3")])
    assert must_end(Expect(faults=1, recovered=1, repeated=1, resumed=1), tally, 1, resumed=1) == []
    for expect, told in (
        (Expect(faults=2), "1 faults were injected, and the scenario wants 2 at least"),
        (Expect(recovered=2), "1 answers went on after their holder failed"),
        (Expect(resumed=2), "1 answers went on over another link"),
        (Expect(repeated=2), "1 answers were got by repeating a key elsewhere"),
    ):
        (sentence,) = must_end(expect, tally, 1, resumed=1)
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
