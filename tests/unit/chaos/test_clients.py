"""Clients that live through it: where they ask, when they ask again, and what they remember."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from meshd.testing.checker import Answer, How, Mode, judge_answers
from meshd_chaos.clients import LAST_PAUSE_S, Clients
from meshd_chaos.excuses import REPEATED, Places, excused
from meshd_chaos.workload import Planned
from tests.unit.chaos.made_up_mesh import TEXT, Mesh


def planned(mode: Mode, **changes: Any) -> Planned:
    made: dict[str, Any] = {
        "name": "r1",
        "at_s": 0.0,
        "mode": mode,
        "dialect": "openai",
        "streamed": False,
        "model": "poet",
        "tokens": 2,
        "seed": 7,
    }
    return Planned(**{**made, **changes})


async def live(mesh: Mesh, request: Planned, for_s: float = 60.0) -> tuple[list[Answer], Clients]:
    """All that one client remembers, asked for so long at most."""
    transport = httpx.MockTransport(mesh.answer)
    async with httpx.AsyncClient(transport=transport) as http:
        clients = Clients(http, mesh, seed=1)
        with trio.move_on_after(for_s):
            await clients.ask(request)
    return clients.answers, clients


async def test_an_unkeyed_client_asks_once_and_where_it_is_let_in(
    autojump_clock: MockClock,
) -> None:
    for away, who in (("anna", "ben"), ("ben", "anna")):
        (answer,), _ = await live(Mesh(away={away}), planned(Mode.WHOLE))
        assert (answer.entry, answer.how, answer.text) == (who, How.WHOLE, TEXT)


async def test_an_unkeyed_client_that_is_refused_does_not_ask_again(
    autojump_clock: MockClock,
) -> None:
    mesh = Mesh(status={"anna": 503, "ben": 503})
    (answer,), _ = await live(mesh, planned(Mode.WHOLE))
    assert (answer.how, answer.status, answer.cause) == (How.REFUSED, 503, "not now")
    assert len(mesh.asked) == 1


async def test_where_nobody_lets_it_in_the_request_was_never_accepted(
    autojump_clock: MockClock,
) -> None:
    (answer,), _ = await live(Mesh(away={"anna", "ben"}), planned(Mode.WHOLE))
    assert (answer.how, answer.accepted) == (How.REFUSED, False)


@pytest.mark.parametrize("refusing", ["anna", "ben"])
async def test_a_client_with_a_key_asks_elsewhere_with_the_same_key(
    refusing: str, autojump_clock: MockClock
) -> None:
    mesh = Mesh()
    mesh.status[refusing] = 503
    answers, clients = await live(mesh, planned(Mode.KEYED, asks_again=True))
    assert {key for _, _, key in mesh.asked} == {"chaos-1-r1"}
    assert answers[-1].how is How.WHOLE
    assert all(one.excuse == REPEATED for one in answers if one.how is not How.WHOLE)
    assert len({one.request for one in answers}) == len(answers)
    tally = judge_answers(excused(answers, [], Places(holders={}, voters=[])))
    assert (tally.violations, tally.failed, clients.under_way) == ([], 0, 0)


async def test_a_key_that_gets_no_answer_is_still_under_way_between_its_tries(
    autojump_clock: MockClock,
) -> None:
    mesh = Mesh(status={"anna": 503, "ben": 503})
    transport = httpx.MockTransport(mesh.answer)
    async with httpx.AsyncClient(transport=transport) as http, trio.open_nursery() as nursery:
        clients = Clients(http, mesh, seed=1)
        nursery.start_soon(clients.ask, planned(Mode.KEYED))
        await trio.sleep(30)
        assert (clients.sent, clients.under_way) == (1, 1)
        assert 30 / LAST_PAUSE_S <= len(mesh.asked) < 30, "it asks again, and not in a storm"
        nursery.cancel_scope.cancel()
    assert clients.under_way == 0


async def test_a_key_that_has_two_answers_is_found(autojump_clock: MockClock) -> None:
    mesh = Mesh(said={"anna": TEXT, "ben": " one too"})
    answers, _ = await live(mesh, planned(Mode.KEYED, asks_again=True))
    assert judge_answers(answers).doubled == 1


@pytest.mark.parametrize("mode", [Mode.STREAMED, Mode.WHOLE, Mode.KEYED, Mode.QUEUED])
@pytest.mark.parametrize("raw", [b"<html>", b"data: {", b"{}", b"[]", b'{"id": 1}', b"\xff"])
async def test_an_answer_that_is_no_answer_is_a_violation_of_that_request_and_no_more(
    mode: Mode, raw: bytes, autojump_clock: MockClock
) -> None:
    mesh = Mesh(raw={"anna": raw, "ben": raw})
    streamed = mode is Mode.STREAMED
    answers, clients = await live(mesh, planned(mode, streamed=streamed, dialect="ollama"))
    assert answers[0].how is How.GARBLED
    tally = judge_answers(answers)
    assert "wrong: the answer to r1" in "".join(tally.violations)
    assert "sent what is no event: " in "".join(tally.violations)
    assert clients.under_way == 0


async def test_the_last_half_of_a_line_is_no_answer_either(autojump_clock: MockClock) -> None:
    line = b'{"message":{"content":" one two"},"done":true,"done_reason":"length"}'
    for rest, how in ((b"", How.WHOLE), (b'{"mess', How.GARBLED)):
        mesh = Mesh(raw=dict.fromkeys(("anna", "ben"), line + b"\n" + rest))
        (answer,), _ = await live(mesh, planned(Mode.STREAMED, streamed=True, dialect="ollama"))
        assert answer.how is how


@pytest.mark.parametrize("asks_again", [False, True])
async def test_where_nobody_lets_it_in_nothing_was_lost_that_a_repeat_could_recover(
    asks_again: bool, autojump_clock: MockClock
) -> None:
    mesh = Mesh(away={"anna"})
    answers: list[Answer] = []
    for seed in range(6):
        more, _ = await live(mesh, planned(Mode.KEYED, asks_again=asks_again, seed=seed))
        answers += more
    assert any(one.cause.startswith("no connection") for one in answers)
    assert not any(one.seams for one in answers)


@pytest.mark.parametrize(("asks_again", "seams"), [(False, 1), (True, 0)])
async def test_a_repeat_recovers_what_broke_off_and_not_what_its_client_has_already(
    asks_again: bool, seams: int, autojump_clock: MockClock
) -> None:
    class Breaking(Mesh):
        def answer(self, request: httpx.Request) -> httpx.Response:
            breaks = len(self.asked) == int(asks_again)
            response = super().answer(request)
            if breaks:
                raise httpx.ReadError("reset")
            return response

    answers, _ = await live(Breaking(), planned(Mode.KEYED, asks_again=asks_again))
    assert [one.how for one in answers].count(How.BROKEN) == 1
    assert sum(len(one.seams) for one in answers) == seams


async def test_a_job_is_put_in_where_it_is_taken_and_waited_for_anywhere(
    autojump_clock: MockClock,
) -> None:
    (answer,), clients = await live(Mesh(away={"anna"}), planned(Mode.QUEUED))
    assert (answer.how, answer.text, answer.accepted) == (How.WHOLE, TEXT, True)
    assert clients.jobs == {"j1": "chaos-1-r1"}


async def test_a_job_that_never_ends_was_accepted_and_is_lost(autojump_clock: MockClock) -> None:
    mesh = Mesh(states={"anna": "queued", "ben": "queued"})
    answers, _ = await live(mesh, planned(Mode.QUEUED))
    assert [(one.how, one.accepted) for one in answers] == [(How.SILENT, True)]
    assert judge_answers(answers).lost == 1
