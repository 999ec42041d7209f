"""A run whose entry is gone: whose it is then, and that nothing of it is lost or said twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from meshd import limits
from meshd.backends import BackendFailed, RunControl
from meshd.inference import Delta, Failure, FailureKind, Usage
from meshd.relay.orphans import Orphan
from meshd.relay.serving import PeerService
from meshd.relay.sinks import AnswerItem, SinkClosed
from meshd.wire.serve import RESUME_PATH, SERVE_PATH, AnswerForm, KeyedClaim, ResumeRequest
from meshd.wire.serve import encode_resume as encode
from tests.unit.relay.test_serving import A, FakeResponder, ask, request, service

SCRIPT = [step for n in range(10) for step in (Delta(text=f" {n}"), 1.0)]
END = (Delta(finish_reason="stop"), Usage(3, 10))
TEXT = " 0 1 2 3 4 5 6 7 8 9"
DIES = Failure(FailureKind.BROKEN, "the engine's answer broke off", 502)
CLAIM = KeyedClaim(
    7, 5, AnswerForm(path="/v1/chat/completions", request_id="r", unix_s=1.0, model="m")
)


class Sink:
    """Who takes over; it may be slow, or go away after some words."""

    def __init__(self, leaves_after: int = 100, slow_s: float = 0.0) -> None:
        self.text = ""
        self.usage: Usage | None = None
        self.leaves_after, self.slow_s = leaves_after, slow_s
        self.signs = 0

    async def emit(self, items: Sequence[AnswerItem]) -> None:
        await trio.sleep(self.slow_s)
        for item in items:
            if isinstance(item, Delta):
                self.text += item.text
            elif isinstance(item, Usage):
                self.usage = item
        if len(self.text.split()) > self.leaves_after:
            raise SinkClosed("it left")

    def begun(self) -> None:
        return None

    def heard(self) -> None:
        self.signs += 1

    def sent(self, size_bytes: int) -> None:
        return None


class Mesh:
    """What the node knows of the entry, and the runs that it was given to go on with."""

    def __init__(self) -> None:
        self.gone = False
        self.orphans: list[Orphan] = []

    def asks(
        self, peers: PeerService, nursery: trio.Nursery, keyed: KeyedClaim | None = CLAIM
    ) -> FakeResponder:
        """The entry asks for an answer; the link on which it is told."""
        peers.use_adopter(self.orphans.append, lambda node: self.gone)
        link = FakeResponder()
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask(keyed=keyed)), link)
        return link


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


async def test_the_run_of_a_gone_entry_is_read_from_its_first_item(
    mesh: Mesh, autojump_clock: MockClock
) -> None:
    async with service(*SCRIPT, *END) as (peers, holder, nursery):
        link = mesh.asks(peers, nursery)
        await trio.sleep(3.5)
        mesh.gone = True
        link.abort("the entry died")
        await trio.sleep(limits.ADOPT_AFTER_S - 0.5)
        assert not mesh.orphans, "it may come back"
        await trio.sleep(1.0)
        (orphan,) = mesh.orphans
        assert (orphan.entry, orphan.claim) == (A, CLAIM)
        sink = Sink(slow_s=0.1)
        await orphan.serve(sink, RunControl())
        assert (sink.text, sink.usage) == (TEXT, Usage(3, 10))
        assert len(holder.orders) == 1, "it ran once"
        # The entry comes too late: this node answers in its place.
        late = FakeResponder()
        await peers.handle(request(RESUME_PATH, encode(ResumeRequest("r.1", 3))), late)
        assert late.status == 404


@pytest.mark.parametrize("end", [END, (DIES,)])
async def test_of_the_runs_that_a_gone_entry_has_read_to_their_end_only_whole_ones_are_gone_on_with(
    mesh: Mesh, autojump_clock: MockClock, end: tuple[object, ...]
) -> None:
    """It knew that the other one had broken off, and may have gone on elsewhere."""
    async with service(Delta(text="a"), 1.0, *end) as (peers, _, nursery):
        link = mesh.asks(peers, nursery)
        await peers.in_flight.until_none()
        await trio.sleep(1.5)
        assert link.finished
        peers.entry_gone(A, "away")
        assert len(mesh.orphans) == (end is END)


async def test_an_entry_that_seems_well_is_not_replaced(
    mesh: Mesh, autojump_clock: MockClock
) -> None:
    async with service(*SCRIPT, *END) as (peers, holder, nursery):
        link = mesh.asks(peers, nursery)
        await trio.sleep(1.5)
        link.abort("the link broke")
        await trio.sleep(limits.ORPHAN_GRACE_S + 1.0)
        assert not mesh.orphans
        assert holder.ended == ["the node that asked went away"]


@pytest.mark.parametrize("keyed", [CLAIM, None])
async def test_when_gossip_and_link_agree_only_a_keyed_run_is_gone_on_with(
    mesh: Mesh, autojump_clock: MockClock, keyed: KeyedClaim | None
) -> None:
    async with service(*SCRIPT, *END) as (peers, holder, nursery):
        mesh.asks(peers, nursery, keyed)
        await trio.sleep(1.5)
        peers.entry_gone(A, "the node that asked is away")
        await trio.sleep(0.1)
        assert len(mesh.orphans) == (keyed is not None)
        assert holder.ended == ([] if keyed else ["the node that asked is away"])
        for orphan in mesh.orphans:
            orphan.abandon("the test is over")


async def test_a_run_whose_claim_is_over_ends_if_nobody_is_there_for_it(
    mesh: Mesh, autojump_clock: MockClock
) -> None:
    async with service(*SCRIPT, *END) as (peers, holder, nursery):
        link = mesh.asks(peers, nursery)
        await trio.sleep(1.5)
        peers.claim_over(7, 5)
        await trio.sleep(0.1)
        assert holder.ended == [], "its entry is there, and knows"
        link.abort("the entry died")
        peers.claim_over(7, 4)
        await trio.sleep(0.1)
        assert holder.ended == []
        peers.claim_over(7, 5)
        await trio.sleep(0.1)
        assert holder.ended == ["its claim is over"]


async def test_who_took_it_over_and_stops_ends_the_run(
    mesh: Mesh, autojump_clock: MockClock
) -> None:
    async with service(*SCRIPT, *END) as (peers, holder, nursery):
        mesh.asks(peers, nursery)
        await trio.sleep(1.5)
        peers.entry_gone(A, "away")
        with pytest.raises(SinkClosed):
            await mesh.orphans[0].serve(Sink(leaves_after=4), RunControl())
        await peers.in_flight.until_none()
        assert len(holder.ended) == 1


async def test_an_aborted_attempt_ends_the_run_and_is_a_lost_holder(
    mesh: Mesh, autojump_clock: MockClock
) -> None:
    async with service(*SCRIPT, *END) as (peers, holder, nursery):
        mesh.asks(peers, nursery)
        await trio.sleep(1.5)
        peers.entry_gone(A, "away")
        control = RunControl()

        async def abort_soon() -> None:
            await trio.sleep(2.0)
            control.abort("its deadline")

        nursery.start_soon(abort_soon)
        with pytest.raises(BackendFailed) as caught:
            await mesh.orphans[0].serve(Sink(), control)
        assert caught.value.failure.kind is FailureKind.HOLDER_LOST
        await peers.in_flight.until_none()
        assert len(holder.ended) == 1
