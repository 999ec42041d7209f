"""The rest of an answer over another link: nothing lost, nothing said twice, nobody for ever."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from meshd import limits
from meshd.errors import StreamBroken
from meshd.inference import Delta, Usage
from meshd.relay.outgoing import GONE
from meshd.relay.serving import PeerService
from meshd.wire.answer import AnswerReader, AnswerWriter, FrameKind, frames_after
from meshd.wire.serve import RESUME_PATH, SERVE_PATH, ResumeRequest
from meshd.wire.serve import encode_resume as encode
from tests.unit.relay.test_serving import B, FakeResponder, ask, request, service

SCRIPT = [step for n in range(10) for step in (Delta(text=f" {n}"), 1.0)]
END = (Delta(finish_reason="stop"), Usage(3, 10))


def text_of(body: bytes, reader: AnswerReader) -> str:
    return "".join(
        item.text for frame in reader.feed(body) for item in frame.items if isinstance(item, Delta)
    )


async def resume(
    peers: PeerService, nursery: trio.Nursery, after: int, name: str = "r.1"
) -> FakeResponder:
    responder = FakeResponder()
    asked = request(RESUME_PATH, encode(ResumeRequest(name, after)))
    nursery.start_soon(peers.handle, asked, responder)
    await trio.sleep(0.01)
    return responder


async def test_the_rest_comes_over_another_link(autojump_clock: MockClock) -> None:
    async with service(*SCRIPT, *END) as (peers, holder, nursery):
        first, reader = FakeResponder(), AnswerReader()
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask()), first)
        await trio.sleep(3.5)
        text = text_of(first.body, reader)
        first.abort("the link broke")
        await trio.sleep(2.0)
        second = await resume(peers, nursery, reader.seq)
        reader.on_another_link()
        await peers.in_flight.until_none()
        text += text_of(second.body, reader)
    assert text == " 0 1 2 3 4 5 6 7 8 9"
    assert reader.complete
    assert len(holder.orders) == 1, "it ran once"


async def test_it_is_sent_from_any_item_on(autojump_clock: MockClock) -> None:
    async with service(*SCRIPT, *END) as (peers, _, nursery):
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask()), FakeResponder())
        await trio.sleep(4.5)  # five items are said; the entry read two of them
        second = await resume(peers, nursery, after=2)
        await peers.in_flight.until_none()
    assert text_of(second.body, AnswerReader(seq=2)) == " 2 3 4 5 6 7 8 9"


async def test_a_link_of_which_only_the_entry_knows_that_it_broke_is_given_up(
    autojump_clock: MockClock,
) -> None:
    async with service(*SCRIPT, *END) as (peers, _, nursery):
        first = FakeResponder()
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask()), first)
        await trio.sleep(2.5)
        said = len(first.body)
        second = await resume(peers, nursery, after=3)
        await peers.in_flight.until_none()
        assert first.broken
        assert len(first.body) == said
    assert text_of(second.body, AnswerReader(seq=3)).endswith(" 9")


class StuckResponder(FakeResponder):
    """A link that takes nothing more, and whose break is noticed late."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck = False
        self.noticed = trio.Event()

    async def write(self, data: bytes) -> None:
        if self.stuck:
            await self.noticed.wait()
            raise StreamBroken("reset by the other side")
        await super().write(data)

    def write_nowait(self, data: bytes) -> bool:
        return not self.stuck and super().write_nowait(data)


async def test_a_new_link_hears_no_beat_before_what_it_lacks(autojump_clock: MockClock) -> None:
    async with service(Delta(text="a"), 1.0, Delta(text="b"), 9.0, *END) as (peers, _, nursery):
        first, reader = StuckResponder(), AnswerReader()
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask()), first)
        await trio.sleep(0.5)
        first.stuck = True
        await trio.sleep(1.0)  # "b" waits to be written on the first link
        second = await resume(peers, nursery, after=1)
        await trio.sleep(3 * limits.BEAT_S)
        first.noticed.set()
        await peers.in_flight.until_none()
    reader = AnswerReader(seq=1)
    assert text_of(second.body, reader) == "b"
    assert reader.complete


async def test_the_end_waits_for_the_next_link(autojump_clock: MockClock) -> None:
    async with service(Delta(text="all"), 1.0, *END) as (peers, _, nursery):
        first = FakeResponder()
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask()), first)
        await trio.sleep(0.5)
        first.abort("the link broke")
        await trio.sleep(limits.ORPHAN_GRACE_S - 0.5)
        second = await resume(peers, nursery, after=1)
        assert second.finished
    kinds = [frame.kind for frame in AnswerReader(seq=1).feed(second.body)]
    assert kinds == [FrameKind.DELTA, FrameKind.USAGE, FrameKind.LOAD, FrameKind.END]


async def test_a_run_that_nobody_comes_back_for_ends(autojump_clock: MockClock) -> None:
    async with service(1.0, Delta(text="a"), 3000.0, *END) as (peers, holder, nursery):
        first = FakeResponder()
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask()), first)
        await trio.sleep(2.0)
        first.abort("the link broke")
        left_at = trio.current_time()
        await peers.in_flight.until_none()
        assert holder.ended == [GONE]
        assert limits.ORPHAN_GRACE_S <= trio.current_time() - left_at <= limits.ORPHAN_GRACE_S + 1


async def test_what_is_not_there_is_refused(autojump_clock: MockClock) -> None:
    async with service(*SCRIPT, *END) as (peers, _, nursery):
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask()), FakeResponder())
        await trio.sleep(2.5)
        unknown = await resume(peers, nursery, 1, "r.2")
        future = await resume(peers, nursery, 99)
        stranger = FakeResponder()
        asked = request(RESUME_PATH, encode(ResumeRequest("r.1", 1)), B)
        await peers.handle(asked, stranger)  # type: ignore[arg-type]
        await peers.in_flight.until_none()
        await trio.sleep(limits.RESUME_WINDOW_S)
        over = await resume(peers, nursery, 1)
    assert (unknown.status, future.status, stranger.status, over.status) == (404, 410, 404, 404)


async def test_an_answer_that_ended_can_be_had_for_a_while(autojump_clock: MockClock) -> None:
    async with service(*SCRIPT, *END) as (peers, holder, nursery):
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask()), FakeResponder())
        await trio.sleep(11.0)
        assert not peers.in_flight.count
        await trio.sleep(limits.RESUME_WINDOW_S - 2.0)
        again = await resume(peers, nursery, after=7)
    reader = AnswerReader(seq=7)
    assert text_of(again.body, reader) == " 7 8 9"
    assert reader.complete
    assert len(holder.orders) == 1


async def test_what_was_said_too_long_ago_is_not_kept(autojump_clock: MockClock) -> None:
    large = [Delta(text="x" * 500_000)] * 12
    async with service(*large, 5.0, *END) as (peers, _, nursery):
        nursery.start_soon(peers.handle, request(SERVE_PATH, ask()), FakeResponder())
        await trio.sleep(1.0)
        early = await resume(peers, nursery, 1)
        late = await resume(peers, nursery, 8)
        await peers.in_flight.until_none()
    assert early.status == 410
    assert text_of(late.body, AnswerReader(seq=8)) == "x" * 2_000_000


@given(st.lists(st.text(max_size=5), min_size=1, max_size=8), st.data())
def test_frames_are_cut_between_items(texts: list[str], data: st.DataObject) -> None:
    before = data.draw(st.integers(0, 100))
    frames = AnswerWriter(before).items([Delta(text=text) for text in texts])
    after = before + data.draw(st.integers(0, len(texts)))
    rest = frames_after(frames, before, after)
    assert text_of(rest, AnswerReader(seq=after)) == "".join(texts[after - before :])
