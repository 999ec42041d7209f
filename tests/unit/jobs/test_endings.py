"""Asking others how a job ended: whom, for how long, and what of their answers is believed."""

from __future__ import annotations

import msgspec
import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.errors import MeshdError
from meshd.ids import NodeId
from meshd.jobs.endings import Endings
from meshd.jobs.finished import FinishedJob
from meshd.record.job_rows import job_name
from meshd.wire.control import Message
from meshd.wire.control_record import Ending, EndingRequest

JOB = 1024
OVER = FinishedJob(id=job_name(JOB), state="done", accepted_ms=1, finished_ms=2, result=b"[1]")


def node(name: str) -> NodeId:
    return NodeId(name * 26)


class Others:
    """What each other node says, and in which order they were asked."""

    def __init__(self, **told: bytes | None) -> None:
        self.told = {node(name): row for name, row in told.items()}
        self.asked: list[str] = []

    async def ask(self, to: NodeId, message: Message, timeout_s: float) -> Message:
        assert message == EndingRequest(job=JOB)
        self.asked.append(to[0])
        row = self.told[to]
        if row is None:
            await trio.sleep(timeout_s)
            raise MeshdError("no answer in time")
        return Ending(row=row)

    def endings(self, *voters: str) -> Endings:
        return Endings(
            self.ask, lambda: list(self.told), lambda: [*map(node, voters)], lambda count: 0
        )


def row_of(job: FinishedJob) -> bytes:
    return msgspec.msgpack.encode(job)


async def test_voters_are_asked_first_and_the_first_who_knows_is_believed() -> None:
    others = Others(a=row_of(OVER), b=b"", c=row_of(OVER), d=b"")
    assert await others.endings("b", "c").find(JOB) == OVER
    assert others.asked == ["b", "c"]


@pytest.mark.parametrize(
    "row",
    [
        b"\xc1",
        msgspec.msgpack.encode({"id": job_name(JOB)}),
        row_of(msgspec.structs.replace(OVER, id=job_name(2 * JOB))),
        row_of(msgspec.structs.replace(OVER, result=b"x" * (limits.INLINE_BYTES + 1))),
    ],
)
async def test_what_is_no_ending_of_that_job_is_passed_over(row: bytes) -> None:
    others = Others(a=row, b=row_of(OVER))
    assert await others.endings("a", "b").find(JOB) == OVER
    assert await Others(a=row).endings("a").find(JOB) is None


async def test_nodes_that_do_not_answer_hold_up_nobody_for_longer_than_all_may_take(
    autojump_clock: MockClock,
) -> None:
    silent = dict.fromkeys("abcdefgh")
    others = Others(**silent)
    began_at = trio.current_time()
    assert await others.endings("a").find(JOB) is None
    assert trio.current_time() - began_at == limits.ENDING_S
    assert await Others(a=None, b=row_of(OVER)).endings("a").find(JOB) == OVER


async def test_of_others_without_a_vote_only_some_are_asked() -> None:
    names = [chr(ord("a") + number) for number in range(24)]
    others = Others(**dict.fromkeys(names, b""))
    assert await others.endings("x").find(JOB) is None
    assert len(others.asked) == limits.OTHERS_ASKED + 1
