"""Going on with runs whose entry is gone: what one of them does wrong costs the node nothing."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from meshd.api.adopting import Adoptions
from meshd.http import Room
from meshd.ids import NodeId
from meshd.inference import Kind, Request
from meshd.relay.orphans import Orphan
from meshd.wire.serve import AnswerForm, KeyedClaim, ServeRequest


class Record:
    """That the claim stands, and whose it is."""

    def __init__(self) -> None:
        self.moved: list[int] = []

    def holds(self, job: int, fence: int) -> bool:
        return True

    async def move(self, job: int, fence: int) -> object:
        self.moved.append(job)
        return object()


class Keyed:
    """Who goes on with runs; one of them goes wrong."""

    def __init__(self) -> None:
        self.went_on = 0

    async def go_on(self, run: object, work: object) -> None:
        self.went_on += 1
        if self.went_on == 1:
            raise RuntimeError("a bug")


class Source:
    """What the run says."""


def orphan(unix_s: float, job: int = 7) -> Orphan:
    form = AnswerForm(path="/v1/chat/completions", request_id="r", unix_s=unix_s, model="m")
    claim = KeyedClaim(job, 5, form)
    asked = ServeRequest(
        request_id="x", backend="", model="m", request=Request(Kind.CHAT, "m"), keyed=claim
    )
    return Orphan(NodeId("entry"), asked, claim, Source())  # type: ignore[arg-type]


@pytest.mark.parametrize("unix_s", [math.inf, math.nan])
async def test_a_run_that_cannot_be_gone_on_with_ends_alone(
    autojump_clock: MockClock, unix_s: float
) -> None:
    record, keyed = Record(), Keyed()
    adoptions = Adoptions(record, keyed, None, Room(1 << 20), str)  # type: ignore[arg-type]
    bad, failing, good = orphan(unix_s), orphan(1.0, 8), orphan(1.0, 9)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(adoptions.run)
        for one in (bad, failing, good):
            adoptions.take(one)
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert record.moved == [8, 9], "the claim of what cannot be answered is not taken"
    assert keyed.went_on == 2
    assert all(one.control.aborted for one in (bad, failing, good)), "their runs are ended"
